"""The recognition network of the paper: DeepConvLSTM (Ordóñez & Roggen 2016)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2imu_utils.errors import InputError

CONVOLUTIONS, KERNEL, LSTM_LAYERS = 4, 5, 2
SHRINK = CONVOLUTIONS * (KERNEL - 1)


class DeepConvLSTM(nn.Module):
    """Windows (B, T, C) to class scores (B, K).

    Four convolutions along time, the same for every channel and without padding (T shrinks by
    16); the maps of all channels then enter the LSTM step by step, and its last step is
    classified. Convolved as images of T rows and C columns, filters innermost in memory: the
    fastest of the layouts on a CPU, and that in which the LSTM reads them.
    """

    def __init__(self, channels: int, classes: int, filters: int, units: int, dropout: float):
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(CONVOLUTIONS):
            layers += [nn.Conv2d(filters if index else 1, filters, (KERNEL, 1)), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.lstm = nn.LSTM(filters * channels, units, LSTM_LAYERS, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(units, classes)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B K"]:
        if x.shape[1] <= SHRINK:
            raise InputError(
                "windows", f"{x.shape[1]} samples", f"more than {SHRINK}", "Cut longer windows."
            )
        image = x[:, None].contiguous(memory_format=torch.channels_last)
        steps = self.convolutions(image).permute(0, 2, 3, 1).flatten(2)
        return self.head(self.dropout(self.lstm(self.dropout(steps))[0][:, -1]))
