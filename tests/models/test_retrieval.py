from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.models.retrieval import (
    read_database,
    retrieve,
    save_database,
    token_states,
    versioned,
)


def items(vectors, lengths, names=None, sources=None):
    names = names or [f"{i}" for i in range(len(lengths))]
    return versioned(
        captions=["walks"] * len(lengths),
        motions=[torch.full((n, 263), float(i)) for i, n in enumerate(lengths)],
        tokens=[torch.ones(2, 3)] * len(lengths),
        pooled=np.array(vectors, dtype=np.float32),
        names=names,
        sources=sources or [""] * len(lengths),
        encoder=("words", "f" * 64),
        statistics=None,
    )


def test_the_score_is_cosine_times_nearness_of_length():
    # Cosines with (1, 0): 1, 0.995, 0.995, 0; the second is 4.8 s shorter, the third as long.
    database = items([[3, 0], [1, 0.1], [2, 0.2], [0, 1]], [4, 4, 100, 100])
    cosine = 1 / np.hypot(1, 0.1)
    first, second, third = np.exp(-0.096), cosine * np.exp(-0.096), cosine
    assert third > first > second
    assert retrieve(database, np.array([[5.0, 0.0]]), [100]).tolist() == [[2, 0]]
    assert retrieve(database, np.array([[5.0, 0.0]]), [4]).tolist() == [[0, 1]]
    # The nearness is at least exp(-0.1): caption before length, unless its weight says otherwise.
    assert retrieve(database, np.array([[0.0, 1.0]]), [4]).tolist()[0][0] == 3
    heavy = retrieve(database, np.array([[1.0, 0.0]]), [100], count=3, length_weight=9.0)
    assert heavy.tolist() == [[2, 0, 1]]


def test_twins_and_cuts_and_whatever_shares_a_recording_are_kin(clips):
    names = ["000012", "M000012", "000012_20_80", "M000012_20_80", "000013", "000112", "000014"]
    sources = ["a/walk", "", "", "", "a/walk", "", "b/run"]
    database = items([[1, 0]] * 7, [10] * 7, names, sources)

    def kin(name, source=""):
        return database.kin(replace(clips[0], name=name, source=source))

    assert kin("000012") == [0, 1, 2, 3]
    assert kin("M000012_100_140") == [0, 1, 2, 3]
    assert kin("000012", "a/walk") == [0, 1, 2, 3, 4]
    assert kin("000099", "b/run") == [6]
    assert kin("000100") == []


def test_clip_states_are_77_and_end_with_padding_that_has_seen_the_text(clip_encoder):
    from transformers import AutoTokenizer, CLIPTextModel

    encoder, folder = clip_encoder, clip_encoder.folder
    texts = ["a person walks", "walks slowly on and on " * 40, "so"]
    states, valid = token_states(encoder, texts)
    assert states.shape == (3, 77, encoder.width) and valid.all()
    ids = torch.zeros(3, 77, dtype=torch.long)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row, found in zip(ids, tokenizer(texts)["input_ids"], strict=True):
        row[: len(found)] = torch.tensor(found)[:77]
    ids[1, 76] = tokenizer.eos_token_id
    with torch.no_grad():
        whole = CLIPTextModel.from_pretrained(folder)(ids).last_hidden_state
    torch.testing.assert_close(states, whole, atol=1e-5, rtol=1e-5)
    real, kept = encoder.encode(texts)
    torch.testing.assert_close(states[0][: kept[0].sum()], real[0][kept[0]], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states[0, 76], states[2, 76], atol=1e-3)
    assert torch.equal(token_states(encoder, texts[2:])[0][0], states[2])


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
        (lambda x: x.pop("motions"), "motions"),
        (lambda x: x["text_features"].__setitem__((0, 0), 9.0), "changed after"),
        (lambda x: x.update(captions=x["captions"][:-1]), "changed after"),
        (lambda x: x.pop("about"), "texts that clip"),
        (lambda x: x.update(about=np.frombuffer(b"{}", np.uint8)), "encoder"),
    ],
)
def test_faults_of_a_file_are_told(saved, encoder, change, message):
    rewrite(saved, change)
    with pytest.raises(InputError, match=message):
        read_database(saved, encoder)


def test_the_official_layout_is_read(official_database, clip_encoder, clips):
    database = read_database(official_database, clip_encoder)
    assert database.lengths.tolist() == [196, 40, 60, 120]
    assert database.encoder == ("clip", None) and database.names is None
    assert database.tokens[0].shape == (77, clip_encoder.width)
    pooled = clip_encoder.encode_pooled(["the woman sits down"]).numpy()
    assert retrieve(database, pooled, [60])[0, 0] == 2
    again = read_database(
        save_database(official_database.with_name("own.npz"), database), clip_encoder
    )
    assert again.version == database.version
    with pytest.raises(InputError, match="official files cannot be trained on"):
        database.kin(clips[0])
    rewrite(official_database, lambda x: x.update(motions=x["motions"] + 1))
    with pytest.raises(InputError, match="no z-scores"):
        read_database(official_database, clip_encoder)
