import pickle
import shutil
import socket

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from t2imu_utils.models.text import load_text_encoder, sentence_embeddings

MINILM_FINGERPRINT = "7561a068012a64e0987582356349c2762927470ab83fa32e8cf394c75da144cf"
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


@pytest.fixture(scope="module")
def fetched(tmp_path_factory, layouts):
    """Data root with both models in the layouts of their hub."""
    root = tmp_path_factory.mktemp("raw")
    layouts.write_distilbert(root / "text_encoders" / "distilbert-base-uncased")
    layouts.write_clip(root / "text_encoders" / "clip-vit-base-patch32")
    return root


@pytest.fixture
def models(fetched, monkeypatch):
    monkeypatch.setenv("T2IMU_DATA", str(fetched))
    return fetched / "text_encoders"


@pytest.fixture
def own(fetched, tmp_path, monkeypatch):
    """The models once more, to be spoilt."""
    shutil.copytree(fetched / "text_encoders", tmp_path / "own" / "text_encoders")
    monkeypatch.setenv("T2IMU_DATA", str(tmp_path / "own"))
    return tmp_path / "own" / "text_encoders"


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
    # Older priors remember it.
    assert encoder.fingerprint == MINILM_FINGERPRINT
    assert (encoder.pooled_width, encoder.max_tokens) == (384, 256)


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
    library = SentenceTransformer(str(encoder.folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(
        embeddings, library.encode(TEXTS, normalize_embeddings=True), atol=1e-5
    )
    assert embeddings.shape == (6, 384) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(pooled, embeddings, atol=1e-5)


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


def test_tokens_are_counted_before_a_text_is_cut(encoder, monkeypatch, capfd):
    counts = encoder.count_tokens([*TEXTS, "walk " * 400, TEXTS[0]])
    assert counts == [7, 4, 18, 6, 8, 7, 402, 7]
    assert encoder.count_tokens([]) == []
    again = load_text_encoder("minilm")
    monkeypatch.setattr(type(again), "network", None)  # the transformer is not needed
    assert again.count_tokens(["walk " * 600]) == [602]
    assert capfd.readouterr() == ("", "")


def padded(folder, network_class, **options):
    """A plain call of the library: all texts in one padded batch."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = getattr(transformers, network_class).from_pretrained(folder).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt", **options)
    with torch.no_grad():
        return network, batch, network(batch["input_ids"], batch["attention_mask"])


def test_distilbert_states_are_those_of_a_plain_padded_call(models):
    encoder = load_text_encoder("distilbert")
    _, batch, out = padded(models / "distilbert-base-uncased", "DistilBertModel")
    tokens, valid = encoder.encode(TEXTS)
    assert torch.equal(valid, batch["attention_mask"].bool())
    assert tokens.dtype == torch.float32 and encoder.width == 32 and encoder.max_tokens == 512
    torch.testing.assert_close(tokens[valid], out.last_hidden_state[valid], atol=1e-5, rtol=0)
    # [CLS] person walks ... [SEP]: the marks count as tokens.
    assert valid.sum(1)[1] == len(["[CLS]", "someone", "runs", "[SEP]"])
    mean = (out.last_hidden_state * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
    torch.testing.assert_close(encoder.encode_pooled(TEXTS), mean, atol=1e-5, rtol=0)


def test_clip_states_are_those_of_a_plain_padded_call_of_the_whole_model(models):
    encoder = load_text_encoder("clip")
    network, batch, out = padded(models / "clip-vit-base-patch32", "CLIPTextModelWithProjection")
    tokens, valid = encoder.encode(TEXTS)
    assert torch.equal(valid, batch["attention_mask"].bool())
    assert (encoder.width, encoder.pooled_width, encoder.max_tokens) == (32, 24, 77)
    torch.testing.assert_close(tokens[valid], out.last_hidden_state[valid], atol=1e-5, rtol=0)
    pooled = encoder.encode_pooled(TEXTS)
    last = valid.sum(1) - 1
    projected = network.text_projection(tokens[torch.arange(len(TEXTS)), last])
    torch.testing.assert_close(pooled, projected.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, out.text_embeds, atol=1e-5, rtol=0)
    # Texts are told apart, and their vectors are not brought to length 1.
    assert torch.cdist(pooled, pooled).fill_diagonal_(9).min() > 0.01
    assert (pooled.norm(dim=1) - 1).abs().min() > 0.01


def test_clip_for_mdm_cuts_at_twenty_tokens_and_padding_to_77_changes_nothing(models):
    from transformers import AutoTokenizer, CLIPModel

    folder = models / "clip-vit-base-patch32"
    long = "a person walks forward and then " * 6
    ids = AutoTokenizer.from_pretrained(folder)(long)["input_ids"]
    # As official MDM does it: 20 tokens between the marks, then zeros without an attention mask.
    official = torch.tensor([[*ids[:21], ids[-1], *[0] * 55]])
    with torch.no_grad():
        network = CLIPModel.from_pretrained(folder).eval()
        states = network.text_model(official).last_hidden_state
        pooled = network.text_projection(states[:, official[0].argmax()])
    encoder = load_text_encoder("clip_mdm")
    tokens, valid = encoder.encode([long])
    assert valid.shape == (1, 22) and valid.all()
    torch.testing.assert_close(tokens, states[:, :22], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode_pooled([long]), pooled, atol=1e-5, rtol=0)
    whole = load_text_encoder("clip")
    assert (whole.encode_pooled([long]) - pooled).abs().max() > 1e-3
    torch.testing.assert_close(whole.encode_pooled(TEXTS[:2]), encoder.encode_pooled(TEXTS[:2]))


def test_a_fingerprint_follows_weights_tokenizer_and_limit(own):
    def fingerprint(name="clip"):
        return load_text_encoder(name).fingerprint

    before = fingerprint()
    assert len({before, fingerprint("clip_mdm"), fingerprint("distilbert")}) == 3
    folder = own / "clip-vit-base-patch32"
    (folder / "README.md").write_text("not a part of the model")
    assert fingerprint() == before
    merges = (folder / "merges.txt").read_text()
    (folder / "merges.txt").write_text(merges + "r u\n")
    assert fingerprint() != before
    (folder / "merges.txt").write_text(merges)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["text_projection.weight"][0, 0] += 1e-3
    torch.save(state, folder / "pytorch_model.bin")
    assert fingerprint() != before


def test_an_encoder_that_was_used_can_be_sent_to_another_process(encoder):
    states = encoder.encode(["a person walks"])[0]
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(again.encode(["a person walks"])[0], states)
    assert encoder.count_tokens(["a person walks"]) == again.count_tokens(["a person walks"])
