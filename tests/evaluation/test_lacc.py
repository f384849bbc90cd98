import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter1d

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.lacc import (
    TERMS,
    bootstrap_means,
    clip_losses,
    common_noise,
    dynamic_contrast,
    freeze_in_time,
    levels_of,
    paired_difference,
    smooth_in_time,
)
from t2imu_utils.generators import family
from t2imu_utils.priors.diffusion import schedule

STEPS = [1, 10, 19]


def losses(prior, clips, **settings):
    settings = {"timesteps": STEPS, "seed": 0, **settings}
    return clip_losses(family("mdm").denoiser(prior, "cpu"), clips, **settings, progress=False)


class Repeats:
    """A denoiser without noise whose guess is what it was shown; writes down what that was."""

    max_frames, stride, levels = 24, 4, 1

    def __init__(self, normaliser):
        self.normaliser, self.shown = normaliser, {}

    def __call__(self, clips, x0, mask, level, noise):
        for clip, row, valid, t in zip(clips, x0, mask, level.tolist(), strict=True):
            self.shown[clip.name] = row[valid].numpy(), t
        return x0


def test_noise_depends_on_clip_timestep_and_seed_alone():
    noise = common_noise("a", 3, 0, 20)
    assert noise.shape == (20, 263) and noise.dtype == np.float32
    assert_allclose(noise, common_noise("a", 3, 0, 20))
    assert_allclose(noise[:9], common_noise("a", 3, 0, 9))
    for other in (("b", 3, 0), ("a", 4, 0), ("a", 3, 1)):
        assert abs(np.corrcoef(noise.ravel(), common_noise(*other, 20).ravel())[0, 1]) < 0.1
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_one_row_a_clip_and_timestep(prior, clips):
    table = losses(prior, clips)
    assert len(table) == len(clips) * len(STEPS)
    assert table[list(TERMS)].notna().all(axis=None) and (table[list(TERMS)] >= 0).all(axis=None)
    # The prior takes 24 frames; the clip of 30 is cut, and that is told.
    assert table.groupby("clip")["frames"].first().tolist() == [24, 9, 17, 12, 24]


def test_batches_change_nothing(prior, clips):
    whole = losses(prior, clips, batch_size=32)
    single = losses(prior, clips[::-1], batch_size=1)
    part = losses(prior, clips[2:4], timesteps=STEPS[::-1], batch_size=3)
    assert_allclose(whole[list(TERMS)], single[list(TERMS)], rtol=1e-4)
    chosen = whole[whole["clip"].isin(["clip2", "clip3"])]
    assert_allclose(chosen[list(TERMS)], part[list(TERMS)], rtol=1e-4)
    assert not np.allclose(whole["acc"], losses(prior, clips, seed=1)["acc"], rtol=1e-3)


def test_losses_are_those_of_the_definition(prior, clips):
    clip, t = clips[2], 10
    x0 = prior.normaliser.normalise(clip.features)
    noise = common_noise(clip.name, t, 0, len(x0))
    alpha = schedule(20).alphas_cumprod[t].item()
    x_t = torch.tensor(np.sqrt(alpha) * x0 + np.sqrt(1 - alpha) * noise)[None].float()
    text, valid = prior.text_encoder.encode(clip.captions[:1])
    with torch.inference_mode():
        mask = torch.ones(1, len(x0), dtype=bool)
        x0_hat = prior.model.eval()(x_t, torch.tensor([t]), text, valid, mask)[0].numpy()
    error = np.diff(x0 - x0_hat, n=2, axis=0) ** 2
    row = losses(prior, [clip], timesteps=[t]).iloc[0]
    assert row["simple"] == pytest.approx(((x0 - x0_hat) ** 2).mean(), rel=1e-4)
    assert row["acc"] == pytest.approx(error.mean(1).sum() / (len(x0) - 1), rel=1e-4)


