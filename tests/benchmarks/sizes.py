"""How much work each row does: the sizes of the paper and of the official checkpoint, or a few."""

from dataclasses import dataclass, field

from t2imu_utils.models.mdm import MDMConfig


@dataclass(frozen=True)
class Sizes:
    """Sizes of all rows.

    Attributes:
        mdm: network of sampling and training.
        items, frames: motions sampled together, and how long they are.
        evaluations: of the second-order solver.
        batch, steps, lengths: clips of a training step, steps of a call, shortest and longest clip;
            the mean is 120 frames, and no clip is longer than the reference pads to.
        fitted: frames that the reference fits, after a first one that is not counted.
        outer: calls of L-BFGS a frame.
        clips: made-up motions (of 27) that ours fits.
        sensed: frames of the motion that is turned into sensor readings.
        windows: that catch22 is computed of.
        people, activities: of the recordings that are read.
        har_windows, har_epochs, filters, units: of the classifier's training.
        notebook: of the paper's, whose imports are made; "" makes none.
        motions: of the shipped prior, from text to windows.
        machine: share of the usual size of what measures the machine.
    """

    mdm: MDMConfig = field(default_factory=lambda: MDMConfig(arch="trans_dec"))
    items: int = 8
    frames: int = 120
    evaluations: int = 10
    batch: int = 32
    steps: int = 1
    lengths: tuple[int, int] = (44, 196)
    fitted: int = 2
    outer: int = 100
    clips: int = 27
    sensed: int = 200
    windows: int = 500
    people: int = 2
    activities: tuple[str, ...] = ("walking", "sitting")
    har_windows: int = 256
    har_epochs: int = 2
    filters: int = 64
    units: int = 128
    notebook: str = "05_lacc_analysis.ipynb"
    motions: int = 1000
    machine: float = 1.0


FULL = Sizes()
QUICK = Sizes(
    mdm=MDMConfig(
        arch="trans_dec", layers=2, width=32, heads=2, feedforward=48, dropout=0.0,
        diffusion_steps=12, max_frames=40,
    ),
    items=2, frames=20, evaluations=6, batch=4, steps=2, lengths=(10, 24), fitted=1, outer=1,
    clips=2, sensed=8, windows=6, people=1, activities=("walking",), har_windows=64,
    har_epochs=1, filters=4, units=8, notebook="", motions=3, machine=0.25,
)  # fmt: skip
