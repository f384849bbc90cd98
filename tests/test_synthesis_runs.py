"""Shards by one process or several, in any order, interrupted and damaged; the command."""

import gc
import os
import sys
import tracemalloc
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from t2imu_utils import arms, cli, data, runs, synthesis, synthesis_runs
from t2imu_utils.analysis.har import synthetic_windows
from t2imu_utils.cells.sampling import sample_and_fit
from t2imu_utils.cells.sensing import sense
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256, write_table
from t2imu_utils.models.prompts import draw_requests
from t2imu_utils.models.text import TEXT_ENCODERS
from t2imu_utils.shards import Plan, load_store
from t2imu_utils.synthesis_runs import plan_of, processors, run_shards, summary_text
from t2imu_utils.tracks import load_track
from tests.cells.test_cells import write_shared, write_track
from tests.conftest import WordEncoder

PROMPTS = {
    "lying": ["a person lies on a bed"],
    "running": ["a person runs"],
    "walking": ["a person walks"],
}
PLAN = Plan("demo", "mdm", PROMPTS, 3, (2.5, 3.0), shard_size=2)
MADE_FROM = {"prior": "a" * 64}


def run(tools, folder, plan=PLAN, **others):
    return run_shards(tools, plan, folder, MADE_FROM, progress=False, **others)


