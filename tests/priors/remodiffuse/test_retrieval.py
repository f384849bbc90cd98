from dataclasses import replace

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.retrieval import (
    build_database,
    gather,
    retrieve,
    token_states,
    versioned,
)
from t2imu_utils.priors.text import load_text_encoder


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


def test_one_caption_at_two_lengths_gets_two_sets_of_motions(database, encoder):
    pooled = encoder.encode_pooled(["a person runs"] * 2).numpy()
    short, long = retrieve(database, pooled, [8, 24])
    assert short.tolist() != long.tolist()
    assert database.lengths[short[0]] < database.lengths[long[0]]


def test_equal_items_come_in_the_order_of_their_rows():
    database = items([[1, 0]] * 5, [10] * 5)
    assert retrieve(database, np.array([[1.0, 0.0]]), [10], count=3).tolist() == [[0, 1, 2]]


def test_a_query_is_answered_alike_alone_and_among_others():
    rng = np.random.default_rng(0)
    database = items(rng.standard_normal((40, 8)), rng.integers(4, 200, 40))
    queries, lengths = rng.standard_normal((600, 8)), rng.integers(4, 200, 600)
    together = retrieve(database, queries, lengths)
    for i in (0, 255, 256, 599):
        assert np.array_equal(retrieve(database, queries[i : i + 1], lengths[i : i + 1])[0],
                              together[i])  # fmt: skip


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


def test_kin_is_never_retrieved(database, clips, encoder):
    for clip in clips:
        pooled = encoder.encode_pooled(clip.captions[:1]).numpy()
        frames = [len(clip.features)]
        best = retrieve(database, pooled, frames)[0]
        assert database.names[best[0]] == clip.name
        other = retrieve(database, pooled, frames, [database.kin(clip)])[0]
        assert clip.name not in [database.names[row] for row in other]


def test_a_database_holds_normalised_starts_and_first_captions(clips, normaliser, encoder):
    database = build_database(clips, normaliser, encoder, max_frames=10)
    assert len(database) == 12 and database.lengths.max() == 10
    np.testing.assert_allclose(
        database.motions[3].numpy(), normaliser.normalise(clips[3].features[:10]), atol=1e-6
    )
    assert database.captions == [clip.captions[0] for clip in clips]
    tokens, valid = encoder.encode([clips[3].captions[0]])
    assert torch.equal(database.tokens[3], tokens[0][valid[0]])


def test_the_version_is_that_of_all_ingredients(clips, normaliser, encoder, database):
    def build(clips=clips, normaliser=normaliser):
        return build_database(clips, normaliser, encoder, max_frames=24).version

    assert build() == database.version
    renamed = [replace(clips[0], name="other"), *clips[1:]]
    moved = [replace(clips[0], features=clips[0].features + 1e-3), *clips[1:]]
    said = [replace(clips[0], captions=["a person waits"]), *clips[1:]]
    cut = [replace(clips[0], source="take 1"), *clips[1:]]
    wider = Normaliser(normaliser.mean, normaliser.std * np.float32(1.01))
    others = [build(chosen) for chosen in (renamed, moved, said, cut, clips[::-1])]
    others.append(build(normaliser=wider))
    encoder.fingerprint = "0" * 64
    others.append(build())
    assert len({database.version, *others}) == 8


def test_clips_that_cannot_be_retrieved_are_named(clips, normaliser, encoder):
    with pytest.raises(InputError, match="clips: found none"):
        build_database([], normaliser, encoder)
    with pytest.raises(InputError, match="clip0: captions"):
        build_database([replace(clips[0], captions=[])], normaliser, encoder)
    broken = replace(clips[1], features=np.full((9, 263), np.nan, np.float32))
    with pytest.raises(InputError, match="clip1: features"):
        build_database([broken], normaliser, encoder)


def test_gathered_items_are_padded_with_their_masks(database):
    rows = np.array([[0, 5], [7, 0]])
    motion, shown, text, said = gather(database, rows)
    assert motion.shape[:2] == text.shape[:2] == (2, 2)
    for place, row in np.ndenumerate(rows):
        assert torch.equal(motion[place][shown[place]], database.motions[row])
        assert torch.equal(text[place][said[place]], database.tokens[row])
    assert not motion[~shown].any() and shown.any(dim=(0, 1)).all()


def test_clip_states_are_77_and_end_with_padding_that_has_seen_the_text(
    layouts, tmp_path, monkeypatch
):
    from transformers import AutoTokenizer, CLIPTextModel

    folder = tmp_path / "text_encoders" / "clip-vit-base-patch32"
    layouts.write_clip(folder)
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path))
    encoder = load_text_encoder("clip")
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
    with pytest.raises(InputError, match=r"texts\[1\]: found ' '"):
        token_states(encoder, ["so", " "])


def test_other_encoders_give_their_real_tokens(encoder):
    texts = ["a person walks", "so"]
    for found, expected in zip(token_states(encoder, texts), encoder.encode(texts), strict=True):
        assert torch.equal(found, expected)
