import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.priors import training
from t2imu_utils.priors.checkpoints import new_prior
from t2imu_utils.priors.diffusion import schedule
from t2imu_utils.priors.losses import LossWeights
from t2imu_utils.priors.training import TrainConfig, ema_decay_at, train

CONFIG = TrainConfig(
    steps=12, batch_size=4, learning_rate=1e-3, max_frames=16, checkpoint_every=5, ema_decay=0.9
)


def run(prior, clips, folder, config=CONFIG, validation=()):
    return train(prior, clips, config, folder, validation, progress=False)


def weights(prior):
    return torch.cat([p.flatten() for p in prior.model.state_dict().values()])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_training_ends_bit_for_bit_where_a_whole_one_ends(
    prior, clips, encoder, tmp_path, monkeypatch, dropout
):
    prior = new_prior(replace(prior.config, dropout=dropout), prior.normaliser, encoder, 3)
    whole, curves = run(prior, clips, tmp_path / "whole", validation=clips[:3])
    real, calls = training.batch_losses, []

    def interrupt(*arguments, **named):
        calls.append(1)
        if len(calls) > 8:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "batch_losses", interrupt)
        run(prior, clips, tmp_path / "parts", validation=clips[:3])
    torch.randn(100)
    with monkeypatch.context() as patch:
        calls.clear()
        patch.setattr(training, "batch_losses", interrupt)
        resumed, again = run(prior, clips, tmp_path / "parts", validation=clips[:3])
    assert len(calls) == 7 + 1
    assert torch.equal(weights(whole), weights(resumed))
    assert curves.equals(again)


def test_a_finished_training_is_not_run_again(prior, clips, tmp_path, monkeypatch):
    first, curves = run(prior, clips, tmp_path)
    monkeypatch.setattr(training, "draw_batch", None)
    second, again = run(prior, clips, tmp_path)
    assert torch.equal(weights(first), weights(second)) and curves.equals(again)


STOPPED = replace(CONFIG, early_stopping=True, validate_every=2, learning_rate=1e-2)


def unlike(clips):
    """Held-out clips that are the less like what is predicted the more is learnt."""
    return [replace(clip, features=-clip.features) for clip in clips[:4]]


def test_early_stopping_returns_the_weights_of_the_lowest_held_out_loss(prior, clips, tmp_path):
    held_out = unlike(clips)
    stopped, curves = run(prior, clips, tmp_path, STOPPED, held_out)
    assert curves[curves.split == "train"]["step"].tolist() == list(range(1, 13))
    checks = curves[curves.split == "validation"].drop(columns="split").reset_index(drop=True)
    assert checks["step"].tolist() == [2, 4, 6, 8, 10, 12]
    best = checks.loc[checks["simple"].idxmin()]
    assert best["step"] < 12
    entry = stopped.history[-1]
    assert entry["validation"] == best.to_dict() and entry["config"]["early_stopping"] is True
    # They are those of a training that ends there.
    steps = int(best["step"])
    plain = replace(STOPPED, early_stopping=False)
    short, _ = run(prior, clips, tmp_path, replace(plain, steps=steps))
    last, others = run(prior, clips, tmp_path, plain, held_out)
    assert torch.equal(weights(stopped), weights(short))
    assert not torch.equal(weights(stopped), weights(last)) and curves.equals(others)
    assert last.history[-1]["validation"]["step"] == 12 and not stopped.model.training


def test_where_the_last_weights_are_the_best_they_are_returned(prior, clips, tmp_path):
    stopped, curves = run(prior, clips, tmp_path, STOPPED, clips)
    assert curves[curves.split == "validation"]["simple"].is_monotonic_decreasing
    last, _ = run(prior, clips, tmp_path, replace(STOPPED, early_stopping=False), clips)
    assert torch.equal(weights(stopped), weights(last))


def test_early_stopping_goes_by_l_simple_whatever_the_arm_is_trained_on(prior, clips, tmp_path):
    """So that arms are stopped by the same measure."""
    arm = replace(STOPPED, weights=LossWeights(acc=50.0))
    stopped, curves = run(prior, clips, tmp_path, arm, unlike(clips))
    checks = curves[curves.split == "validation"]
    by = {term: checks.loc[checks[term].idxmin(), "step"] for term in ("simple", "total")}
    assert by["simple"] != by["total"]
    assert stopped.history[-1]["validation"]["step"] == by["simple"]


