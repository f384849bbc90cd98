"""Recorded motion as a generator: the ceiling of what any of them can reach.

A request is answered by a recorded clip of its activity, from the split that the others are trained
on, so that a difference to them is theirs and not that of bodies, sensors or classifier::

    recorded: {family: recorded}

Of an activity that the corpus has no recording of (as of lying) clips made from recordings answer.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.body.fitting import fit
from t2imu_utils.body.smpl import Body
from t2imu_utils.clips import Clips
from t2imu_utils.errors import Skipped
from t2imu_utils.models.exported import LEFT_OUT, ExportedGenerator, ReadMotions
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.features import RATE, features_to_joints
from t2imu_utils.tracks import Section

SHORTEST = 40  # frames: shorter clips give no window of 2 s


class RecordedGenerator(ExportedGenerator):
    """See the module."""

    Sizes = Section

    def read(self, options: Section, body: Body, clips: Sequence[MotionClip] = ()) -> ReadMotions:
        """The corpus's recordings of the paper's activities that are long enough for a window."""
        named = [clip for clip in clips if clip.activity in ACTIVITIES]
        long = [clip for clip in named if len(clip.features) >= SHORTEST]
        rows = [{"name": c.name, "activity": c.activity, "frames": len(c.features)} for c in long]
        joints = [features_to_joints(clip.features) for clip in long]
        found = Clips.from_list(rows, {"joints": joints}, {"rate": RATE})
        short = [c for c in named if len(c.features) < SHORTEST]
        short = [Skipped(clip.name, f"{len(clip.features)} frames") for clip in short]
        return ReadMotions(found, short)

    def sample(
        self, prior: ReadMotions, requests, guidance, batch_size, device="cpu", progress=True, *_
    ) -> Clips:  # fmt: skip
        """For each request another clip of its activity, as long as there are any, at most as long
        as was asked for; part and order are drawn by the request's seed."""
        joints, rows, taken = list(prior.clips.each("joints")), [], []
        of = {a: part.index for a, part in prior.clips.table.groupby("activity")}
        deck: dict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(requests.to_dict("records")):
            if (activity := row["activity"]) not in of:
                continue
            rng = np.random.default_rng(row["seed"])
            deck[activity] = deck[activity] or rng.permutation(of[activity]).tolist()
            whole = joints[deck[activity].pop()]
            start = rng.integers(max(0, len(whole) - row["frames"]) + 1)
            taken.append(whole[start : start + row["frames"]])
            rows.append(row | {"frames": len(taken[-1]), "motion": number})
        left = sorted(set(requests["activity"]) - set(of))
        meta = {"rate": RATE, LEFT_OUT: [{"name": a, "reason": "not recorded"} for a in left]}
        return Clips.from_list(rows, {"joints": taken}, meta)

    def fits(self, prior: ReadMotions, motions: Clips, body: Body) -> Clips:
        return fit(motions, body)

    def network(self, prior: ReadMotions) -> dict:
        minutes = prior.clips.table.groupby("activity")["frames"].sum() / RATE / 60
        return {f"minutes of {a}": round(float(n), 1) for a, n in minutes.items()}


GENERATOR = RecordedGenerator()
