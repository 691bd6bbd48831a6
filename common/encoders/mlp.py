"""A multi-layer perceptron over rows of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from common.encoders.row import LARGEST_SIZE, ArrayEncoder, sizes_problems
from common.methods.choice import Bounds

if TYPE_CHECKING:
    from common.inputs.kind import Encoder

Dropout = Annotated[float, Bounds(least=0, below=1)]


@dataclass(frozen=True)
class MLPEncoder(ArrayEncoder):
    """Linear layers with ReLU over rows of numbers; without layers, a linear model."""

    name = "mlp"
    kind = "numbers"
    flattens = True
    example = "features: 9"

    features: Annotated[int, Bounds(least=1, most=LARGEST_SIZE)]
    """numbers per row, the same for all tasks; more dimensions are flattened"""
    hidden: tuple[int, ...] = (64,)
    """widths of its layers; heads read the last one; []: heads read the rows themselves"""
    dropout: Dropout = 0.0
    """after each layer and before the head"""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `ArrayEncoder`."""
        return (self.features,)

    def build(self) -> Encoder:
        """See `ArrayEncoder`."""
        from common.models.mlp import MLP

        return MLP(self.features, self.hidden, self.dropout)

    def problems(self) -> list[str]:
        """See `Row`."""
        return sizes_problems("hidden", self.hidden)
