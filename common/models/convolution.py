"""The convolutional networks of `common.encoders.conv2d` and `common.encoders.conv1d`."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder

GROUPS = 8
"""Of channels that are normalised together, at most."""


class ConvolutionalLayer(nn.Module):
    """Convolution with zeros around, normalisation, ReLU, and the largest of each window."""

    def __init__(self, description: Conv1dEncoder | Conv2dEncoder, inputs: int, outputs: int) -> None:
        super().__init__()
        flat = len(description.shape) == 3
        convolution = nn.Conv2d if flat else nn.Conv1d
        self.convolution = convolution(inputs, outputs, description.kernel, padding=description.kernel // 2)
        norms: dict[str, Callable[[], nn.Module]] = {
            "none": nn.Identity,
            "group": lambda: nn.GroupNorm(gcd(GROUPS, outputs), outputs),
            "batch": lambda: (nn.BatchNorm2d if flat else nn.BatchNorm1d)(outputs),
        }
        self.norm = norms[description.norm]()
        self.pooling = (nn.MaxPool2d if flat else nn.MaxPool1d)(description.pooling)

    def forward(self, values: Tensor) -> Tensor:
        """(rows, outputs, ...) for (rows, inputs, ...)."""
        found: Tensor = self.pooling(torch.relu(self.norm(self.convolution(values))))
        return found


class ConvolutionalNetwork(nn.Module):
    """Layers `layers.0`, `layers.1`, ..., the mean over positions, and `pooler`, a linear layer with ReLU.

    Initial values are PyTorch's own.
    """

    def __init__(self, description: Conv1dEncoder | Conv2dEncoder) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=description.hidden, hidden_dropout_prob=description.dropout)
        self._channels_last = len(description.shape) == 2
        if not self._channels_last:
            self.config.map_channels, self.config.area = description.filters[-1], description.shape[1:]
        channels = description.shape[1] if self._channels_last else description.shape[0]
        widths = (channels, *description.filters)
        self.layers = nn.ModuleList(
            ConvolutionalLayer(description, widths[i], widths[i + 1]) for i in range(len(description.filters))
        )
        self.dropout = nn.Dropout(description.dropout)
        self.pooler = nn.Linear(widths[-1], description.hidden)

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for (rows, channels, height, width), or (rows, length, channels)."""
        pooled = self.maps(values).flatten(2).mean(dim=2)
        return torch.relu(self.pooler(self.dropout(pooled)))

    def maps(self, values: Tensor) -> Tensor:
        """What the last layer gives, (rows, filters, ...): of images, what heads with an output per pixel read."""
        found = values.transpose(1, 2) if self._channels_last else values
        for layer in self.layers:
            found = layer(found)
        return found

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings."""