def test_an_interrupted_training_remembers_its_best(prior, clips, tmp_path, monkeypatch):
    held_out = unlike(clips)
    whole, curves = run(prior, clips, tmp_path / "whole", STOPPED, held_out)
    draw, drawn = training.draw_batch, []

    def interrupt(data, config, levels, step):
        drawn.append(step)
        if len(drawn) == 12:
            raise KeyboardInterrupt
        return draw(data, config, levels, step)

    monkeypatch.setattr(training, "draw_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(prior, clips, tmp_path / "parts", STOPPED, held_out)
    resumed, again = run(prior, clips, tmp_path / "parts", STOPPED, held_out)
    assert drawn == [*range(12), 10, 11]
    assert whole.history[-1]["validation"]["step"] <= 10 and whole.history == resumed.history
    assert torch.equal(weights(whole), weights(resumed)) and curves.equals(again)
    # So does one that had ended.
    finished, _ = run(prior, clips, tmp_path / "parts", STOPPED, held_out)
    assert len(drawn) == 14 and torch.equal(weights(whole), weights(finished))


def test_without_held_out_clips_there_is_no_early_stopping(prior, clips, tmp_path):
    with pytest.raises(InputError, match="early_stopping: found no held-out clips"):
        run(prior, clips, tmp_path, STOPPED)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_of_zero_is_the_control_bit_for_bit(prior, clips, tmp_path):
    control, _ = run(prior, clips, tmp_path)
    zero = LossWeights(acc_variant="spectrum")
    arm, curves = run(prior, clips, tmp_path, replace(CONFIG, weights=zero))
    assert torch.equal(weights(control), weights(arm))
    assert curves["acc"].isna().all()


@pytest.mark.parametrize(
    ("variant", "weight"), [("features", 1.0), ("joints", 0.01), ("spectrum", 0.1)]
)
def test_lambda_acc_changes_the_weights_and_lowers_l_acc(prior, clips, tmp_path, variant, weight):
    config = replace(CONFIG, steps=60, checkpoint_every=60)
    accs, ends = [], []
    for acc in (0.0, weight):
        chosen = replace(config, weights=LossWeights(acc=acc, acc_variant=variant))
        trained, curves = run(prior, clips, tmp_path, chosen, clips)
        accs.append(curves[curves.split == "validation"]["acc"].iloc[-1])
        ends.append(weights(trained))
    assert not torch.equal(*ends)
    assert accs[1] < accs[0]


def test_arms_share_their_first_loss(prior, clips, tmp_path):
    firsts = []
    for acc in (0.0, 0.1, 1.0):
        config = replace(CONFIG, steps=1, weights=LossWeights(acc=acc))
        _, curves = run(prior, clips, tmp_path, config)
        firsts.append(curves["simple"].iloc[0])
    assert firsts[0] == firsts[1] == firsts[2]


def test_loss_falls_and_the_base_is_left_alone(prior, clips, tmp_path):
    before = weights(prior).clone()
    config = replace(CONFIG, steps=150, learning_rate=3e-3, checkpoint_every=150, validate_every=50)
    trained, curves = run(prior, clips, tmp_path, config, clips)
    assert torch.equal(weights(prior), before)
    simple = curves[curves.split == "train"]["simple"].to_numpy()
    assert simple[-20:].mean() < 0.6 * simple[:10].mean()
    held_out = curves[curves.split == "validation"]
    assert held_out["step"].tolist() == [50, 100, 150]
    assert held_out["simple"].is_monotonic_decreasing
    assert held_out.drop(columns="split").notna().all(axis=None)
    assert curves[curves.split == "train"]["step"].tolist() == list(range(1, 151))
    assert not trained.model.training
    (entry,) = trained.history
    assert entry["config"]["steps"] == 150 and entry["clips"] == len(clips)
    assert prior.history == []


def test_the_moving_average(prior, clips, tmp_path, monkeypatch):
    seen = []
    update = training._Training.update

    def spy(self, batch):
        update(self, batch)
        seen.append(torch.cat([p.detach().flatten() for p in self.model.parameters()]))

    monkeypatch.setattr(training._Training, "update", spy)
    average = torch.cat([p.detach().flatten() for p in prior.model.parameters()])
    trained, _ = run(prior, clips, tmp_path)
    for n, now in enumerate(seen):
        decay = ema_decay_at(0.9, n)
        average = decay * average + (1 - decay) * now
    end = torch.cat([p.flatten() for p in trained.model.parameters()])
    torch.testing.assert_close(end, average, atol=1e-6, rtol=1e-5)
    seen.clear()
    last, _ = run(prior, clips, tmp_path, replace(CONFIG, ema_decay=0.0))
    end = torch.cat([p.flatten() for p in last.model.parameters()])
    torch.testing.assert_close(end, seen[-1], atol=1e-7, rtol=0)


def test_the_decay_starts_low():
    assert ema_decay_at(0.999, 0) == pytest.approx(0.1)
    assert ema_decay_at(0.999, 90) == pytest.approx(0.91)
    assert ema_decay_at(0.999, 10**6) == 0.999


def test_trainings_of_other_settings_do_not_mix(prior, clips, tmp_path):
    a, _ = run(prior, clips, tmp_path)
    b, _ = run(prior, clips, tmp_path, replace(CONFIG, seed=1))
    c, _ = run(prior, clips[:-1], tmp_path)
    assert not torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))
    assert len(list(tmp_path.glob("training-*.pt"))) == 3
    # How often the state is written is no part of what is trained.
    d, _ = run(prior, clips, tmp_path, replace(CONFIG, checkpoint_every=3))
    assert torch.equal(weights(a), weights(d))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_second_training_goes_on_from_the_first(prior, clips, tmp_path):
    base, _ = run(prior, clips, tmp_path)
    tuned, _ = run(base, clips, tmp_path)
    assert not torch.equal(weights(base), weights(tuned))
    assert len(tuned.history) == 2


