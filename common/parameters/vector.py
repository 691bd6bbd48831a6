"""Vectors as numpy holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating[Any]]
"""A scope's values, or what is added to them: float32 or float64, as the scope's schema says."""
Float64 = NDArray[np.float64]
"""Sums, steps and inner products, whatever the scope's type."""


def square_of(block: Vector) -> float:
    """The sum of squares, computed in float64."""
    wide = block.astype(np.float64)
    return float(wide @ wide)
