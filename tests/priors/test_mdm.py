import pytest
import torch
from torch import nn

from t2imu_utils.errors import InputError
from t2imu_utils.priors.mdm import MDMConfig, new_mdm, sinusoids

SMALL = {"layers": 2, "width": 32, "heads": 4, "feedforward": 48, "text_width": 24}


def inputs(frames=20, tokens=7, items=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "x_t": torch.randn(items, frames, 263, generator=g),
        "t": torch.randint(0, 50, (items,), generator=g),
        "text": torch.randn(items, tokens, 24, generator=g),
        "text_valid": torch.arange(tokens)[None] < torch.tensor([7, 3, 5])[:, None],
        "mask": torch.arange(frames)[None] < torch.tensor([20, 11, 16])[:, None],
    }


@pytest.fixture(params=["trans_dec", "trans_enc"])
def model(request):
    return new_mdm(MDMConfig(arch=request.param, **SMALL), 0).eval()


def test_forward_with_and_without_text_equals_the_official_model(golden):
    arguments = (
        golden.motion("x"), golden.tensor("t"), golden.text, golden.text_valid,
        golden.mask("lengths", 40),
    )  # fmt: skip
    with torch.no_grad():
        with_text = golden.model(*arguments)
        without = golden.model(*arguments, drop_text=torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(with_text, golden.motion("cond"), atol=1e-4, rtol=0)
    torch.testing.assert_close(without, golden.motion("uncond"), atol=1e-4, rtol=0)


def test_state_dict_has_the_official_names_and_shapes(golden):
    ours = {k: tuple(v.shape) for k, v in golden.model.state_dict().items()}
    assert ours == {k: s for k, s in golden.keys.items() if not k.endswith(".pe")}


def test_layers_equal_those_of_torch():
    ours = new_mdm(MDMConfig(arch="trans_dec", **SMALL), 1).seqTransDecoder.eval()
    layer = nn.TransformerDecoderLayer(32, 4, 48, activation="gelu", batch_first=True)
    theirs = nn.TransformerDecoder(layer, 2).eval()
    theirs.load_state_dict(ours.state_dict())
    x, memory = torch.randn(2, 9, 32), torch.randn(2, 5, 32)
    torch.testing.assert_close(ours(x, None, memory, None), theirs(x, memory), atol=1e-5, rtol=0)


def test_sinusoids():
    table = sinusoids(60, 32)
    assert table.shape == (60, 32)
    assert torch.equal(table[0], torch.tensor([0.0, 1.0] * 16))
    torch.testing.assert_close(table[:, 0], torch.arange(60.0).sin())
    torch.testing.assert_close(table[7, 3], torch.tensor(7 / 10000 ** (2 / 32)).cos())


def test_padding_does_not_change_valid_frames(model):
    given = inputs()
    other = dict(given)
    other["x_t"] = torch.where(given["mask"][..., None], given["x_t"], 50.0)
    other["text"] = torch.where(given["text_valid"][..., None], given["text"], -50.0)
    with torch.no_grad():
        a, b = model(**given), model(**other)
        alone = model(**{k: v[1:2] for k, v in given.items()})[0, :11]
        sizes = {"x_t": 11, "mask": 11, "text": 3, "text_valid": 3, "t": None}
        tight = {k: given[k][1:2, :n] if n else given[k][1:2] for k, n in sizes.items()}
        cut = model(**tight)[0]
    torch.testing.assert_close(a[given["mask"]], b[given["mask"]], atol=1e-5, rtol=0)
    torch.testing.assert_close(a[1, :11], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(a[1, :11], cut, atol=1e-5, rtol=0)


def test_every_input_matters(model):
    given = inputs()
    with torch.no_grad():
        base = model(**given)
        for name, value in {"t": given["t"] ^ 1, "text": given["text"] + 0.5}.items():
            assert (model(**(given | {name: value})) - base).abs().max() > 1e-3
        # The order of frames is seen: positions are marked.
        flipped = model(**(given | {"x_t": given["x_t"].flip(1), "mask": torch.ones(3, 20) > 0}))
        straight = model(**(given | {"mask": torch.ones(3, 20) > 0}))
        assert (flipped.flip(1) - straight).abs().max() > 1e-3


def test_dropping_the_text_of_one_item_touches_that_item_alone(model):
    given = inputs()
    with torch.no_grad():
        kept = model(**given)
        dropped = model(**given, drop_text=torch.tensor([False, True, False]))
        zero = model(**(given | {"text": given["text"] * torch.tensor([1.0, 0, 1])[:, None, None]}))
    assert torch.equal(dropped, zero)
    torch.testing.assert_close(dropped[[0, 2]], kept[[0, 2]])
    assert (dropped[1] - kept[1])[:11].abs().max() > 1e-3


def test_all_parameters_receive_a_gradient(model):
    model(**inputs()).square().mean().backward()
    silent = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_dropout_acts_in_training_only():
    model = new_mdm(MDMConfig(dropout=0.3, **SMALL), 0)
    given = inputs()
    assert not torch.equal(model(**given), model(**given))
    model.eval()
    assert torch.equal(model(**given), model(**given))


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(9)
    before = torch.get_rng_state()
    a, b, c = (new_mdm(MDMConfig(**SMALL), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["embed_text.weight"], c["embed_text.weight"])
    assert not torch.equal(
        a["seqTransDecoder.layers.0.linear1.weight"], a["seqTransDecoder.layers.1.linear1.weight"]
    )


@pytest.mark.parametrize(
    ("field", "value"), [("arch", "gru"), ("width", 30), ("dropout", 1.0), ("heads", 5)]
)
def test_impossible_sizes_are_refused(field, value):
    with pytest.raises(InputError):
        MDMConfig(**(SMALL | {field: value}))