def test_references_of_the_same_pass(prior, clips):
    table = losses(prior, clips, references=True)
    plain = losses(prior, clips)
    model = table[table["estimate"] == "model"].reset_index(drop=True)
    assert_allclose(model[list(TERMS)], plain[list(TERMS)])
    constant = table[table["estimate"] == "constant"].set_index(["clip", "timestep"])
    # A frozen estimate errs by the truth's own second difference, at every timestep the same.
    x0 = prior.normaliser.normalise(clips[2].features)
    own = (np.diff(x0, n=2, axis=0) ** 2).mean(1).sum() / (len(x0) - 1)
    assert_allclose(constant.loc["clip2", "acc"], own, rtol=1e-4)
    gaussian = table[table["estimate"] == "gaussian"]["acc"]
    assert not np.allclose(gaussian, model["acc"], rtol=1e-3)


def test_a_denoiser_is_shown_normalised_clips_in_its_own_steps(prior, clips):
    denoise = Repeats(prior.normaliser)
    table = clip_losses(denoise, clips, [0], seed=0, batch_size=2, progress=False)
    # 30 frames are more than it takes, 9 and 17 are no multiples of 4.
    assert table["frames"].tolist() == [24, 8, 16, 12, 24]
    for clip, frames in zip(clips, table["frames"], strict=True):
        shown, level = denoise.shown[clip.name]
        expected = prior.normaliser.normalise(clip.features[:frames])
        assert_allclose(shown, expected, rtol=1e-5, atol=1e-6)
        assert level == 0
    # Feet that slide do so in the truth as well: all other terms are errors.
    assert (table[[term for term in TERMS if term != "foot"]] == 0).all(axis=None)
    with pytest.raises(InputError, match="timesteps from 0 to 0"):
        clip_losses(denoise, clips, STEPS, seed=0, progress=False)


def test_levels_are_as_far_along_as_the_timesteps():
    timesteps = [2, 12, 22, 32, 42]
    assert levels_of(timesteps, 50, 50) == timesteps
    assert levels_of(timesteps, 50, 1000) == [40, 240, 440, 640, 840]
    assert levels_of([42, 2], 50, 10) == [0, 8]
    # A tokeniser has one level: asked once.
    assert levels_of(timesteps, 50, 1) == [0]


def test_smoothing_is_a_gaussian_within_the_clip():
    x = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 40, dtype=bool)
    mask[1, 25:] = False
    smooth = smooth_in_time(x, mask, sigma=1.0)
    wanted = gaussian_filter1d(x[0].numpy(), 1.0, axis=0)
    assert_allclose(smooth[0, 4:-4].numpy(), wanted[4:-4], atol=2e-6)
    spoiled = x.clone()
    spoiled[1, 25:] = 1e6
    assert_allclose(smooth_in_time(spoiled, mask)[1, :25].numpy(), smooth[1, :25].numpy())
    constant = torch.full((1, 12, 2), 3.0)
    assert_allclose(smooth_in_time(constant, mask[:1, :12]).numpy(), 3.0, rtol=1e-6)


def test_freezing_ignores_padding():
    x = torch.arange(6.0).reshape(1, 6, 1)
    mask = torch.tensor([[True, True, True, True, False, False]])
    assert_allclose(freeze_in_time(x, mask).numpy(), 1.5)


def test_bad_questions_are_refused(prior, clips):
    with pytest.raises(InputError, match="timesteps"):
        losses(prior, clips, timesteps=[20])
    with pytest.raises(InputError, match="name seen before"):
        losses(prior, [clips[0], clips[0]])


def made(delta, clips=40, seed=0):
    """A table before and one after, with a known change for each clip and noise in common."""
    rng = np.random.default_rng(seed)
    names = [f"c{i:03d}" for i in range(clips)]
    level = rng.uniform(0.05, 0.15, (clips, 3))
    keys = [(n, t) for n in names for t in STEPS]
    before = pd.DataFrame(keys, columns=["clip", "timestep"]).assign(acc=level.ravel())
    change = np.broadcast_to(np.asarray(delta, dtype=float), clips)
    return before, before.assign(acc=(level + change[:, None]).ravel()), names