def test_the_global_generator_is_left_alone(prior, clips, encoder, tmp_path):
    prior = new_prior(replace(prior.config, dropout=0.2), prior.normaliser, encoder, 3)
    before = torch.get_rng_state()
    run(prior, clips, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_padding_of_a_batch_does_not_reach_the_weights(prior, clips, tmp_path, monkeypatch):
    clean, _ = run(prior, clips, tmp_path / "clean")
    draw = training.draw_batch

    def soiled(*arguments):
        batch = draw(*arguments)
        noise = torch.where(batch.mask[..., None], batch.noise, 30.0)
        return replace(batch, noise=noise)

    monkeypatch.setattr(training, "draw_batch", soiled)
    dirty, _ = run(prior, clips, tmp_path / "dirty")
    torch.testing.assert_close(weights(clean), weights(dirty), atol=1e-4, rtol=0)


def test_a_training_that_diverges_says_so_and_keeps_no_broken_state(prior, clips, tmp_path):
    config = replace(CONFIG, learning_rate=1e30)
    with pytest.raises(InputError, match="finite loss.*learning_rate"):
        run(prior, clips, tmp_path, config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"ema_decay": 1.0},
        {"condition_dropout": 1.5},
        {"accumulate": 0},
        {"accumulate": 5},
        {"precision": "float16"},
        {"early_stopping": True},  # by no validation but the last
    ],  # fmt: skip
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        replace(CONFIG, **change)


def test_settings_of_later_versions_leave_keys_and_records_alone(prior, clips, tmp_path):
    recorded = asdict(CONFIG)
    for name in ("accumulate", "precision", "compile", "early_stopping", "warmup", "anneal"):
        recorded.pop(name)
    trained, _ = run(prior, clips, tmp_path)
    assert trained.history[-1]["config"] == recorded
    (path,) = tmp_path.iterdir()
    data = training.Dataset(prior, clips)
    recorded.pop("checkpoint_every")
    ingredients = [
        recorded, asdict(prior.config), training._weights_hash(prior.model), data.fingerprint,
        prior.text_encoder.fingerprint,
    ]  # fmt: skip
    key = sha256(json.dumps(ingredients, sort_keys=True).encode())
    assert path.name == f"training-{key[:12]}.pt"
    # What changes rounding alone goes on with the same state; another precision does not.
    run(prior, clips, tmp_path, replace(CONFIG, accumulate=2))
    assert len(list(tmp_path.iterdir())) == 1
    half = replace(CONFIG, precision="bfloat16")
    assert half.record()["precision"] == "bfloat16"
    run(prior, clips, tmp_path, half)
    assert len(list(tmp_path.iterdir())) == 2


