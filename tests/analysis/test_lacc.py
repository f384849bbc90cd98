import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter1d

from t2imu_utils.analysis import lacc
from t2imu_utils.analysis.lacc import (
    TERMS,
    clip_losses,
    common_noise,
    freeze_in_time,
    paired_difference,
    smooth_in_time,
)
from t2imu_utils.errors import InputError
from t2imu_utils.models.generator import family
from t2imu_utils.models.mdm import MDMConfig, new_prior
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from tests.conftest import WordEncoder

STEPS = [1, 10, 19]


@pytest.fixture(scope="session")
def clips() -> list[MotionClip]:
    rng = np.random.default_rng(7)
    made = []
    for i, frames in enumerate((24, 9, 17, 12, 30)):
        phase = np.linspace(0, 4, frames)[:, None] + 6 * rng.random(263)
        features = (0.2 * np.sin(phase)).astype(np.float32)
        features[:, 259:] = rng.integers(0, 2, (frames, 4))
        made.append(MotionClip(f"clip{i}", features, ["a person moves " + "on " * i, "other"]))
    return made


@pytest.fixture(scope="session")
def prior(clips):
    everything = np.concatenate([clip.features for clip in clips])
    normaliser = Normaliser(everything.mean(0), everything.std(0) + 0.05)
    config = MDMConfig(
        layers=1, width=16, heads=2, feedforward=32, dropout=0.0, max_frames=24, diffusion_steps=20
    )
    return new_prior(config, normaliser, WordEncoder(), seed=1)


def losses(prior, clips, **settings):
    settings = {"timesteps": STEPS, "seed": 0, **settings}
    return clip_losses(family("mdm").denoiser(prior, "cpu"), clips, **settings, progress=False)


class Repeats:
    """A denoiser without noise whose guess is what it was shown; writes down what that was."""

    max_frames, stride, levels = 24, 4, 1

    def __init__(self, normaliser):
        self.normaliser, self.shown = normaliser, {}

    def __call__(self, clips, x0, mask, level, noise):
        for clip, row, valid in zip(clips, x0, mask, strict=True):
            self.shown[clip.name] = row[valid].numpy()
        return x0


def test_noise_depends_on_clip_timestep_and_seed_alone():
    noise = common_noise("a", 3, 0, 20)
    assert_allclose(noise[:9], common_noise("a", 3, 0, 9))
    for other in (("b", 3, 0), ("a", 4, 0), ("a", 3, 1)):
        assert abs(np.corrcoef(noise.ravel(), common_noise(*other, 20).ravel())[0, 1]) < 0.1
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_batches_change_nothing(prior, clips):
    whole = losses(prior, clips, batch_size=32)
    single = losses(prior, clips[::-1], batch_size=1)
    assert_allclose(whole[list(TERMS)], single[list(TERMS)], rtol=1e-4)
    assert not np.allclose(whole["acc"], losses(prior, clips, seed=1)["acc"], rtol=1e-3)
    # The prior takes 24 frames; the clip of 30 is cut, and its row says so.
    assert whole.groupby("clip")["frames"].first().tolist() == [24, 9, 17, 12, 24]


def test_a_denoiser_is_shown_normalised_clips_of_its_own_lengths(prior, clips):
    denoise = Repeats(prior.normaliser)
    table = clip_losses(denoise, clips, [0], seed=0, batch_size=2, progress=False)
    # 30 frames are more than it takes, 9 and 17 are no multiples of 4.
    assert table["frames"].tolist() == [24, 8, 16, 12, 24]
    for clip, frames in zip(clips, table["frames"], strict=True):
        expected = prior.normaliser.normalise(clip.features[:frames])
        assert_allclose(denoise.shown[clip.name], expected, rtol=1e-5, atol=1e-6)
    # Feet that slide do so in the truth as well: all other terms are errors.
    assert (table[[term for term in TERMS if term != "foot"]] == 0).all(axis=None)


def test_smoothing_is_a_gaussian_within_the_clip():
    x = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 40, dtype=bool)
    mask[1, 25:] = False
    smooth = smooth_in_time(x, mask, sigma=1.0)
    wanted = gaussian_filter1d(x[0].numpy(), 1.0, axis=0)
    assert_allclose(smooth[0, 4:-4].numpy(), wanted[4:-4], atol=2e-6)
    x[1, 25:] = 1e6
    assert_allclose(smooth_in_time(x, mask)[1, :25].numpy(), smooth[1, :25].numpy())
    frozen = freeze_in_time(torch.arange(40.0)[None, :, None].repeat(2, 1, 3), mask)
    assert_allclose(frozen[:, :, 0].numpy(), [[19.5] * 40, [12.0] * 40])


