"""Recorded and virtual signals the plain way: features, reading, and recognition."""

import csv
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pycatch22
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from t2imu_utils.recordings.streams import lay_on_grid, uniform_pieces

STREAM = re.compile(r"(acc|Gyroscope)_([a-z]+?)(?:_(\d))?_([a-z]+)\.csv")


def catch22_table(windows: Float[np.ndarray, "n T 3"]) -> pd.DataFrame:
    """22 features for each of three axes: a dictionary for each window, then a table."""
    rows = []
    for window in windows:
        row = {}
        for axis, name in enumerate("xyz"):
            found = pycatch22.catch22_all(list(window[:, axis]))
            for feature, value in zip(found["names"], found["values"], strict=True):
                row[f"{name}: {feature}"] = value
        rows.append(row)
    return pd.DataFrame(rows)


def read_recordings(
    root: Path, unpacked: Path, sites: Sequence[str], rate: float, trim: tuple[float, float]
) -> dict[tuple[str, str, int], dict[str, Float[np.ndarray, "F S 3"]]]:
    """acc and gyro of each subject, activity (as files call it) and session, on one grid.

    Archives are unpacked to disk, archives in them too, and files are read line by line. Clock and
    change of rate are those of the package: they are what the recordings mean, not how they are
    read.
    """
    streams: dict[tuple[str, str, int], dict[tuple[str, str], np.ndarray]] = {}
    for archive in sorted(root.rglob("*.zip")):
        folder = unpacked / archive.relative_to(root).with_suffix("")
        _unpack(archive, folder)
        for path in sorted(folder.rglob("*.csv")):
            match = STREAM.fullmatch(path.name)
            if match is None:
                continue
            subject = next(part for part in path.parts if part.startswith("proband"))
            session = streams.setdefault((subject, match[2], int(match[3] or 1)), {})
            sensor = "acc" if match[1] == "acc" else "gyro"
            with path.open(newline="") as file:
                lines = csv.reader(file)
                head = next(lines)
                at = [head.index(c) for c in ("attr_time", "attr_x", "attr_y", "attr_z", "id")]
                session[sensor, match[4]] = np.array(
                    [[float(line[column]) for column in at] for line in lines]
                )
    return {key: _gridded(own, sites, rate, trim) for key, own in streams.items()}


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    for inner in sorted(folder.rglob("*.zip")):
        _unpack(inner, inner.with_suffix(""))
        inner.unlink()


def _gridded(
    session: dict[tuple[str, str], np.ndarray],
    sites: Sequence[str],
    rate: float,
    trim: tuple[float, float],
) -> dict[str, np.ndarray]:
    pieces, spans = {}, {}
    for key, values in session.items():
        pieces[key], _ = uniform_pieces(
            values[:, 0] / 1000, values[:, 1:4], values[:, 4].astype(int)
        )
        start, stop = pieces[key][0].start, max(piece.stop for piece in pieces[key])
        spans[key] = start + trim[0], stop - trim[1]
    return lay_on_grid(pieces, spans, ("acc", "gyro"), sites, rate)[1]


class PlainNetwork(nn.Module):
    """DeepConvLSTM on images of one channel, in torch's usual layout."""

    def __init__(self, channels: int, classes: int, filters: int, units: int, dropout: float):
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(4):
            layers += [nn.Conv2d(filters if index else 1, filters, (5, 1)), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.lstm = nn.LSTM(filters * channels, units, 2, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(units, classes)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B K"]:
        maps = self.convolutions(x[:, None])
        steps = maps.permute(0, 2, 3, 1).flatten(2)
        return self.head(self.dropout(self.lstm(self.dropout(steps))[0][:, -1]))


class Windows(Dataset):
    """Windows that are standardised one by one as they are wanted."""

    def __init__(self, x: np.ndarray, target: np.ndarray, mean: np.ndarray, std: np.ndarray):
        self.x, self.target, self.mean, self.std = x, target, mean, std

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return (self.x[index] - self.mean) / self.std, int(self.target[index])


def train_network(
    network: nn.Module,
    data: Windows,
    epochs: Sequence[Sequence[Int[np.ndarray, "B"]]],
    held: Int[np.ndarray, "n"],
    learning_rate: float,
    device: str,
) -> list[float]:
    """Mean training loss of each epoch, whose batches are given; held-out windows are scored."""
    network = network.to(device)
    optimiser = torch.optim.Adam(network.parameters(), learning_rate)
    own = torch.Generator()  # the loader would draw from the stream of the dropout otherwise
    told = []
    for batches in epochs:
        network.train()
        losses = []
        for x, y in DataLoader(data, batch_sampler=batches, generator=own):
            loss = nn.functional.cross_entropy(network(x.to(device)), y.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        network.eval()
        with torch.no_grad():
            for x, _ in DataLoader(data, batch_sampler=held.reshape(-1, 1), generator=own):
                network(x.to(device))
        told.append(float(np.mean(losses)))
    return told
