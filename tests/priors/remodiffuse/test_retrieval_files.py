import json

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors.retrieval import retrieve
from t2imu_utils.priors.retrieval_files import read_database, save_database
from t2imu_utils.priors.text import load_text_encoder

CAPTIONS = ["a person walks", "a man runs", "the woman sits down", "someone jumps"]


@pytest.fixture
def saved(database, tmp_path):
    return save_database(tmp_path / "database.npz", database)


def rewrite(path, change):
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def test_a_database_comes_back_as_it_was(database, saved, encoder):
    found = read_database(saved, encoder)
    assert found.version == database.version
    assert (found.captions, found.names) == (database.captions, database.names)
    assert (found.sources, found.encoder) == (database.sources, database.encoder)
    assert all(torch.equal(a, b) for a, b in zip(found.motions, database.motions, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found.tokens, database.tokens, strict=True))
    pooled = encoder.encode_pooled(["a person runs"]).numpy()
    assert np.array_equal(retrieve(found, pooled, [9]), retrieve(database, pooled, [9]))
    assert [path.name for path in saved.parent.iterdir()] == ["database.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("motions"), "no motions"),
        (lambda x: x["text_features"].__setitem__((0, 0), 9.0), "version.*changed after"),
        (lambda x: x["motions"].__setitem__((x["m_lengths"].argmin(), -1), 1.0), "values behind"),
        (lambda x: x["motions"].__setitem__((0, 0, 0), np.nan), "row 0.*not finite"),
        (lambda x: x["m_lengths"].__setitem__(0, 0), "m_lengths: found 0 to"),
        (lambda x: x["token_counts"].__setitem__(0, 99), "token_counts.*99"),
        (lambda x: x.update(captions=x["captions"][:-1]), "captions: found shape \\(11,\\)"),
        (lambda x: x.update(motions=x["motions"][..., :251]), "251 channels"),
        (lambda x: x.update(motions=x["motions"].astype(int)), "motions: found int64"),
        (lambda x: x.update(about=np.frombuffer(b"{}", np.uint8)), "about"),
        (
            lambda x: x.update(
                about=np.frombuffer(json.dumps({"format": "other"}).encode(), np.uint8)
            ),
            "format 'other'",
        ),
    ],
)
def test_faults_of_a_file_are_told(saved, encoder, change, message):
    rewrite(saved, change)
    with pytest.raises(InputError, match=message):
        read_database(saved, encoder)


def test_objects_are_not_unpickled(saved, encoder):
    rewrite(saved, lambda x: x.update(captions=np.array(CAPTIONS * 3, dtype=object)))
    with pytest.raises(InputError, match="unreadable"):
        read_database(saved, encoder)


@pytest.fixture
def clip(layouts, tmp_path, monkeypatch):
    layouts.write_clip(tmp_path / "text_encoders" / "clip-vit-base-patch32")
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    return load_text_encoder("clip")


@pytest.fixture
def official(clip, tmp_path):
    """The five arrays of the official file, and the indexes that nothing reads."""
    rng = np.random.default_rng(0)
    lengths = np.array([196, 40, 60, 120])
    motions = rng.standard_normal((4, 196, 263)).astype(np.float32)
    motions[np.arange(196)[None] >= lengths[:, None]] = 0
    path = tmp_path / "t2m_text_train.npz"
    np.savez(
        path,
        text_features=clip.encode_pooled(CAPTIONS).numpy(),
        captions=np.array(CAPTIONS),
        motions=motions,
        m_lengths=lengths,
        clip_seq_features=rng.standard_normal((4, 77, clip.width)).astype(np.float32),
        train_indexes=np.zeros((4, 3), int),
        test_indexes=np.zeros((4, 3), int),
    )
    return path


def test_the_official_layout_is_read(official, clip, clips):
    database = read_database(official, clip)
    assert database.lengths.tolist() == [196, 40, 60, 120]
    assert database.encoder == ("clip", None) and database.names is None
    assert database.tokens[0].shape == (77, clip.width)
    pooled = clip.encode_pooled(CAPTIONS[2:3]).numpy()
    assert retrieve(database, pooled, [60])[0, 0] == 2
    again = read_database(save_database(official.with_name("own.npz"), database), clip)
    assert again.version == database.version
    with pytest.raises(InputError, match="official files cannot be trained on"):
        database.kin(clips[0])
