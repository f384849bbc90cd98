"""The method in the notebooks' cells is the package's, and what is changed there has effect."""

import ast
import copy
import linecache
import types
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch

from t2imu_utils import finetuning
from t2imu_utils.analysis import har, lacc
from t2imu_utils.imu.sensors import virtual_imu
from t2imu_utils.models.diffusion import Solver, schedule
from t2imu_utils.models.generator import family
from t2imu_utils.models.losses import TERMS, LossWeights, motion_losses
from t2imu_utils.models.mdm import generate
from t2imu_utils.models.trainer import Dataset, draw_batch
from t2imu_utils.motion.rotations import axis_angle_to_matrix
from t2imu_utils.runs import ROOT

torch.set_num_threads(1)


def cells(stage, *names, **given):
    """A module with a notebook's imports and its definitions of these names."""
    module = types.ModuleType(f"cells_of_{stage}")
    vars(module).update(given)
    for i, cell in enumerate(nbformat.read(ROOT / "notebooks" / f"{stage}.ipynb", 4).cells):
        if cell.cell_type == "code":
            place, lines = f"<{stage}, cell {i}>", cell.source.splitlines(keepends=True)
            linecache.cache[place] = len(cell.source), None, lines, place
            parts = [
                part
                for part in ast.parse(cell.source).body
                if isinstance(part, ast.Import | ast.ImportFrom)
                or getattr(part, "name", "") in names
            ]
            exec(compile(ast.Module(parts, []), place, "exec"), vars(module))
    return module


@pytest.fixture
def prior(clips, encoder, sizes):
    generator = family("mdm")
    return generator.untrained(generator.Sizes(**sizes["mdm"]), clips, encoder, 0)


@pytest.fixture
def losses(prior):
    found = cells(
        "02_finetuning", *(f"L_{term}" for term in TERMS), "mean_over", "forward_kinematics"
    )
    found.normaliser = prior.normaliser
    return {term: getattr(found, f"L_{term}") for term in TERMS}


SETTINGS = finetuning.TrainConfig(steps=3, batch_size=4, max_frames=16, condition_dropout=0.5)


@pytest.fixture
def batch(prior, clips):
    return draw_batch(Dataset(prior, clips), SETTINGS, prior.config.diffusion_steps, 0)


def test_losses_are_the_packages(losses, prior, batch):
    noisy = batch.x0 + 0.3 * batch.noise
    expected = motion_losses(
        batch.x0, noisy, batch.mask, LossWeights(), prior.normaliser, all_terms=True
    )
    assert not batch.mask.all()
    for term, loss in losses.items():
        torch.testing.assert_close(loss(batch.x0, noisy, batch.mask), expected[term])


def test_the_training_step_is_the_packages(losses, prior, clips, tmp_path):
    lambdas = {"pos": 0.1, "foot": 2.0, "vel": 0.5, "acc": 0.3}
    settings = replace(SETTINGS, steps=1, ema_decay=0.0, weights=LossWeights(**lambdas))
    trained, curves = family("mdm").train(prior, clips, settings, tmp_path, [], "cpu")
    step = cells("02_finetuning", "training_step", losses=losses, lambdas=lambdas)
    step.kept = schedule(prior.config.diffusion_steps).alphas_cumprod
    network = copy.deepcopy(prior.model).train()
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=0.0)
    data = Dataset(prior, clips)
    batch = draw_batch(data, settings, prior.config.diffusion_steps, 0)
    terms = step.training_step(network, optimiser, batch)
    assert terms == pytest.approx(curves.iloc[0][list(terms)].to_dict(), rel=1e-5)
    asked = batch.noise, batch.t, batch.text, batch.text_valid, batch.mask
    before, ours, theirs = (m.eval()(*asked) for m in (prior.model, network, trained.model))
    # Not of the weights: where a gradient is nothing but rounding, AdamW's step is as large.
    assert abs(ours - theirs).max() < 1e-3 * abs(theirs - before).max()


def silent(x0, x0_hat, mask):
    return 0 * (x0 - x0_hat).sum((1, 2))


