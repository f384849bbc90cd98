"""From requests to a file of windows, and what readers of Parquet make of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_array_equal

from t2imu_utils.activities import SITES
from t2imu_utils.analysis.windows import labelled_windows
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.imu.sensors import synthesise
from t2imu_utils.imu.windows import windows
from t2imu_utils.models.generator import family
from t2imu_utils.models.prompts import draw_requests
from t2imu_utils.runs import PACKAGE
from t2imu_utils.shards import COLUMNS, SIZE, Plan
from t2imu_utils.synthesis import SCHEMA, STAGES, check_plan, make_shard, tools_of
from t2imu_utils.tracks import GeneratorSection, RecordingsSection, load_track

PROMPTS = {
    "climbing down": ["a person walks down the stairs"],
    "walking": ["a person walks", "a person strolls along slowly"],
}
PLAN = Plan("demo", "mdm", PROMPTS, 2, (2.5, 4.5), shard_size=2, batch_size=3)
KEYS = ["motion", "body", "start_frame"]


@pytest.fixture(scope="module")
def written(windows_tools, tmp_path_factory):
    """All shards of `PLAN`, laid out as a store does: folder and facts."""
    folder = tmp_path_factory.mktemp("windows") / "windows"
    facts = {}
    for shard in PLAN.shards:
        path = folder / "generator=mdm" / f"{shard.name}.parquet"
        facts[path] = make_shard(windows_tools, PLAN, shard, path)
    return folder, facts


def as_notebooks(tools, requests):
    """Virtual sensors of requests as notebooks 03 and 04 make them."""
    prior, batch_size = tools.prior, PLAN.batch_size
    motions = tools.generator.sample(prior, requests, None, batch_size, progress=False)
    fits = tools.generator.fits(prior, motions, tools.body)
    return synthesise(fits, tools.body, tools.shapes, tools.sites, progress=False)


@pytest.fixture(scope="module")
def virtual(windows_tools):
    """The same motions in the order of notebook 01, made with those of their shard."""
    requests = draw_requests(PROMPTS, 2, PLAN.seconds, 20.0)
    parts = [as_notebooks(windows_tools, part) for _, part in requests.groupby("prompt")]
    order = requests["prompt"].drop_duplicates().rank().astype(int) - 1
    return Clips.concat([parts[i] for i in order])


def signals(table, channel, site):
    rows = table[table["site"] == site]
    return np.stack(rows[channel].to_list()).reshape(-1, SIZE, 3)


@pytest.mark.parametrize("site", ["head", "shin_other"])
def test_windows_are_those_of_the_notebooks(written, virtual, site):
    section = RecordingsSection(
        reader="realworld", labels="activities", classes=list(PROMPTS),
        channels=["acc", "gyro"], sites=[site],
    )  # fmt: skip
    expected = labelled_windows(virtual, section, None, 0)
    table = pd.concat(map(pd.read_parquet, written[1]), ignore_index=True)
    found = np.concatenate([signals(table, name, site) for name in ("acc", "gyro")], axis=-1)
    assert len(found) == len(table) // 9 > 12
    assert_array_equal(found, expected.x)
    rows = table[table["site"] == site]
    assert rows["body"].tolist() == expected.subjects.tolist()


def test_what_motions_are_made_with_is_a_matter_of_rounding(windows_tools, written):
    """All at once, as the notebooks do; twice differentiated, rounding is not so small."""
    virtual = as_notebooks(windows_tools, draw_requests(PROMPTS, 2, PLAN.seconds, 20.0))
    expected = windows(virtual, channels=["acc"], sites=["chest"])[0]
    found = np.concatenate([signals(pd.read_parquet(p), "acc", "chest") for p in written[1]])
    assert np.median(np.abs(found - expected)) < 1e-3 * expected.std()


def test_a_row_says_where_it_is_from(written):
    table = pd.concat(map(pd.read_parquet, written[1]), ignore_index=True)
    asked = pd.concat([PLAN.requests(shard) for shard in PLAN.shards]).set_index("motion")
    for name in ("prompt", "repetition", "seed"):
        assert table[name].tolist() == asked.loc[table["motion"], name].tolist()
    assert not table.duplicated([*KEYS, "site"]).any()
    last = table.groupby("motion")["start_frame"].max()
    assert_array_equal(last, (asked["frames"].sort_index() - SIZE) // 20 * 20)
    assert set(table["start_frame"]) == {0, 20}
    assert table.groupby(KEYS)["site"].apply(list).map(list(SITES).__eq__).all()


def test_a_file_has_a_row_group_for_each_site(written):
    path = next(iter(written[1]))
    file = pq.ParquetFile(path)
    assert file.schema_arrow.equals(SCHEMA, check_metadata=True)
    # Generator and activity are folders; a file that had them too would clash with those.
    assert set(file.schema_arrow.names) == set(COLUMNS) - {"generator", "activity"}
    groups = [file.read_row_group(i).column("site").unique().to_pylist() for i in range(9)]
    assert groups == [[site] for site in SITES] and file.num_row_groups == 9
    statistics = file.metadata.row_group(2).column(file.schema_arrow.names.index("site")).statistics
    assert statistics.min == statistics.max == "upperarm"


def test_facts_of_a_shard(written):
    for path, facts in written[1].items():
        rows = pq.read_metadata(path).num_rows
        assert facts["motions"] == 2 and facts["dropped"] == 0
        assert facts["rows"] == rows == 9 * facts["windows"] and facts["joint error (mm)"] > 0
        assert list(facts["seconds"]) == list(STAGES) and min(facts["seconds"].values()) > 0


def test_threads_do_not_change_a_bit(windows_tools, written, tmp_path):
    torch.set_num_threads(2)
    try:
        make_shard(windows_tools, PLAN, PLAN.shards[1], tmp_path / "again.parquet")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert sha256(tmp_path / "again.parquet") == sha256(list(written[1])[1])


def test_gravity_is_that_of_the_plan(windows_tools, written, tmp_path):
    fallen = Plan("demo", "mdm", PROMPTS, 2, PLAN.seconds, 2, batch_size=3, gravity=0.0)
    make_shard(windows_tools, fallen, PLAN.shards[0], tmp_path / "fallen.parquet")
    tables = [pd.read_parquet(p) for p in (next(iter(written[1])), tmp_path / "fallen.parquet")]
    acc, without = (signals(table, "acc", "chest") for table in tables)
    np.testing.assert_allclose(np.linalg.norm(acc - without, axis=-1), 9.81, rtol=1e-3)


def test_an_interrupted_shard_leaves_no_file(windows_tools, tmp_path, monkeypatch):
    def stop(self, table, *others):
        if table.column("site")[0].as_py() == "waist":
            raise KeyboardInterrupt
        return write(self, table, *others)

    write = pq.ParquetWriter.write_table
    monkeypatch.setattr(pq.ParquetWriter, "write_table", stop)
    path = tmp_path / "shard.parquet"
    with pytest.raises(KeyboardInterrupt):
        make_shard(windows_tools, PLAN, PLAN.shards[0], path)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- readers
def test_pandas_reads_the_folder(written):
    folder, facts = written
    table = pd.read_parquet(folder, filters=[("site", "in", ["chest", "shin"])])
    assert set(table) == set(COLUMNS) and set(table["site"]) == {"chest", "shin"}
    assert len(table) == 2 * sum(each["windows"] for each in facts.values())
    assert set(table["activity"]) == set(PROMPTS) and set(table["generator"]) == {"mdm"}
    at = table["activity"] == "climbing down"
    assert set(table.loc[at, "prompt"]) == set(PROMPTS["climbing down"])
    assert signals(table, "gyro", "shin").dtype == np.float32


def test_pyarrow_reads_the_folder(written):
    folder, facts = written
    windows = ds.dataset(folder, partitioning="hive")
    chosen = (ds.field("activity") == "walking") & (ds.field("site") == "head")
    table = windows.to_table(columns=["acc", "motion"], filter=chosen)
    assert table.column_names == ["acc", "motion"]
    paths = [path for path in facts if path.parent.name == "activity=walking"]
    assert table.num_rows == sum(facts[path]["windows"] for path in paths) > 0


def test_polars_reads_the_folder(written):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    folder, facts = written
    lazy = polars.scan_parquet(folder, hive_partitioning=True)
    table = lazy.filter(polars.col("site") == "head").select("activity", "acc").collect()
    assert table["acc"].to_numpy().shape == (sum(f["windows"] for f in facts.values()), 120)
    assert set(table["activity"]) == set(PROMPTS)


def test_duckdb_reads_the_folder(written):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    folder, facts = written
    found = duckdb.sql(
        "select activity, count(*), min(len(gyro)) from "
        f"read_parquet('{folder}/**/*.parquet', hive_partitioning=true) "
        "where site = 'head' group by activity"
    ).fetchall()
    assert {row[0] for row in found} == set(PROMPTS) and {row[2] for row in found} == {120}
    assert sum(row[1] for row in found) == sum(each["windows"] for each in facts.values())


# ---------------------------------------------------------------- what cannot be made
def test_what_the_prior_cannot_make_is_told_first(windows_tools):
    long = Plan("demo", "mdm", PROMPTS, 1, (2.5, 11.0))
    with pytest.raises(InputError, match=r"frames\[0\]: found 220; expected .* to 196 frames"):
        check_plan(windows_tools, long)
    wordy = Plan("demo", "mdm", {"walking": ["on " * 61]}, 1, (2.5, 3.0))
    with pytest.raises(InputError, match=r"prompts\[0\]: found 61 words"):
        check_plan(windows_tools, wordy)
    check_plan(windows_tools, PLAN)


def test_motions_made_elsewhere_are_no_model():
    demo = load_track("demo")
    sections = {**demo.generators, "kimodo": GeneratorSection(family="exported")}
    track = demo.model_copy(update={"generators": sections})
    assert family("exported").ready_made
    with pytest.raises(InputError, match="kimodo: found motions that were made elsewhere"):
        tools_of(track, "kimodo")


def test_no_published_result_depends_on_it():
    """Shards may change without a run of the paper: nothing but the command imports them."""
    for name in ("shards", "synthesis", "synthesis_runs", "text_to_imu"):
        users = [
            path.relative_to(PACKAGE).as_posix()
            for path in Path(PACKAGE).rglob("*.py")
            if f"t2imu_utils.{name} import" in path.read_text(encoding="utf-8")
        ]
        allowed = {"cli.py", "synthesis.py", "synthesis_runs.py"}
        if name == "synthesis":  # whose rows of windows the other command makes too
            allowed |= {"text_to_imu.py"}
        assert set(users) <= allowed
