"""MDM of torch's own transformer layers, sequence first, as the authors' code has it."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2imu_utils.models.mdm import MDM, sinusoids


class PlainMDM(nn.Module):
    """The decoder variant; it takes the parameters of `t2imu_utils.models.mdm.MDM` as they are."""

    def __init__(self, model: MDM):
        super().__init__()
        config = model.config
        width = config.width
        layer = nn.TransformerDecoderLayer(
            width, config.heads, config.feedforward, config.dropout, activation="gelu"
        )
        self.input_process = nn.ModuleDict({"poseEmbedding": nn.Linear(config.channels, width)})
        self.seqTransDecoder = nn.TransformerDecoder(layer, config.layers)
        time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_timestep = nn.ModuleDict({"time_embed": time_embed})
        self.embed_text = nn.Linear(config.text_width, width)
        self.output_process = nn.ModuleDict({"poseFinal": nn.Linear(width, config.channels)})
        self.drop = nn.Dropout(config.dropout)
        positions = sinusoids(model.positions.shape[0], width)
        self.register_buffer("positions", positions, persistent=False)
        self.load_state_dict(model.state_dict())

    def forward(
        self, x: Float[Tensor, "T B 263"], t: Int[Tensor, "B"], conditions: dict[str, Tensor | bool]
    ) -> Float[Tensor, "T B 263"]:
        """Predict the clean motion.

        conditions: ``text`` (L, B, W), ``text_padding`` (B, L), ``frame_padding`` (B, T); an entry
        ``unconditional`` blanks all texts, ``dropped`` (B,) some.
        """
        text, dropped = conditions["text"], conditions.get("dropped")
        if conditions.get("unconditional"):
            text = torch.zeros_like(text)
        elif dropped is not None:
            text = text * (~dropped)[None, :, None]
        time = self.embed_timestep["time_embed"](self.positions[t])
        frames = self.input_process["poseEmbedding"](x) + self.positions[: len(x), None]
        hidden = self.seqTransDecoder(
            tgt=self.drop(frames),
            memory=self.embed_text(text) + time,
            tgt_key_padding_mask=conditions["frame_padding"],
            memory_key_padding_mask=conditions["text_padding"],
        )
        return self.output_process["poseFinal"](hidden)


def frame_padding(lengths: list[int], longest: int) -> Bool[Tensor, "B T"]:
    """True where a motion has ended."""
    return torch.arange(longest)[None] >= torch.tensor(lengths)[:, None]
