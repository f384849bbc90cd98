import json
import multiprocessing
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors import parallel, training
from t2imu_utils.priors.parallel import Team, launch
from t2imu_utils.priors.training import TrainConfig, train

# Five clips do not divide by two.
CONFIG = TrainConfig(
    steps=8, batch_size=5, learning_rate=1e-3, max_frames=16, checkpoint_every=3, validate_every=4
)

FAILURES = """
import os
import signal
import time

import torch

from t2imu_utils.errors import InputError


def work(team, task):
    with open(f"{task['folder']}/{team.index}", "w") as file:
        file.write(str(os.getpid()))
    if team.index == 1 and task["how"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    total = team.sum(torch.ones(2) * (team.index + 1))
    assert total.tolist() == [3.0, 3.0] and torch.get_num_threads() == task["threads"]
    team.tell(3, 0.5)
    time.sleep(1)
    if team.index == 1:
        raise InputError("clips/7.npy", "nothing", "a motion", "Make it again.")
    time.sleep(60)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A function that new processes can import."""
    (tmp_path / "t2imu_failures.py").write_text(FAILURES)
    monkeypatch.syspath_prepend(tmp_path)
    import t2imu_failures

    return t2imu_failures.work


def assert_same(one, other):
    """Curves and weights are equal but for rounding."""
    (trained, curves), (again, others) = one, other
    assert curves["split"].equals(others["split"])
    numbers = [x.drop(columns="split").to_numpy(dtype=float) for x in (curves, others)]
    np.testing.assert_allclose(*numbers, rtol=2e-5, equal_nan=True)
    state = again.model.state_dict()
    for name, x in trained.model.state_dict().items():
        # The bias of keys has no gradient but rounding, which Adam scales up to whole steps.
        atol = 8e-3 if name.endswith("in_proj_bias") else 1e-6
        torch.testing.assert_close(state[name], x, rtol=1e-4, atol=atol)


def assert_file_is(folder, trained):
    (path,) = folder.iterdir()
    kept = torch.load(path, weights_only=True)["ema"]
    assert all(torch.equal(kept[name], x) for name, x in trained.model.state_dict().items())


@pytest.fixture
def whole(prior, clips, tmp_path):
    return train(prior, clips, CONFIG, tmp_path / "whole", clips[:3], progress=False)


def test_two_processes_train_as_one_does(prior, clips, tmp_path, whole):
    folder = tmp_path / "two"
    two = train(prior, clips, CONFIG, folder, clips[:3], progress=False, processes=2)
    assert_same(whole, two)
    assert not torch.equal(*(p.model.embed_text.weight for p in (prior, two[0])))
    assert_file_is(folder, two[0])
    entries = [trained.history[0] for trained in (whole[0], two[0])]
    assert entries[0].keys() == entries[1].keys() and entries[0]["config"] == entries[1]["config"]
    # The state is that of a training in one process, which finds it finished.
    again, curves = train(prior, clips, CONFIG, folder, clips[:3], progress=False)
    assert curves.equals(two[1])


def test_two_processes_go_on_where_one_was_interrupted(prior, clips, tmp_path, whole, monkeypatch):
    folder = tmp_path / "parts"
    update = training._Training.update

    def interrupted(self, batch):
        if self.step == 5:
            raise KeyboardInterrupt
        update(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training._Training, "update", interrupted)
        train(prior, clips, CONFIG, folder, clips[:3], progress=False)
    config = replace(CONFIG, accumulate=2)
    two = train(prior, clips, config, folder, clips[:3], progress=False, processes=2)
    assert_same(whole, two)
    assert two[0].history[-1]["config"]["accumulate"] == 2
    # The steps before the interruption are those that were saved.
    assert two[1].iloc[:3].equals(whole[1].iloc[:3])


def test_parts_of_a_batch_add_up_to_it(prior, clips, tmp_path, whole):
    config = replace(CONFIG, accumulate=3)
    parts = train(prior, clips, config, tmp_path / "parts", clips[:3], progress=False)
    assert_same(whole, parts)


def test_parts_of_processes_make_up_the_batch(prior, clips, tmp_path):
    rows = []
    for index in range(2):
        team = Team()
        team.index, team.count = index, 2
        task = training._Task(
            prior.model, prior.normaliser, "", training.Dataset(prior, clips), None,
            replace(CONFIG, accumulate=2), tmp_path,
        )  # fmt: skip
        state = training._Training(task, team)
        batch = training.draw_batch(task.data, CONFIG, 10, 0)
        parts = list(state._parts(batch))
        assert [last for _, _, last in parts] == [False, True]
        assert [share for _, share, _ in parts] == [len(part.t) / 5 for part, _, _ in parts]
        rows += [part.x0 for part, _, _ in parts]
    assert torch.equal(torch.cat(rows), batch.x0)
    assert sorted(map(len, rows)) == [1, 1, 1, 2]


def test_a_killed_process_is_told_and_ends_the_others(work, tmp_path):
    before = set(multiprocessing.active_children())
    with pytest.raises(InputError, match="process 2 of 2.*SIGKILL.*goes on from the last checkp"):
        launch(work, {"how": "killed", "folder": str(tmp_path)}, 2)
    # One that was ended before it had begun has left no number.
    begun = [path for path in tmp_path.iterdir() if path.name in ("0", "1")]
    assert begun
    for path in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
    assert set(multiprocessing.active_children()) <= before


def test_progress_and_what_is_refused_are_told_and_threads_divided(work, tmp_path):
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(4)
    task = {"how": "refused", "folder": str(tmp_path), "threads": 2}
    try:
        with pytest.raises(InputError, match="7.npy: found nothing; expected a motion") as error:
            launch(work, task, 2, progress=lambda step, loss: seen.append((step, loss)))
    finally:
        torch.set_num_threads(before)
    assert "t2imu_failures.py" in str(error.value.__cause__)
    assert set(seen) == {(3, 0.5)}
    assert torch.get_num_threads() == before


def test_the_first_error_is_the_cause(tmp_path):
    for index, (time, error) in enumerate([(2.0, "Connection closed"), (1.0, "KeyError: 'x'")]):
        content = json.dumps({"time": time, "traceback": error})
        (tmp_path / f"error-{index}.json").write_text(content)
    found = parallel._failure(tmp_path, [1, None])
    assert isinstance(found, RuntimeError) and "KeyError: 'x'" in str(found)
    killed = parallel._failure(tmp_path, [1, -15])
    assert isinstance(killed, InputError) and "process 2 of 2" in str(killed)


def test_a_process_that_cannot_begin_is_told(tmp_path):
    assert "process 2 of 2: it ended with code 1" in str(parallel._failure(tmp_path, [None, 1]))


def test_more_processes_than_devices_are_refused(work, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="6 with 2 CUDA devices.*at most 2"):
        launch(work, {}, 6, "cuda")
    with pytest.raises(InputError, match="mps.*cpu or cuda"):
        launch(work, {}, 2, "mps")
