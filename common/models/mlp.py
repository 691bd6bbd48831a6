"""An encoder of ours for rows of numbers: a multi-layer perceptron, described by JSON like any other encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.models.description import read_object

MODEL_TYPE = "mlp"
"""`model_type` in the description, and what `model.server_model` says to choose it."""

LARGEST_WIDTH = 1_000_000
MOST_LAYERS = 1001


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of the perceptron. `hidden` are the widths of its layers; the last one is what heads read.

    `hidden_dropout_prob` and `hidden_size` bear the names that Hugging Face configurations use for the same things.
    """

    features: int
    hidden: tuple[int, ...]
    hidden_dropout_prob: float = 0.0

    @property
    def hidden_size(self) -> int:
        """Width of the last layer."""
        return self.hidden[-1]


def describe_mlp(features: int, hidden: Sequence[int], dropout: float) -> str:
    """The encoder's description as JSON with sorted keys."""
    return json.dumps(
        {"model_type": MODEL_TYPE, "features": features, "hidden": list(hidden), "dropout": dropout}, sort_keys=True
    )


def read_mlp(config_json: str) -> MLPConfig:
    """The sizes in a perceptron's description.

    Raises:
        ModelError: they are impossible.
    """
    values = read_object(config_json)
    hidden, dropout = values.get("hidden"), values.get("dropout", 0.0)
    widths: list[Any] = [values.get("features"), *hidden] if isinstance(hidden, list) and hidden else [0]
    if len(widths) > MOST_LAYERS or not all(type(width) is int and 0 < width <= LARGEST_WIDTH for width in widths):
        raise ModelError("encoder of type 'mlp': features and hidden must be whole numbers above 0, not too many")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ModelError("encoder of type 'mlp': dropout must be at least 0 and below 1")
    return MLPConfig(widths[0], tuple(widths[1:]), float(dropout))


class MLPEncoder(nn.Module):
    """Linear layers, each followed by ReLU and dropout: `layers.0`, `layers.1`, ...

    Initial values are PyTorch's own for linear layers (uniform, He et al. 2015 with a = sqrt(5)).
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.features, *config.hidden)
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(len(config.hidden)))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for rows of numbers, float32 (rows, features)."""
        vectors = features
        for layer in self.layers:
            vectors = self.dropout(torch.relu(layer(vectors)))
        return vectors

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings; Hugging Face encoders answer with theirs."""
