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
        found: Tensor = self.projection(self.encoder(values.reshape(values.shape[0], *self._shape)))
        return found


class SeveralNetwork(nn.Module):
    """`parts.<name>` of every part, the mean of their vectors, and `pooler`, a linear layer with ReLU.

    A row lacks a part whose numbers are all NaN: `missing.<name>`, which is learned, takes the place of its vector.
    Initial values are PyTorch's own, and zeros for `missing`.
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
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.zeros(description.hidden)) for name in encoders})
        self._sizes = [prod(shape) for shape in shapes.values()]
        self.dropout = nn.Dropout(description.dropout)
        self.pooler = nn.Linear(description.hidden, description.hidden)

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for all parts one after the other, flattened: (rows, numbers)."""
        vectors = [
            _filled(self.parts[name], rows, self.missing[name])
            for name, rows in zip(self.parts, self._split(values), strict=True)
        ]
        mean = torch.relu(torch.stack(vectors).mean(dim=0))
        return torch.relu(self.pooler(self.dropout(mean)))

    def _split(self, values: Tensor) -> list[Tensor]:
        ends = accumulate(self._sizes)
        return [values[:, end - size : end] for end, size in zip(ends, self._sizes, strict=True)]

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings."""


def _filled(part: nn.Module, rows: Tensor, missing: Tensor) -> Tensor:
    """What a part makes of the rows that have it, and `missing` for the others."""
    has = ~rows.isnan().all(dim=1)
    if torch.compiler.is_compiling():  # an exported program has no branches: it reads zeros where there is nothing
        return torch.where(has[:, None], part(torch.where(has[:, None], rows, 0.0)), missing)
    places = has.nonzero()[:, 0]
    if len(places) == len(rows):
        found: Tensor = part(rows)
        return found
    others = missing.expand(len(rows), -1)
    return others.index_copy(0, places, part(rows[places])) if len(places) else others


def _draws(encoder: Encoder) -> bool:
    return bool(getattr(encoder.config, "draws", encoder.config.hidden_dropout_prob))