def test_a_known_change_is_found():
    category = ["running"] * 10 + ["walking"] * 30
    before, after, names = made(np.repeat([-0.02, -0.005], [10, 30]))
    groups = pd.DataFrame({"clip": names, "category": category})
    table = paired_difference(before, after, groups).set_index("group")
    assert table.index.tolist() == ["running", "walking", "high-dynamic", "low-dynamic", "all"]
    assert table["clips"].tolist() == [10, 30, 10, 30, 40]
    assert_allclose(table["delta"], [-0.02, -0.005, -0.02, -0.005, -0.00875])
    # Common random numbers: whatever differs between clips cancels where the change is one.
    assert_allclose(table.loc["running", ["delta_low", "delta_high"]].astype(float), -0.02)
    assert_allclose(table["after"], table["before"] + table["delta"])
    assert_allclose(table["relative"], table["delta"] / table["before"])
    contrast = dynamic_contrast(before, after, groups)
    assert_allclose([contrast[k] for k in ("difference", "low", "high")], -0.015)


def test_the_result_is_seeded_and_independent_of_row_order():
    before, after, names = made(np.random.default_rng(1).normal(-0.01, 0.02, 40))
    groups = pd.DataFrame({"clip": names, "category": "walking"})
    table = paired_difference(before, after, groups, seed=4)
    mixed = paired_difference(before[::-1], after.sample(frac=1, random_state=0), groups, seed=4)
    pd.testing.assert_frame_equal(table, mixed)
    other = paired_difference(before, after, groups, seed=5)
    assert table["delta_low"][0] != other["delta_low"][0]


def test_intervals_cover_the_true_change():
    hits = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        before, after, names = made(rng.normal(-0.01, 0.02, 40), seed=trial)
        groups = pd.DataFrame({"clip": names, "category": "walking"})
        row = paired_difference(before, after, groups, draws=300, seed=trial).iloc[0]
        hits += row["delta_low"] <= -0.01 <= row["delta_high"]
    assert 0.89 <= hits / 200 <= 0.985


def test_units_are_resampled_whole():
    trial = np.repeat(np.arange(8), 5)
    shift = np.random.default_rng(2).normal(0, 0.02, 8)[trial]
    before, after, names = made(shift)
    groups = pd.DataFrame({"clip": names, "category": "walking"})
    alone = paired_difference(before, after, groups).iloc[0]
    together = paired_difference(before, after, groups.assign(unit=trial)).iloc[0]
    assert (alone["units"], together["units"]) == (40, 8)
    width = [r["delta_high"] - r["delta_low"] for r in (alone, together)]
    assert width[1] > 1.6 * width[0]
    assert together["delta"] == pytest.approx(alone["delta"])
    single = paired_difference(before, after, groups.assign(unit="only")).iloc[0]
    assert np.isnan(single["delta_low"]) and np.isnan(single["effect_size"])


def test_effect_size_is_mean_over_spread():
    change = np.random.default_rng(3).normal(-0.01, 0.005, 40)
    before, after, names = made(change)
    groups = pd.DataFrame({"clip": names, "category": "sitting"})
    row = paired_difference(before, after, groups).iloc[-1]
    assert row["effect_size"] == pytest.approx(change.mean() / change.std(ddof=1))


def test_bootstrap_means_have_the_standard_error():
    values = np.random.default_rng(0).normal(5, 2, (100, 1))
    drawn = bootstrap_means(values, np.arange(100), 4000, 0)[:, 0]
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.02)
    assert drawn.std() == pytest.approx(values.std() / 10, rel=0.05)


def test_tables_that_do_not_match_are_refused():
    before, after, names = made(-0.01)
    groups = pd.DataFrame({"clip": names, "category": "walking"})
    for first, second, table in (
        (before, after[1:], groups),
        (pd.concat([before, before]), after, groups),
        (before, after, groups[1:]),
        (before, after, pd.concat([groups, groups])),
    ):
        with pytest.raises(InputError):
            paired_difference(first, second, table)
    with pytest.raises(InputError, match="both kinds"):
        dynamic_contrast(before, after, groups)
