"""Seconds that each generator takes for one motion, at the sizes of its official checkpoint.

    python tests/benchmarks/sampling.py [--frames 196] [--repeats 3]

Random weights, one motion at a time, float32, texts encoded before the clock starts. Seconds depend
on the machine; what can be compared is how many times as long as MoMask a generator takes, here and
in the authors' code, which was timed in the same way (two cores, one motion, random weights).
Generators take turns, and the median over rounds is printed with the range.
"""

import time
from collections.abc import Sequence

import click
import numpy as np
import pandas as pd
import torch

from t2imu_utils.models.generator import family
from t2imu_utils.models.mdm import MDMConfig, new_prior
from t2imu_utils.models.remodiffuse import Mixture, ReMoDiffuseConfig, new_remodiffuse_prior
from t2imu_utils.models.retrieval import build_database
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import WIDTH

# Seconds of the authors' code for 196 frames; of a range the middle.
OFFICIAL = {"momask": 1.2, "remodiffuse": 15.05, "t2mgpt": 13.5}
PROMPT = "a person walks in a circle"


class FixedText:
    """Stands in for CLIP: random states of its widths, the same for every text."""

    name, fingerprint, width, pooled_width, max_tokens = "fixed", "0" * 64, 512, 512, 77

    def encode(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Twenty states of each text."""
        states = torch.randn(20, self.width, generator=torch.Generator().manual_seed(0))
        return states.repeat(len(texts), 1, 1), torch.ones(len(texts), 20, dtype=torch.bool)

    def encode_pooled(self, texts: Sequence[str]) -> torch.Tensor:
        """One state of each text."""
        return self.encode(texts)[0][:, 0]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Twenty."""
        return [20] * len(texts)


def official_size(name: str):
    """An untrained prior of the sizes of the official checkpoint."""
    text = FixedText()
    normaliser = Normaliser(np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32))
    if name == "mdm":
        return new_prior(MDMConfig(arch="trans_dec"), normaliser, text, 0)
    if name in ("momask", "t2mgpt"):
        return family(name).new(family(name).Config(), normaliser, text, 0)
    rng = np.random.default_rng(0)
    clips = [
        MotionClip(f"clip{i}", rng.standard_normal((196, WIDTH)).astype(np.float32), [PROMPT])
        for i in range(8)
    ]
    database = build_database(clips, normaliser, text)
    return new_remodiffuse_prior(ReMoDiffuseConfig(), normaliser, text, database, 0, Mixture())


@click.command(help=__doc__)
@click.option("--frames", default=196, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(frames: int, repeats: int) -> None:
    priors = {name: official_size(name) for name in ("momask", "mdm", "remodiffuse", "t2mgpt")}
    seconds: dict[str, list[float]] = {name: [] for name in priors}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for turn in range(repeats + 1):
        for name, prior in priors.items():
            started = time.perf_counter()
            family(name).generate(prior, [PROMPT], [frames], [turn], None, 1, device, False)
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    rows = {
        name: {
            "parameters (M)": family(name).parameters(prior) / 1e6,
            "s a motion": median[name],
            "least": min(seconds[name]),
            "most": max(seconds[name]),
            "times MoMask": median[name] / median["momask"],
            "the same, authors' code": OFFICIAL.get(name, np.nan) / OFFICIAL["momask"],
        }
        for name, prior in priors.items()
    }
    threads = torch.get_num_threads()
    click.echo(f"{frames} frames, {repeats} rounds, {device}, {threads} threads")
    click.echo(pd.DataFrame(rows).T.to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
