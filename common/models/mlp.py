"""The multi-layer perceptron of `common.encoders.mlp`."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers, each followed by ReLU and dropout: `layers.0`, `layers.1`, ...

    Initial values are PyTorch's own for linear layers (uniform, He et al. 2015 with a = sqrt(5)).
    """

    def __init__(self, features: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        widths = (features, *hidden)
        self.config = SimpleNamespace(hidden_size=widths[-1], hidden_dropout_prob=dropout)
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(len(hidden)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for rows of numbers, float32 (rows, features)."""
        vectors = values
        for layer in self.layers:
            vectors = self.dropout(torch.relu(layer(vectors)))
        return vectors

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings; Hugging Face encoders answer with theirs."""