def test_one_step_is_adamw_on_the_mean_loss_bit_for_bit(prior, clips, tmp_path):
    config = replace(CONFIG, steps=1, ema_decay=0.0)
    trained, curves = run(prior, clips, tmp_path, config)
    model = copy.deepcopy(prior.model).train().requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    data = training.Dataset(prior, clips)
    batch = training.draw_batch(data, config, prior.config.diffusion_steps, 0)
    scheduler = schedule(prior.config.diffusion_steps)
    terms = training.batch_losses(model, batch, prior.normaliser, config.weights, scheduler)
    terms["total"].mean().backward()
    optimiser.step()
    averaged = copy.deepcopy(prior.model)
    with torch.no_grad():
        for kept, new in zip(averaged.parameters(), model.parameters(), strict=True):
            kept.lerp_(new, 1.0)
    assert torch.equal(weights(trained), weights(replace(prior, model=averaged)))
    assert curves["total"].iloc[0] == float(terms["total"].detach().mean())


def test_half_precision_is_near_and_its_weights_are_whole(prior, clips, tmp_path):
    _, curves = run(prior, clips, tmp_path, validation=clips)
    half, others = run(prior, clips, tmp_path, replace(CONFIG, precision="bfloat16"), clips)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert not curves["total"].equals(others["total"])
    np.testing.assert_allclose(others["total"], curves["total"], rtol=0.03)


def test_compiled_layers_keep_the_names_of_their_weights(prior, clips, tmp_path, monkeypatch):
    """The compiler itself takes a minute: here it hands back the layers as they are."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiled.append(options) or call)
    plain, _ = run(prior, clips, tmp_path / "plain")
    layers, _ = run(prior, clips, tmp_path / "compiled", replace(CONFIG, compile=True))
    assert compiled == [{"dynamic": True}]
    assert torch.equal(weights(plain), weights(layers))
    names = [next(tmp_path.glob(f"{folder}/*")).name for folder in ("plain", "compiled")]
    assert names[0] == names[1]


def test_conditions_are_learnt(prior, encoder, tmp_path):
    """Two still motions told apart by their sentence alone: the text decides the prediction."""
    rng = np.random.default_rng(0)
    up = rng.standard_normal(263).astype(np.float32)
    clips = [
        MotionClip("a", np.tile(up, (10, 1)), ["rise"], "1", "", "test"),
        MotionClip("b", np.tile(-up, (10, 1)), ["fall"], "1", "", "test"),
    ]
    prior.normaliser = type(prior.normaliser)(np.zeros(263, np.float32), np.ones(263, np.float32))
    config = replace(CONFIG, steps=120, batch_size=16, learning_rate=3e-3, checkpoint_every=120)
    trained, _ = run(prior, clips, tmp_path, config)
    text, valid = encoder.encode(["rise", "fall"])
    x_t, t = torch.randn(2, 10, 263), torch.tensor([9, 9])
    with torch.no_grad():
        x0 = trained.model(x_t, t, text, valid, torch.ones(2, 10, dtype=torch.bool))
    sides = (x0.mean(1) @ torch.from_numpy(up)) / (up @ up)
    assert sides[0] > 0.5 and sides[1] < -0.5


def test_learning_rate_rises_then_falls_to_zero():
    config = TrainConfig(steps=100, learning_rate=1e-3, warmup=9, anneal=True)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4) and rates[99] == pytest.approx(1e-5)
    assert np.argmax(rates) == 9
    assert TrainConfig(steps=5).learning_rate_at(4) == TrainConfig(steps=5).learning_rate
