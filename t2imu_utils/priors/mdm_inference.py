"""MDM for guided sampling: what does not change from step to step is computed once.

The prediction is that of `diffusion.guided`, up to rounding, with less to compute. In a layer of
`trans_dec`, frames x attend to memory tokens m_l = E y_l + e + τ(t) of text states y_l, a bias e
and the step's time vector τ(t):

* A key's part W_k (e + τ) + b_k is the same for all tokens, so it adds one number to all scores of
  a query and falls out of the softmax; a value's part W_v (e + τ) + b_v passes through unchanged,
  since weights sum to 1. So keys and values of the text are the same at every step.
* Then a head's W_q and keys are one matrix (width, L), its values and W_o another (L, width): with
  a few tokens, two narrow products take the place of the two wide projections of each frame.
* Without text all tokens are alike, and attention gives W_o (W_v (e + τ) + b_v) + b_o whatever the
  query: a constant of the step.
* Before the first cross-attention both halves of the guided batch are alike, and the last layer is
  linear: both parts are computed once.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.priors import diffusion
from t2imu_utils.priors.mdm import MDM, Layer, key_bias

Precision = Literal["float32", "bfloat16"]


@torch.inference_mode()
def guided(
    model: MDM,
    text: Float[Tensor, "B L W"],
    text_valid: Bool[Tensor, "B L"],
    mask: Bool[Tensor, "B T"],
    guidance: float,
    precision: Precision = "float32",
) -> Callable[[Tensor, Tensor], Tensor]:
    """`diffusion.guided` for sampling: the same function of (x_t, t), without gradients or dropout.

    Of `trans_enc`, whose text is one token among the frames and so changes with every layer and
    step, nothing can be computed in advance: it is run as it is.

    precision: of matrix products with weights; sums, norms and the first and last layer stay in
    the model's own. float32 is whatever the model has.

    Raises:
        InputError: more frames than the model takes.
    """
    config = model.config
    if mask.shape[1] > config.max_frames:
        raise InputError(
            "MDM: frames of mask", str(mask.shape[1]), f"at most {config.max_frames}",
            "shorten the motion or use a prior with a larger max_frames",
        )  # fmt: skip
    dtype = torch.bfloat16 if precision == "bfloat16" else model.embed_text.weight.dtype
    if config.arch != "trans_dec":
        return _as_it_is(model, text, text_valid, mask, guidance, dtype)
    doubled = guidance != 1
    once = key_bias(mask if config.mask_frames else None, text)
    twice = torch.cat([once, once]) if doubled and once is not None else once
    states = F.linear(text, model.embed_text.weight)
    steps = model.positions[: config.diffusion_steps]
    wordless = model.embed_text.bias + model.embed_timestep["time_embed"](steps)
    layers = [
        _Layer(layer, states, text_valid, wordless, dtype) for layer in model.seqTransDecoder.layers
    ]
    places = model.positions[: mask.shape[1]]

    @torch.inference_mode()
    def predict(x_t: Float[Tensor, "B T C"], t: Tensor) -> Float[Tensor, "B T C"]:
        x = model.input_process["poseEmbedding"](x_t) + places
        for number, layer in enumerate(layers):
            x = layer.attend_frames(x, twice if number else once)
            if doubled and not number:
                x = torch.cat([x, x])
            x = layer.feed_forward(layer.attend_text(x, t))
        if doubled:
            with_text, without = x.chunk(2)
            x = without + guidance * (with_text - without)
        return model.output_process["poseFinal"](x)

    return predict


def _as_it_is(model, text, text_valid, mask, guidance, dtype) -> Callable[[Tensor, Tensor], Tensor]:
    plain = diffusion.guided(model, text, text_valid, mask, guidance)

    @torch.inference_mode()
    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, dtype, enabled=dtype == torch.bfloat16):
            return plain(x_t, t).to(x_t.dtype)

    return predict


class _Layer:
    """One layer of `trans_dec` for given texts; rows of x: those with text, then those without."""

    def __init__(
        self,
        layer: Layer,
        states: Float[Tensor, "B L C"],
        valid: Bool[Tensor, "B L"],
        wordless: Float[Tensor, "S C"],
        dtype: torch.dtype,
    ):
        self.layer, self.dtype = layer, dtype
        self.heads = layer.self_attn.heads
        own = layer.self_attn
        self.in_frames = self._cast(own.in_proj_weight, own.in_proj_bias)
        self.out_frames = self._cast(own.out_proj.weight, own.out_proj.bias)
        self.widen = self._cast(layer.linear1.weight, layer.linear1.bias)
        self.narrow = self._cast(layer.linear2.weight, layer.linear2.bias)

        other = layer.multihead_attn
        to_query, to_key, to_value = other.in_proj_weight.chunk(3)
        of_query, _, of_value = other.in_proj_bias.chunk(3)
        out = other.out_proj
        self.constant = out(F.linear(wordless, to_value, of_value))

        keys, values = (
            F.linear(states, weight).unflatten(-1, (self.heads, -1))
            for weight in (to_key, to_value)
        )
        keys = keys * keys.shape[-1] ** -0.5
        query = to_query.unflatten(0, (self.heads, -1))
        score = torch.einsum("hdc,blhd->bchl", query, keys)
        offset = torch.einsum("hd,blhd->bhl", of_query.unflatten(0, (self.heads, -1)), keys)
        offset = offset.masked_fill(~valid[:, None], float("-inf"))
        read = torch.einsum("blhd,chd->bhlc", values, out.weight.unflatten(1, (self.heads, -1)))
        self.score, self.offset, self.read = self._cast(
            score.flatten(2), offset.flatten(1)[:, None], read.flatten(1, 2)
        )

    def _cast(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.detach().to(self.dtype) for x in tensors)

    def attend_frames(self, x: Tensor, bias: Tensor | None) -> Tensor:
        low = x.to(self.dtype)
        parts = F.linear(low, *self.in_frames).chunk(3, dim=-1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)
        mask = None if bias is None else bias.to(self.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return self.layer.norm1(x + F.linear(out, *self.out_frames))

    def attend_text(self, x: Tensor, t: Tensor) -> Tensor:
        items = len(self.score)
        scores = torch.baddbmm(self.offset, x[:items].to(self.dtype), self.score)
        shares = scores.unflatten(-1, (self.heads, -1)).to(x.dtype).softmax(-1).flatten(-2)
        constant = self.constant[t][:, None]
        x = x + constant.repeat(len(x) // items, 1, 1)
        x[:items] += torch.bmm(shares.to(self.dtype), self.read)
        return self.layer.norm2(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(x.to(self.dtype), *self.widen))
        return self.layer.norm3(x + F.linear(hidden, *self.narrow))