@pytest.mark.parametrize("name", ["mdm", "momask", "remodiffuse"])
def test_a_changed_loss_is_trained_with(name, tiny, words, clips, runs_folder, losses):
    """L_acc that is always 0 makes the control; the notebook's own makes the package's model."""
    study = finetuning.Study(tiny, name, clips, clips[:4], {})
    base = study.make_base(study.start())

    def ends(**given):
        run = study.make_arm(base, finetuning.finetuning(tiny, LossWeights(**given), None, 0))
        model = finetuning.load_model(tiny, run.dir.parent.name)
        network = model.rvq if name == "momask" else model.model
        return torch.cat([p.flatten() for p in network.parameters()]).detach(), run

    control, package = ends()[0], ends(acc=30.0)[0]
    ours, _ = ends(acc=30.0, functions=losses)
    nothing, run = ends(acc=30.0, functions={"acc": silent})
    torch.testing.assert_close(ours, package)
    torch.testing.assert_close(nothing, control, rtol=0, atol=1e-7)
    assert abs(package - control).max() > 1e-5
    assert "0 * (x0" in str(run.params["training"]["weights"]["functions"]["acc"])


@pytest.mark.parametrize(("step", "solver"), [("ancestral", "ancestral"), ("ddim", "ddim")])
def test_sampling_is_the_packages(step, solver, prior):
    found = cells("03_smpl_fitting", "ancestral", "ddim", "sample_motion")
    found.kept = schedule(prior.config.diffusion_steps).alphas_cumprod
    asked = "a person walks", 12, 7
    prior.model.eval()
    ours = found.sample_motion(prior, *asked, s=2.5, step=getattr(found, step))
    every = Solver(solver, prior.config.diffusion_steps)
    theirs = generate(prior, *([one] for one in asked), 2.5, progress=False, solver=every)[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-4 * abs(theirs).max())


def test_sensors_are_the_packages():
    rng = np.random.default_rng(0)
    path = torch.from_numpy(rng.standard_normal((30, 3)).cumsum(0))
    turns = axis_angle_to_matrix(torch.from_numpy(rng.uniform(-1, 1, (30, 3)).cumsum(0) * 0.3))
    found = cells("04_imu_synthesis", "accelerometer", "gyroscope", gravity=9.81)
    acc, gyro = virtual_imu(path, turns, 20.0, 9.81, scheme="central")
    torch.testing.assert_close(found.accelerometer(path, turns), acc[1:-1])
    torch.testing.assert_close(found.gyroscope(turns), gyro[1:-1])


def test_l_acc_by_hand_is_that_of_the_table(prior, clips):
    denoise = family("mdm").denoiser(prior, "cpu")
    table = lacc.clip_losses(denoise, clips[:1], [4], 0, progress=False)
    x0 = denoise.normaliser.normalise(torch.from_numpy(clips[0].features))
    noise = torch.from_numpy(lacc.common_noise(clips[0].name, 4, 0, len(x0)))
    mask = torch.ones(1, len(x0), dtype=torch.bool)
    guess = denoise(clips[:1], x0[None], mask, torch.tensor([4]), noise[None])[0]
    by_hand = cells("05_lacc_analysis", "l_acc").l_acc(x0, guess)
    assert by_hand.item() == pytest.approx(table["acc"].item(), rel=1e-5)


def test_the_classifier_in_the_cell_is_trained():
    ours = cells("07_har", "DeepConvLSTM").DeepConvLSTM
    torch.manual_seed(3)
    first = ours(6, 3, 4, 5, 0.5)
    torch.manual_seed(3)
    second = har.DeepConvLSTM(6, 3, 4, 5, 0.5)
    x = torch.randn(2, 40, 6)
    torch.testing.assert_close(first.eval()(x), second.eval()(x))
    rng = np.random.default_rng(0)
    given = rng.standard_normal((24, 40, 6)), ["a", "b", "c"] * 8, ["a", "b", "c"]
    config = har.HarConfig(epochs=1, batch_size=8, filters=4, units=5)
    trained = har.train_classifier(*given, config, network=ours)
    assert type(trained.network) is ours
