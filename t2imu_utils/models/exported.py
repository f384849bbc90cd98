"""Generators whose motions are read and not made here: of other projects' files, or recorded.

An entry of a track names the files, and what they do not say themselves::

    kimodo: {family: exported, folder: kimodo/outputs, rate: 30}

There is no model behind it: nothing is trained or refined, and no loss can be measured. Whatever
was generated elsewhere from the prompts of notebook 01 goes through the notebooks from 03 on as
the motions of all others do. So do recordings of the corpus (`RecordedGenerator`).
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import model_validator

from t2imu_utils.activities import ACTIVITIES
from t2imu_utils.body.fitting import fit, fitted_joints
from t2imu_utils.body.smpl import Body
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError, Skipped
from t2imu_utils.files import sha256, write_table
from t2imu_utils.models.generator import Generator
from t2imu_utils.motion.corpus import MotionClip
from t2imu_utils.motion.exports import MOMASK, as_sampled, export_files, read_exports, read_poses
from t2imu_utils.motion.features import features_to_joints
from t2imu_utils.motion.skeleton import RATE
from t2imu_utils.tracks import Positive, Section, data_root

MOTIONS, LEFT_OUT = "motions", "left_out"
# Arrays of a pose, as `fitting.fit` leaves them.
POSE = ("global_orient", "body_pose", "transl", "joint_error")
SHORTEST = 40  # frames: shorter recordings give no window of 2 s
# Of MoMask's prompt files: behind each text its length in frames, or NA.
_LENGTH = re.compile(r"#\s*(?:\d+|NA)\s*$", re.IGNORECASE)


class Options(Section):
    """Where the motions lie, and what `read_exports` or `read_poses` must be told of them.

    folder: below T2IMU_DATA; may be one file. format: "joints" (MDM, MoMask, ReMoDiffuse, Kimodo,
    any other (T, 22, 3)), which a body is fitted to, or "poses" in AMASS's layout, which are taken
    as they are. prompts: a text file below T2IMU_DATA for formats that carry none, a line for each
    file in the order of their names; for MoMask the file that it was given.
    """

    folder: str
    format: Literal["joints", "poses"] = "joints"
    prompts: str | None = None
    rate: Positive | None = None  # frames a second, where the files do not say it
    up: Literal["y", "z"] | None = None
    made_by: str | None = None
    scale: Positive | None = None  # joints: metres a unit
    foot_locked: bool | None = None  # joints: which of MoMask's two files for a motion
    shape: Literal["mean", "file"] | None = None  # poses: whether the files' betas are used

    @model_validator(mode="after")
    def _fit_the_format(self) -> "Options":
        others = {"joints": ("shape",), "poses": ("scale", "foot_locked")}[self.format]
        if wrong := [name for name in others if getattr(self, name) is not None]:
            raise ValueError(f"{', '.join(wrong)}: not for {self.format}")
        return self


@dataclass(frozen=True)
class ReadMotions:
    """Motions as they were read.

    clips: array ``joints`` (F, 22, 3) at 20 fps, and of poses those of `POSE`; columns of
    `motion.exports.read_exports`. skipped: what was left out. sources: hashes of what was read,
    by name.
    """

    clips: Clips
    skipped: Sequence[Skipped]
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def history(self) -> list[dict[str, Any]]:
        """In place of trainings: how much was read."""
        return [{"motions": len(self.clips), "left out": len(self.skipped)}]


class ExportedGenerator(Generator):
    Sizes = Options
    curves = ()
    examined = False
    ready_made = True

    def read(self, options: Options, body: Body, clips: Sequence = ()) -> ReadMotions:
        """The motions at 20 fps, Y up; poses as those of `body`."""
        folder = data_root() / options.folder
        given = options.model_dump(exclude={"folder", "format", "prompts"}, exclude_none=True)
        if options.format == "poses":
            clips, skipped = read_poses(folder, body, **given)
            joints = fitted_joints(clips, body).astype(np.float32)
            clips = Clips(clips.table, {"joints": joints} | clips.arrays, clips.meta)
        else:
            clips, skipped = read_exports(folder, **given)
        sources = {"motions": sha256(folder)}
        if options.prompts is not None:
            file = data_root() / options.prompts
            clips = _with_prompts(clips, folder, file)
            sources["prompts"] = sha256(file)
        if options.format == "poses":
            sources["body"] = sha256(body.path)
        if not clips.table["prompt"].astype(bool).any():
            raise InputError(
                folder, "motions without prompts", "the prompt that each was made from",
                "Write them into a text file below T2IMU_DATA, a line for each motion file in the "
                "order of their names, and name it in the track: prompts: <file>.",
            )  # fmt: skip
        return ReadMotions(clips, skipped, sources)

    def save(self, path: Path, prior: ReadMotions) -> list[Path]:
        table = pd.DataFrame([asdict(s) for s in prior.skipped], columns=["name", "reason"])
        kept = write_table(path.with_name(f"{LEFT_OUT}.parquet"), table)
        return [*prior.clips.save(path.with_name(MOTIONS)), kept]

    def load(self, path: Path, encoder=None) -> ReadMotions:
        table = pd.read_parquet(path.with_name(f"{LEFT_OUT}.parquet"))
        skipped = [Skipped(**row) for row in table.to_dict("records")]
        return ReadMotions(Clips.load(path.with_name(MOTIONS)), skipped)

    def sample(
        self, prior: ReadMotions, requests, guidance, batch_size, device="cpu", progress=True, *_
    ) -> Clips:  # fmt: skip
        """The motions that answer the requests (`motion.exports.as_sampled`).

        ``left_out`` of their meta names requests without a motion and motions without a request.
        """
        numbered = requests.assign(request=np.arange(len(requests)))
        found, skipped = as_sampled(prior.clips, numbered)
        table = found.table.assign(motion=found.table["request"]).drop(columns="request")
        meta = {**found.meta, LEFT_OUT: [asdict(each) for each in skipped]}
        return Clips(table, found.arrays, meta)

    def fits(self, prior: ReadMotions, motions: Clips, body: Body) -> Clips:
        if POSE[0] not in motions.arrays:
            return fit(motions, body, foreign=True)
        if motions.meta["body"] != body.path.name:
            raise InputError(
                "exported poses: body", motions.meta["body"], body.path.name,
                "Run notebook 02 for this generator again.",
            )  # fmt: skip
        return Clips(motions.table, {name: motions.arrays[name] for name in POSE}, motions.meta)

    def parameters(self, prior: ReadMotions) -> int:
        return 0

    def network(self, prior: ReadMotions) -> dict:
        table, left_out = prior.clips.table, [f"{s.name}: {s.reason}" for s in prior.skipped]
        rates = sorted(set(table["native_rate"]))
        return {
            "made by": ", ".join(sorted(set(table["project"]))),
            "motions": len(table),
            "minutes": round(float(table["frames"].sum()) / RATE / 60, 1),
            "frames a second": ", ".join(f"{rate:g}" for rate in rates) + f"; read at {RATE:g}",
            "smoothed by its authors": ", ".join(sorted(set(table["smoothed"]))),
            "left out": "; ".join(left_out) or "none",
        }

    def _no_model(self, *_, **__):
        raise InputError(
            "exported motions", "a wish to train, sample or examine a model", "their use as read",
            "They are files of another project: there is no model here. Leave this generator out.",
        )  # fmt: skip

    untrained = published = train = refine = validation = generate = denoiser = _no_model


def _with_prompts(clips: Clips, folder: Path, file: Path) -> Clips:
    """The clips with the prompts that a file has for them, a line each."""
    try:
        text = file.read_text("utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            file, f"nothing readable ({error})", "a text file, a prompt a line", "Check the path."
        ) from error
    lines = [_LENGTH.sub("", line).strip() for line in text.split("\n")]
    files = [name for _, name in export_files(folder)]
    table = clips.table
    numbered = table["project"] == MOMASK  # by the lines of its prompt file
    needed = int(table["sample"].max()) + 1 if numbered.all() else len(files)
    if len(lines) < needed or (len(lines) > needed and not numbered.all()):
        raise InputError(
            file, f"{len(lines)} lines", f"{needed}, one for each file of {folder}",
            "List the prompts in the order of the files' names, numbers by their size.",
        )  # fmt: skip
    place = {name: i for i, name in enumerate(files)}
    rows = table["sample"].where(numbered, table["file"].map(place))
    return Clips(table.assign(prompt=[lines[i] for i in rows]), clips.arrays, clips.meta)


class RecordedGenerator(ExportedGenerator):
    """Recorded motion as a generator: the ceiling of what any of them can reach.

    A request is answered by a recorded clip of its activity, from the split that the others are
    trained on, so that a difference to them is theirs and not that of bodies, sensors or
    classifier: ``recorded: {family: recorded}`` in a track. Of an activity that the corpus has no
    recording of (as of lying) clips made from recordings answer.
    """

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


GENERATOR, RECORDED = ExportedGenerator(), RecordedGenerator()
