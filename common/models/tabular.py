"""The network over tables of `common.encoders.tabular`."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from common.encoders.tabular import MISSING, NAMED, UNKNOWN, TabularEncoder


class TabularNetwork(nn.Module):
    """Numbers, marks where they are missing, and `embeddings` of categories; then `layers.0`, `layers.1`, ...; ReLU.

    A missing number counts as 0, which is the mean where numbers are standardised. The categories of all columns share
    one table, in which every column has rows of its own. Those of missing and unknown values are 0 until they are
    trained; other initial values are PyTorch's own.
    """

    numbers: Tensor
    """Which numbers of a row are quantities, int64 (quantities,)."""
    categories: Tensor
    """Which are places of categories, int64 (categories,)."""
    starts: Tensor
    """Where each category's column begins in the table, int64 (categories,)."""

    def __init__(self, description: TabularEncoder) -> None:
        super().__init__()
        layout, width = description.layout, description.embedding
        sizes = [NAMED + len(column.categories) for column in layout if column.categories]
        starts = [sum(sizes[:at]) for at in range(len(sizes))]
        for name, places in (
            ("numbers", [at for at, column in enumerate(layout) if not column.categories]),
            ("categories", list(description.categories)),
            ("starts", starts),
        ):
            self.register_buffer(name, torch.tensor(places, dtype=torch.int64), persistent=False)
        self.embeddings = nn.Embedding(sum(sizes), width) if sizes else None
        widths = (2 * len(self.numbers) + width * len(sizes), *description.hidden)
        self.config = SimpleNamespace(hidden_size=widths[-1], hidden_dropout_prob=description.dropout)
        self.layers = nn.ModuleList(nn.Linear(one, other) for one, other in pairwise(widths))
        self.dropout = nn.Dropout(description.dropout)
        if self.embeddings is not None:
            with torch.no_grad():
                self.embeddings.weight[self.starts + MISSING] = 0.0
                self.embeddings.weight[self.starts + UNKNOWN] = 0.0

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for float32 (rows, columns): NaN for a missing number, places of categories."""
        numbers = values.index_select(1, self.numbers)
        missing = numbers.isnan()
        parts = [torch.where(missing, 0.0, numbers), missing.to(values.dtype)]
        if self.embeddings is not None:
            places = values.index_select(1, self.categories).long() + self.starts
            parts.append(self.embeddings(places).flatten(1))
        vectors = torch.cat(parts, dim=1)
        for layer in self.layers:
            vectors = self.dropout(torch.relu(layer(vectors)))
        return vectors

    def get_input_embeddings(self) -> None:
        """There is no table of word embeddings."""
