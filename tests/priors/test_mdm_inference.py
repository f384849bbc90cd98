import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors import diffusion
from t2imu_utils.priors.diffusion import item_noise, sample, schedule
from t2imu_utils.priors.mdm import MDMConfig, new_mdm
from t2imu_utils.priors.mdm_inference import guided
from t2imu_utils.runs import ROOT

CONFIG = MDMConfig(
    layers=2, width=32, heads=4, feedforward=48, text_width=20, max_frames=24, dropout=0.2
)
LENGTHS, TOKENS = [13, 24, 9], [3, 7, 5]


def shaken(config):
    """A model whose parameters, biases too, are all at work."""
    model = new_mdm(config, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def inputs(items=3):
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(3, 7, 20, generator=generator)[:items]
    valid = torch.arange(7)[None] < torch.tensor(TOKENS[:items])[:, None]
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS[:items])[:, None]
    return text, valid, mask


def motion(predict, mask, lengths=LENGTHS):
    generators = [torch.Generator().manual_seed(i) for i in range(len(lengths))]
    return sample(predict, item_noise(lengths, generators), schedule(50)) * mask[..., None]


@pytest.mark.parametrize("guidance", [2.5, 1.0])
@pytest.mark.parametrize("mask_frames", [True, False])
@pytest.mark.parametrize("arch", ["trans_dec", "trans_enc"])
def test_fifty_steps_equal_those_of_the_plain_guided_pass(arch, mask_frames, guidance):
    model = shaken(replace(CONFIG, arch=arch, mask_frames=mask_frames))
    text, valid, mask = inputs()
    expected = motion(diffusion.guided(model, text, valid, mask, guidance), mask)
    found = motion(guided(model, text, valid, mask, guidance), mask)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


def test_items_may_be_at_different_steps():
    model, (text, valid, mask) = shaken(CONFIG), inputs()
    x, t = torch.randn(3, 24, 263, generator=torch.Generator().manual_seed(3)), torch.tensor
    plain = diffusion.guided(model, text, valid, mask, 2.5)(x, t([3, 41, 0]))
    found = guided(model, text, valid, mask, 2.5)(x, t([3, 41, 0]))
    assert not torch.allclose(plain, diffusion.guided(model, text, valid, mask, 2.5)(x, t([9] * 3)))
    torch.testing.assert_close(found * mask[..., None], plain * mask[..., None], atol=1e-5, rtol=0)


# Of clip, a trans_enc, nothing is computed otherwise than in the plain pass.
@pytest.mark.parametrize("golden", ["distilbert"], indirect=True)
def test_fifty_guided_steps_equal_the_official_sample(golden):
    mask = golden.mask("sample_lengths", 16)
    guidance = float(golden.arrays["guidance"])
    predict = guided(golden.model, golden.text, golden.text_valid, mask, guidance)
    recorded = iter([golden.motion("x_T"), *golden.motion("step_noise")])
    x = sample(predict, recorded, schedule(50))
    torch.testing.assert_close(x, golden.motion("sample"), atol=1e-3, rtol=0)


def test_dropout_is_off_and_padding_of_the_text_is_not_read():
    model, (text, valid, mask) = shaken(CONFIG).train(), inputs()
    first = guided(model, text, valid, mask, 2.5)
    dirty = guided(model, text.masked_fill(~valid[..., None], 1e6), valid, mask, 2.5)
    torch.testing.assert_close(motion(first, mask), motion(dirty, mask), atol=1e-5, rtol=0)
    assert model.training


def test_the_frames_go_once_through_what_both_halves_share():
    """Rows of each kind of product in one step: as many as are needed and no more."""
    model, (text, valid, mask) = shaken(CONFIG), inputs()
    seen = []
    parts = [model.input_process["poseEmbedding"], model.output_process["poseFinal"]]
    for part in parts + [n for x in model.seqTransDecoder.layers for n in (x.norm1, x.norm2)]:
        part.register_forward_hook(lambda module, given, made: seen.append(len(given[0])))
    predict = guided(model, text, valid, mask, 2.5)
    predict(torch.zeros(3, 24, 263), torch.zeros(3, dtype=torch.long))
    assert seen == [3, 3, 6, 6, 6, 3]


@pytest.mark.parametrize("arch", ["trans_dec", "trans_enc"])
def test_half_precision_is_near_and_given_back_in_full(arch):
    model = shaken(replace(CONFIG, arch=arch))
    text, valid, mask = inputs()
    x = torch.randn(3, 24, 263, generator=torch.Generator().manual_seed(3))
    full, half = (
        guided(model, text, valid, mask, 2.5, precision)(x, torch.tensor([3, 41, 20]))
        * mask[..., None]
        for precision in ("float32", "bfloat16")
    )
    assert half.dtype == torch.float32
    error = ((half - full).norm() / full.norm()).item()
    assert 1e-4 < error < 3e-2


def test_too_many_frames_are_refused():
    model, (text, valid, _) = shaken(CONFIG), inputs()
    with pytest.raises(InputError, match="found 25; expected at most 24"):
        guided(model, text, valid, torch.ones(3, 25, dtype=torch.bool), 2.5)


# What a machine with or without units for bfloat16 would be found to do, if one were asked.
KIND = """
import torch
from t2imu_utils.generators import family
from t2imu_utils.priors.checkpoints import new_prior
from t2imu_utils.priors.generate import generate
from t2imu_utils.priors.mdm import MDMConfig
from tests.benchmarks.rows_priors import WideText
from tests.benchmarks.sampling import PROMPT
import numpy as np
from t2imu_utils.motion.corpus import Normaliser

sizes = MDMConfig(layers=1, width=256, heads=4, feedforward=256, text_width=768, diffusion_steps=4)
one = np.ones(263, np.float32)
prior = new_prior(sizes, Normaliser(0 * one, one), WideText(), 0)
asked = [PROMPT], [40], [3]
ours = family("mdm").generate(prior, *asked, 2.5, 1, "cpu", False)[0]
for precision in ("float32", "bfloat16"):
    other = generate(prior, *asked, 2.5, progress=False, precision=precision)[0]
    print(np.array_equal(ours, other))
"""


@pytest.mark.parametrize("level", ["AVX2", "DEFAULT"])
def test_every_processor_samples_in_single_precision_unless_told_otherwise(level):
    """AVX2 has no unit for bfloat16; DEFAULT is whatever this processor has."""
    told = {"ONEDNN_MAX_CPU_ISA": level, "ATEN_CPU_CAPABILITY": level.lower()}
    done = subprocess.run(
        [sys.executable, "-c", KIND],
        env={**os.environ, **told}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "False"]