def made(delta, clips=40, seed=0):
    """A table before and one after, with a known change for each clip and noise in common."""
    rng = np.random.default_rng(seed)
    names = [f"c{i:03d}" for i in range(clips)]
    level = rng.uniform(0.05, 0.15, (clips, 3))
    keys = [(n, t) for n in names for t in STEPS]
    before = pd.DataFrame(keys, columns=["clip", "timestep"]).assign(acc=level.ravel())
    change = np.broadcast_to(np.asarray(delta, dtype=float), clips)
    groups = pd.DataFrame({"clip": names, "category": "walking", "unit": names})
    return before, before.assign(acc=(level + change[:, None]).ravel()), groups


def test_a_known_change_is_found():
    before, after, groups = made(np.repeat([-0.02, -0.005], [10, 30]))
    groups["category"] = ["running"] * 10 + ["walking"] * 30
    found = paired_difference(before, after.sample(frac=1, random_state=0), groups)
    table = found.set_index("group")
    assert table.index[-1] == lacc.CONTRAST
    relative = table["relative"]
    expected = relative["high-dynamic"] - relative["low-dynamic"]
    assert relative[lacc.CONTRAST] == pytest.approx(expected)
    table = table.iloc[:-1]
    assert table.index.tolist() == ["running", "walking", "high-dynamic", "low-dynamic", "all"]
    assert table["clips"].tolist() == [10, 30, 10, 30, 40]
    assert_allclose(table["delta"], [-0.02, -0.005, -0.02, -0.005, -0.00875])
    # Common random numbers: whatever differs between clips cancels where the change is one.
    assert_allclose(table.loc["running", ["delta_low", "delta_high"]].astype(float), -0.02)
    assert_allclose(table["relative"], table["delta"] / table["before"])
    # Of one split alone.
    part = paired_difference(before, after, groups[:10]).set_index("group")
    assert part.loc["all", "clips"] == 10 and part.loc["all", "delta"] == pytest.approx(-0.02)
    with pytest.raises(InputError, match="same clips"):
        paired_difference(before, after[3:], groups)


def test_trials_are_resampled_whole_and_measure_the_effect():
    trial = np.repeat(np.arange(8), 5)
    shift = np.random.default_rng(2).normal(0, 0.02, 8)
    before, after, groups = made(shift[trial])
    alone = paired_difference(before, after, groups).iloc[0]
    together = paired_difference(before, after, groups.assign(unit=trial)).iloc[0]
    assert (alone["units"], together["units"]) == (40, 8)
    width = [r["delta_high"] - r["delta_low"] for r in (alone, together)]
    assert width[1] > 1.6 * width[0]
    assert together["effect_size"] == pytest.approx(shift.mean() / shift.std(ddof=1))
    of_unit = [t.assign(unit=np.repeat(trial, 3)).groupby("unit")["acc"].mean()
               for t in (before, after)]  # fmt: skip
    assert together["median"] == pytest.approx((of_unit[1] / of_unit[0] - 1).median())
    single = paired_difference(before, after, groups.assign(unit="only")).iloc[0]
    assert single[["delta_low", "effect_size"]].isna().all()


def test_seeds_are_paired_and_their_spread_enters_the_interval():
    before, after, groups = made(-0.02)
    # Each seed halves what is left of its own control, whatever that is.
    controls = [before.assign(acc=level * before["acc"]) for level in (0.5, 1.0, 2.0)]
    halved = [x.assign(acc=x["acc"] / 2) for x in controls]
    row = paired_difference(controls, halved, groups).set_index("group").loc["all"]
    assert row["seeds"] == 3
    assert_allclose(row[["relative", "sd", "low", "high"]].astype(float), [-0.5, 0, -0.5, -0.5])
    row = paired_difference([before] * 3, halved, groups).set_index("group").loc["all"]
    assert row["sd"] == pytest.approx(np.std([-0.75, -0.5, 0], ddof=1))
    assert row["low"] < -0.75 and row["high"] > 0
