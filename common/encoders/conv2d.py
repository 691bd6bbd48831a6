"""A small convolutional network over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from common.encoders.mlp import Dropout
from common.encoders.row import ArrayEncoder, shape_problems, sizes_problems
from common.methods.choice import Bounds

if TYPE_CHECKING:
    from common.inputs.kind import Encoder

Norm = Literal["none", "group", "batch"]
Kernel = Annotated[int, Bounds(least=1, most=99)]
Pooling = Annotated[int, Bounds(least=1, most=99)]


@dataclass(frozen=True)
class Conv2dEncoder(ArrayEncoder):
    """Convolutions with ReLU and max pooling over images, then the mean over what is left of the picture."""

    name = "conv2d"
    kind = "images"

    shape: tuple[int, ...]
    """of a row: channels, height, width"""
    filters: tuple[int, ...] = (16, 32)
    """channels of its layers"""
    kernel: Kernel = 3
    """edge of the filters, an odd number"""
    pooling: Pooling = 2
    """each layer ends with the largest of so many by so many pixels; 1: off"""
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
        found = shape_problems("shape", self.shape, "channels, height and width, e.g. [3, 28, 28]", 3)
        return found or convolution_problems(self.filters, self.kernel, self.pooling, min(self.shape[1:]))


def convolution_problems(filters: tuple[int, ...], kernel: int, pooling: int, shortest: int) -> list[str]:
    """What is wrong with the sizes of convolutions over rows whose shortest edge is so long."""
    if not filters:
        return ["filters: is empty; write the channels of at least one layer, e.g. [16, 32]"]
    if found := sizes_problems("filters", filters, 100):
        return found
    if kernel % 2 == 0:
        return [f"kernel: {kernel} has no middle; write an odd number"]
    if pooling ** len(filters) > shortest:
        return [
            f"pooling: {pooling} in each of {len(filters)} layers leaves nothing of an edge of {shortest}; "
            "write a smaller one, or fewer filters"
        ]
    return []
