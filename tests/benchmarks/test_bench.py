"""The benchmark at miniature sizes: what it compares must be the same thing, done in two ways."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from t2imu_utils.models import diffusion, mdm
from tests.benchmarks import bench, growth
from tests.benchmarks.comparison import Comparison, Disagreement, measure, within
from tests.benchmarks.machine import Machine, measure_machine, peak_memory
from tests.benchmarks.operations import deepconvlstm, mdm_guided, mdm_pass
from tests.benchmarks.reference.signals import PlainNetwork
from tests.benchmarks.rows_priors import prior_of
from tests.benchmarks.sizes import QUICK

MACHINE = Machine("cpu", 1e11, 1e10)


# Not the notebook: a kernel takes seconds, and tests/test_execute.py runs it.
@pytest.mark.parametrize("name", [name for name in bench.ROWS if name != "notebook"])
def test_reference_and_ours_make_the_same(name, tmp_path):
    row = bench.ROWS[name](QUICK, MACHINE, tmp_path)
    told = row.agree(row.reference(), row.ours())
    assert told and row.floor > 0 and row.reference_units > 0 and row.our_units > 0


def counted(run) -> float:
    # Attention of one piece is not counted, its products are.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_operations_are_those_that_are_done():
    config, items, frames, tokens = replace(QUICK.mdm, width=64), 3, 20, 20
    model = prior_of(replace(QUICK, mdm=config)).model.eval()
    x, t = torch.randn(items, frames, config.channels), torch.zeros(items, dtype=torch.long)
    text, valid = torch.randn(items, tokens, 768), torch.ones(items, tokens, dtype=torch.bool)
    mask = torch.ones(items, frames, dtype=torch.bool)
    written = counted(lambda: model(x, t, text, valid, mask))
    # The embedding of the timestep is counted for every item, as it is done.
    assert mdm_pass(config, items, frames, tokens) == pytest.approx(written, rel=0.01)
    predict = mdm.fast_guided(model, text, valid, mask, 2.5)
    needed = counted(lambda: predict(x, t))
    assert mdm_guided(config, items, frames, tokens) == pytest.approx(needed, rel=0.01)
    both = counted(lambda: diffusion.guided(model, text, valid, mask, 2.5)(x, t))
    assert needed < 0.9 * both
    network = PlainNetwork(5, 3, filters=8, units=6, dropout=0.0)
    steps, lstm = 40 - 16, network.lstm
    # torch counts convolutions and the head; an LSTM's are those of its four gates at every step.
    gates = sum(w.numel() for name, w in lstm.named_parameters() if name.startswith("weight"))
    done = counted(lambda: network.convolutions(torch.randn(1, 1, 40, 5)))
    done += 2 * steps * gates + 2 * network.head.weight.numel()
    assert deepconvlstm(40, 5, 3, 8, 6) == pytest.approx(done, rel=0.01)


def test_a_row_of_two_different_things_is_an_error():
    def agree(one, other):
        return within(abs(one - other), 0.5, "{:.1f} apart")

    row = Comparison("name", "title", "thing", lambda: 1, lambda: 2, agree, "", 1e-6, "nothing")
    with pytest.raises(Disagreement, match="1.0 apart: more than 0.5"):
        measure(row, 1, "cpu")
    with pytest.raises(Disagreement, match="nan"):
        within(float("nan"), 0.5, "{:.1f} apart")


def test_times_are_told_a_unit_in_turns():
    turns = []
    row = measure(
        Comparison(
            "name", "title", "thing", lambda: turns.append("reference"),
            lambda: turns.append("ours"), lambda a, b: "same", ">= 2x", 1e-9, "nothing",
            reference_units=2, our_units=4, warm=False,
        ),
        2, "cpu",
    )  # fmt: skip
    assert turns == ["reference", "ours", "ours", "reference"]
    assert row.ratio == pytest.approx(np.median(row.reference) / np.median(row.ours))
    assert row.record()["times the floor"] == pytest.approx(np.median(row.ours) / 1e-9)


def test_peak_memory_is_that_of_the_call():
    found = peak_memory(lambda: bytearray(50_000_000), "cpu")
    if found is None:
        pytest.skip("the system does not tell the peak of resident memory")
    assert 45e6 < found < 80e6


def test_the_command_writes_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "measure_machine", lambda device, share, precision: MACHINE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = [tmp_path / "bench.json", tmp_path / "bench.md"]
    arguments = ["--quick", "--only", "features", "--repeats", "2"]
    ran = CliRunner().invoke(bench.main, [*arguments, *(f"--out={path}" for path in out)])
    assert ran.exit_code == 0, ran.output
    assert "GPU: not measured" in ran.output and "features differ by 0.0e+00" in ran.output
    (row,) = json.loads(out[0].read_text())["rows"]
    assert len(row["ours"]) == 2 and row["ratio"] > 0
    assert out[1].read_text().count("| catch22") == 1


def test_rates_of_the_machine_are_measured():
    machine = measure_machine("cpu", share=0.02)
    assert machine.copied > 1e6 and machine.rate > 1e6
    assert machine.operations(machine.rate) == pytest.approx(1.0)


def test_growth_has_the_exponent_of_its_times():
    sizes = [1, 2, 4, 8]
    assert growth.exponent(sizes, [3.0 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    panels = growth.growths(QUICK, "cpu", quick=True)
    found = {
        name: {"title": name, "axis": panel.axis, "sizes": panel.sizes, "times": [0.1, 0.2]}
        for name, panel in panels.items()
    }
    assert sum(axes.get_visible() for axes in growth.picture(found, "here").axes) == len(panels)
    panels["batch"].prepare(1)()
