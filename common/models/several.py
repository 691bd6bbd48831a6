"""The encoder of `common.encoders.several`."""

from __future__ import annotations

from itertools import accumulate
from math import prod
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from common.encoders.several import SeveralEncoder
from common.inputs.kind import Encoder


class EncodedPart(nn.Module):
    """The encoder of one part, and the layer that brings its vectors to the common width."""

    def __init__(self, encoder: Encoder, shape: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Linear(encoder.config.hidden_size, hidden)
        self._shape = shape

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden) for flattened rows (rows, numbers)."""
        found: Tensor = self.projection(self.encoder(values.reshape(len(values), *self._shape)))
        return found


class SeveralNetwork(nn.Module):
    """`parts.<name>` of every part, the mean of those that a row has, and `pooler`, a linear layer with ReLU.

    A row lacks a part whose numbers are all NaN. Initial values are PyTorch's own.
    """

    def __init__(self, description: SeveralEncoder) -> None:
        super().__init__()
        encoders = {name: part.build() for name, part in description.part_encoders.items()}
        self.config = SimpleNamespace(
            hidden_size=description.hidden,
            hidden_dropout_prob=description.dropout,
            draws=bool(description.dropout) or any(_draws(encoder) for encoder in encoders.values()),
        )
        shapes = {name: part.row_shape for name, part in description.part_encoders.items()}
        self.parts = nn.ModuleDict(
            {name: EncodedPart(encoder, shapes[name], description.hidden) for name, encoder in encoders.items()}
        )
        self._sizes = [prod(shape) for shape in shapes.values()]
        self.dropout = nn.Dropout(description.dropout)
        self.pooler = nn.Linear(description.hidden, description.hidden)

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for all parts one after the other, flattened: (rows, numbers)."""
        width = self.config.hidden_size
        total, count = values.new_zeros(len(values), width), values.new_zeros(len(values), 1)
        for part, rows in zip(self.parts.values(), self._split(values), strict=True):
            has = ~rows.isnan().all(dim=1)
            total = total + _scattered(part, rows, has, width)
            count = count + has[:, None]
        mean = torch.relu(total / count.clamp(min=1))
        return torch.relu(self.pooler(self.dropout(mean)))

    def _split(self, values: Tensor) -> list[Tensor]:
        ends = accumulate(self._sizes)
        return [values[:, end - size : end] for end, size in zip(ends, self._sizes, strict=True)]

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings."""


def _scattered(part: nn.Module, rows: Tensor, has: Tensor, width: int) -> Tensor:
    """What a part makes of the rows that have it, and zeros for the others."""
    if torch.compiler.is_compiling():  # an exported program has no branches: it reads zeros where there is nothing
        found: Tensor = part(rows.nan_to_num()) * has[:, None]
        return found
    places = has.nonzero()[:, 0]
    if len(places) == len(rows):
        found = part(rows)
        return found
    if not len(places):
        return rows.new_zeros(len(rows), width)
    return rows.new_zeros(len(rows), width).index_copy(0, places, part(rows[places]))


def _draws(encoder: Encoder) -> bool:
    return bool(getattr(encoder.config, "draws", encoder.config.hidden_dropout_prob))