def files(folder):
    """Hash of every file of windows, by its place."""
    paths = sorted((folder / "windows").rglob("*.parquet"))
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def whole(windows_tools, tmp_path_factory):
    """All shards, made one after the other, and the summary."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(windows_tools, folder)


def test_all_shards_are_made_and_summed_up(whole):
    folder, summary = whole
    store = load_store(folder)
    assert len(files(folder)) == 6 and store.plan == PLAN
    assert {store.fault(shard) for shard in PLAN.shards} == {None}
    records = [store.record(shard) for shard in PLAN.shards]
    assert (summary.made, summary.kept, summary.remade) == (6, 0, ())
    assert summary.motions == 9 == sum(record["motions"] for record in records)
    assert summary.bytes == sum(path.stat().st_size for path in stamps(folder))
    assert summary.rows == len(pd.read_parquet(folder / "windows")) == 9 * summary.windows
    assert summary.per_motion["fitting"] == pytest.approx(summary.seconds["fitting"] / 9)
    assert 100 < summary.peak_mb < 100_000
    assert {"git", "versions", "device", "sha256", "key", "finished"} <= set(records[0])


def test_what_is_there_is_not_made_again(windows_tools, whole):
    folder, before = whole
    then = stamps(folder)
    summary = run(windows_tools, folder)
    assert (summary.made, summary.kept) == (0, 6) and stamps(folder) == then
    assert replace(summary, made=6, kept=0, wall=before.wall) == before


def test_workers_do_not_change_a_bit(windows_tools, whole, tmp_path):
    summary = run(windows_tools, tmp_path, workers=2)
    assert files(tmp_path) == files(whole[0])
    assert summary.made == 6 and summary.motions == 9


def test_jobs_in_any_order_make_the_same_whole(windows_tools, whole, tmp_path):
    made = [run(windows_tools, tmp_path, only=(job, 4)).made for job in (3, 1, 4, 2)]
    assert made == [1, 2, 1, 2]
    assert files(tmp_path) == files(whole[0])
    assert run(windows_tools, tmp_path, only=(7, 7)).motions == 0


def test_an_interrupted_run_goes_on(windows_tools, whole, tmp_path, monkeypatch):
    def stop(tools, plan, shard, path):
        if shard == PLAN.shards[3]:
            raise KeyboardInterrupt
        return synthesis.make_shard(tools, plan, shard, path)

    monkeypatch.setattr(synthesis_runs, "make_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        run(windows_tools, tmp_path)
    monkeypatch.undo()
    assert len(files(tmp_path)) == 3
    # What a killed process leaves: a half-written file that no reader looks at.
    leftover = next(iter(stamps(tmp_path))).with_name(".p009.parquet.node.1.tmp")
    leftover.write_bytes(b"PAR1")
    summary = run(windows_tools, tmp_path)
    assert (summary.made, summary.kept, summary.remade) == (3, 3, ())
    assert files(tmp_path) == files(whole[0])
    assert len(pd.read_parquet(tmp_path / "windows")) == summary.rows


def test_damaged_shards_are_named_and_made_again(windows_tools, whole, tmp_path):
    run(windows_tools, tmp_path)
    paths, store = list(stamps(tmp_path)), load_store(tmp_path)
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(content)
    os.truncate(paths[1], paths[1].stat().st_size // 2)  # as a failing disk leaves it
    store.record_path(PLAN.shards[2]).unlink()  # killed between the file and its record
    then = stamps(tmp_path)
    summary = run(windows_tools, tmp_path)
    told = summary_text(summary, PLAN, tmp_path)
    assert [each.name for each in summary.remade] == [shard.name for shard in PLAN.shards[:3]]
    assert "Remade: activity=lying/p000-r000000: sha256 " in told
    assert "p000-r000002: " in told and " bytes of " in told and "without a record" in told
    assert files(tmp_path) == files(whole[0])
    changed = [path for path, stamp in stamps(tmp_path).items() if stamp != then[path]]
    assert changed == paths[:3]


def test_more_repetitions_are_added(windows_tools, whole, tmp_path):
    run(windows_tools, tmp_path, replace(PLAN, repetitions=2))
    summary = run(windows_tools, tmp_path)
    assert (summary.made, summary.kept, summary.remade) == (3, 3, ())
    assert files(tmp_path) == files(whole[0])
    with pytest.raises(InputError, match="repetitions 3, now 2"):
        run(windows_tools, tmp_path, replace(PLAN, repetitions=2))


def test_memory_does_not_grow_with_the_number_of_shards(windows_tools, tmp_path, monkeypatch):
    """Arrays and objects of Python; what torch holds the benchmark measures."""
    held = np.zeros((12, 2), dtype=int)  # bytes after each shard, and at its peak

    def measured(tools, plan, shard, path):
        tracemalloc.reset_peak()
        facts = synthesis.make_shard(tools, plan, shard, path)
        peak = tracemalloc.get_traced_memory()[1]
        # Two things grow that nobody keeps, some 11 and 5 kB a shard: objects in cycles, which
        # wait for the collector, whose turn depends on all else that this process has done; and
        # names of attributes that torch looks up, which stay in Python's cache of 4096 of them.
        gc.collect()
        sys._clear_type_cache()
        held[shard.first // 2] = tracemalloc.get_traced_memory()[0], peak
        return facts

    monkeypatch.setattr(synthesis_runs, "make_shard", measured)
    plan = Plan("demo", "mdm", {"walking": ["a person walks"]}, 24, (2.5, 2.5), shard_size=2)
    run(windows_tools, tmp_path / "first", replace(plan, repetitions=2))  # what is kept for good
    tracemalloc.start()
    try:
        run(windows_tools, tmp_path / "all", plan)
    finally:
        tracemalloc.stop()
    # What is left, 0.9 kB in eight shards, are numbers of this and that; the smallest thing that
    # could be kept, the record of a shard, would make it 11 kB.
    assert (held[-1] - held[3] < 2000).all()


def test_what_cannot_be_is_refused_before_anything_is_written(windows_tools, tmp_path):
    for asked, said in (
        ({"workers": 0}, "workers: found 0"),
        ({"only": (3, 2)}, "only: found 3/2"),
        ({"plan": replace(PLAN, seconds=(2.5, 12.0))}, r"frames\[0\]: found 240"),
    ):
        with pytest.raises(InputError, match=said):
            run(windows_tools, tmp_path, **asked)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_ended_is_told(windows_tools, tmp_path, monkeypatch):
    class Pool:
        def __init__(self, *_):
            pass

        def submit(self, *_):
            raise BrokenProcessPool("killed")

        def shutdown(self, cancel_futures):
            assert cancel_futures

    monkeypatch.setattr(synthesis_runs, "ProcessPoolExecutor", Pool)
    with pytest.raises(InputError, match="a process that was ended from outside.*same command"):
        run(windows_tools, tmp_path, workers=2)


def test_a_plan_is_the_tracks_where_nothing_else_is_said():
    track = load_track("demo")
    plan = plan_of(track, "mdm-acc0.1")
    assert (plan.repetitions, plan.seconds) == (1, (3.0, 3.2)) and plan.motions == 80
    assert plan.batch_size == track.sampling.batch_size and plan.guidance is None
    assert plan_of(track, "mdm", motions=1000).repetitions == 13
    other = plan_of(track, "mdm", repetitions=100, seconds=(2.0, 5.0), shard_size=50, seed=4)
    assert other.motions == 8000 and len(other.shards) == 160 and other.seed == 4
    assert processors() >= 1


# ---------------------------------------------------------------- the command
@pytest.fixture(scope="module")
def track(tiny, tmp_path_factory):
    """The smallest track with stages 00 to 02 done, and three prompts."""
    folder = tmp_path_factory.mktemp("track")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IMU_RUNS", str(folder / "runs"))
        patch.setitem(TEXT_ENCODERS, "words", lambda cache: WordEncoder())
        patch.setattr(synthesis_runs, "load_prompts", lambda path: PROMPTS)
        track = write_track(tiny, folder)
        write_shared(track)
        training, held_out = (data.load_motions(track, split) for split in ("train", "val"))
        study = arms.Study(track, "mdm", training, held_out, {})
        study.make_base(study.start())
        yield track


def command(track, folder, *more, code=0):
    given = ["--track", str(track.file), "--model", "mdm", "--out", str(folder), "--quiet"]
    answer = CliRunner().invoke(cli.main, ["synthesise", *given, *more])
    assert answer.exit_code == code and "Traceback" not in answer.output, answer.output
    return answer.output


def test_the_command_makes_the_windows_of_the_paper(track, tmp_path):
    """The same requests through the cells of stages 03, 04 and 07, and through shards."""
    requests = draw_requests(PROMPTS, 2, tuple(track.sampling.seconds), 20.0)
    shared = runs.open_run(track.name, runs.SHARED, "01_prompt_generation", {"new": 1}, {})
    shared.finish({}, [write_table(shared.path("requests.parquet"), requests)])
    sample_and_fit(track, "mdm")
    sense(track, "mdm")
    expected = synthetic_windows(track, "mdm")
    asked = ("--repetitions", "2", "--workers", "1")
    told = command(track, tmp_path / "out", *asked)
    assert "mdm on small: 6 motions in 3 shards, of which 0 were there already" in told
    for word in ("windows", "rows", "MB in", "sampling", "fitting", "sensors", "writing"):
        assert word in told
    site = track.recordings.sites[0]
    table = pd.concat(map(pd.read_parquet, sorted((tmp_path / "out").rglob("*.parquet"))))
    table = table[table["site"] == site]
    found = np.stack([np.reshape(acc, (40, 3)) for acc in table["acc"]])
    assert found.shape == expected.x[..., :3].shape == (96, 40, 3)
    assert np.median(np.abs(found - expected.x[..., :3])) < 1e-3 * expected.x.std()
    assert_array_equal(table["body"], expected.subjects)
    assert "of which 3 were there already" in command(track, tmp_path / "out", *asked)
    # A model that was trained again makes other motions.
    base = arms.STAGE
    other = runs.open_run(track.name, "mdm", base, {"other": 1}, {})
    other.finish({}, [other.path(arms.PRIOR)])
    told = command(track, tmp_path / "out", *asked, code=2)
    assert "found other prior; expected the same plan and ingredients" in told


def test_bad_arguments_are_messages(track, tmp_path):
    assert "the finished stage 02_finetuning of mdm-acc9" in command(
        track, tmp_path / "out", "--model", "mdm-acc9", code=2
    )
    assert "'3-20' is no job such as 3/20" in command(
        track, tmp_path / "out", "--only", "3-20", code=2
    )
    assert "--repetitions or --motions" in command(
        track, tmp_path / "out", "--repetitions", "2", "--motions", "9", code=2
    )
    assert "only: found 4/3" in command(track, tmp_path / "out", "--only", "4/3", code=2)
    assert not (tmp_path / "out").exists()
