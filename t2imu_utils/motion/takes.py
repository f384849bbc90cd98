"""One form for recorded motion of every source, before it becomes a corpus."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# How a motion came about: as recorded, or made from recordings.
MADE = ("recorded", "mirrored", "reversed", "held", "composed")


@dataclass(frozen=True, eq=False)
class Take:
    """A recording on the 22 joints of SMPL.

    Attributes:
        source: "bandai", "reactidle", "deepmimic", "cmu" or "uiprmd".
        licence: short name of the source's terms.
        subject: who moves, unique within the source.
        trial: the recording, unique within the source; letters, digits, "_" and "-".
        content, style: the source's own words for what is done and how; "" where it has none.
        joints: (T, 22, 3) metres, Y up, in the order of `skeleton.JOINTS`, at `rate`.
        rate: frames a second.
        made: one of `MADE`.
        texts: sentences that hold for the whole take; may be empty until `sentences` writes them.
    """

    source: str
    licence: str
    subject: str
    trial: str
    content: str
    style: str
    joints: Float[np.ndarray, "T 22 3"]
    rate: float
    made: str = "recorded"
    texts: tuple[str, ...] = ()
