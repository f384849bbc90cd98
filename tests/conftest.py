"""What is not in the repository (real data, golden vectors), and a study of the smallest size."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2imu_utils import arms
from t2imu_utils.arms import Arm
from t2imu_utils.models.text import TEXT_ENCODERS
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.tracks import GeneratorSection, Track, load_track

# Models that tests speak of: an arm is known by its name once that has been asked for.
WEIGHTS = (0.02, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 7, 9, 10, 100, 1e-5)
NAMED = arms.grid(("mdm", "momask", "remodiffuse", "t2mgpt"), WEIGHTS, range(5))
NAMES = [one.name for one in NAMED]
NAMES += [replace(one, acc_variant=v).name for one in NAMED for v in ("joints", "spectrum")]
NAMES += [replace(one, lambda_vel=v).name for one in NAMED[:75] for v in (0.17, 0.2, 0.5)]
NAMES += [Arm("mdm", 0.1, lambda_vel=0.5, acc_variant="joints", seed=s).name for s in (1, 2)]
SHARED = Path(__file__).parents[2] / "shared"
# What takes longest comes first: workers that share the files then end at about the same time.
LONGEST = ("notebooks", "slurm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in LONGEST)


def outside(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{path} is absent: set {variable} to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real recordings, laid out as book/data.md says."""
    return outside("T2IMU_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Golden vectors of the official models."""
    return outside("T2IMU_REFERENCE", SHARED / "reference")


@pytest.fixture
def runs_folder(tmp_path, monkeypatch) -> Path:
    """Run folders of a test, away from the repository's own."""
    monkeypatch.setenv("T2IMU_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


class WordEncoder:
    """Stands in for a text encoder: a fixed random state for each word."""

    name, width, pooled_width, fingerprint, max_tokens = "words", 16, 16, "f" * 64, 60

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]

    def encode(self, texts):
        def state(word):
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
            return torch.randn(self.width, generator=torch.Generator().manual_seed(seed))

        rows = [torch.stack([state(word) for word in text.split()]) for text in texts]
        counts = torch.tensor([len(row) for row in rows])
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return tokens, torch.arange(tokens.shape[1])[None] < counts[:, None]

    def encode_pooled(self, texts):
        tokens, valid = self.encode(texts)
        return tokens.sum(1) / valid.sum(1, keepdim=True)


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def clips() -> list[MotionClip]:
    rng = np.random.default_rng(5)
    words = ["walks slowly", "runs", "sits down on a chair", "jumps twice"]
    made = []
    for i, frames in enumerate(rng.integers(8, 25, 12)):
        phase = np.linspace(0, 4, frames)[:, None] + rng.random(263)
        features = (0.3 * np.sin(phase) + 0.1 * i).astype(np.float32)
        features[:, 259:] = rng.integers(0, 2, (frames, 4))
        text, take = words[i % 4], f"take {i}"
        made.append(MotionClip(f"clip{i}", features, [f"a person {text}", text], "1", text, take))
    return made


# Sizes of networks that take milliseconds.
STACK = {"width": 16, "layers": 1, "heads": 2, "feedforward": 24}
TOKENS = {"tokeniser_width": 16, "codes": 12, "dropout": 0.0, **STACK}
SIZES = {
    "mdm": {"dropout": 0.0, "diffusion_steps": 10, **STACK},
    "momask": {"levels": 3, "iterations": 3, **TOKENS},
    "remodiffuse": {
        "retrieval_layers": 1, "time_width": 20, "text_latent": 12, "text_layers": 1,
        "text_feedforward": 20, "diffusion_steps": 200, "max_frames": 24, **STACK,
    },
    "t2mgpt": TOKENS,
}  # fmt: skip


@pytest.fixture(scope="session")
def sizes() -> dict[str, dict[str, Any]]:
    """Sizes of each family, as a track has them."""
    return SIZES


@pytest.fixture
def words(encoder, monkeypatch) -> WordEncoder:
    """`encoder`, known by its name to whatever loads a text encoder."""
    monkeypatch.setitem(TEXT_ENCODERS, encoder.name, lambda cache: encoder)
    return encoder


@pytest.fixture(scope="session")
def tiny() -> Track:
    """The demo track with the smallest networks, trained for a few steps on the text of `words`."""
    demo = load_track("demo")
    more = {
        "pretrain_steps": 10, "finetune_steps": 5, "batch_size": 4, "max_frames": 16,
        "checkpoint_every": 100,
    }  # fmt: skip
    changed = {
        "text_encoder": WordEncoder.name,
        "generators": {n: GeneratorSection(refined=True, **s) for n, s in SIZES.items()},
        "training": demo.training.model_copy(update=more),
    }
    return demo.model_copy(update=changed)


@pytest.fixture(scope="session")
def smpl_folder(tmp_path_factory) -> Path:
    """Stand-ins for the licensed SMPL_NEUTRAL.pkl, SMPL_MALE.pkl and SMPL_FEMALE.pkl."""
    from tests.body.layouts import write_fake_smpl

    folder = tmp_path_factory.mktemp("licensed") / "smpl"
    write_fake_smpl(folder)
    return folder


@pytest.fixture(scope="session")
def licensed(smpl_folder):
    """The three models of that folder."""
    from t2imu_utils.body.smpl import load_bodies

    return load_bodies(smpl_folder)


@pytest.fixture(scope="session")
def windows_tools():
    """What shards of windows are made with: a prior without training, and two of the bodies."""
    from t2imu_utils.body.smpl import load_bodies
    from t2imu_utils.models.generator import family
    from t2imu_utils.synthesis import with_bodies
    from tests.gait import gait_corpus

    torch.set_num_threads(1)
    generator = family("mdm")
    motions, _ = gait_corpus(27)
    sizes = generator.Sizes(**SIZES["mdm"])
    tools = with_bodies(
        generator, generator.untrained(sizes, motions, WordEncoder(), 0), load_bodies()
    )
    chosen = {name: tools.shapes[name] for name in ("female short", "male tall")}
    return replace(tools, shapes=chosen)
