"""A small convolutional network over sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from common.encoders.conv2d import Kernel, Norm, Pooling, convolution_problems
from common.encoders.mlp import Dropout
from common.encoders.row import ArrayEncoder, shape_problems
from common.methods.choice import Bounds

if TYPE_CHECKING:
    from common.inputs.kind import Encoder


@dataclass(frozen=True)
class Conv1dEncoder(ArrayEncoder):
    """Convolutions with ReLU and max pooling along sequences, then the mean over what is left of the time."""

    name = "conv1d"
    kind = "sequences"

    shape: tuple[int, ...]
    """of a row: length, channels"""
    filters: tuple[int, ...] = (16, 32)
    """channels of its layers"""
    kernel: Kernel = 5
    """steps that a filter sees, an odd number"""
    pooling: Pooling = 2
    """each layer ends with the largest of so many steps; 1: off"""
    norm: Norm = "group"
    """after each convolution: none | group (Wu and He 2018; needs no statistics) | batch (sharing.norm_statistics)"""
    hidden: Annotated[int, Bounds(least=1, most=1_000_000)] = 64
    """width of the linear layer that heads read"""
    dropout: Dropout = 0.0
    """before that layer and before the head"""

    @property
    def has_norm_statistics(self) -> bool:
        """See `ArrayEncoder`."""
        return self.norm == "batch"

    def build(self) -> Encoder:
        """See `ArrayEncoder`."""
        from common.models.convolution import ConvolutionalNetwork

        return ConvolutionalNetwork(self)

    def problems(self) -> list[str]:
        """See `Row`."""
        found = shape_problems("shape", self.shape, "length and channels, e.g. [128, 6]", 2)
        return found or convolution_problems(self.filters, self.kernel, self.pooling, self.shape[0])
