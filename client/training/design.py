"""The rows of a linear model: dense, or of their entries that are not zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

Compressed = tuple[Vector, NDArray[np.int64], NDArray[np.int64]]
"""Entries that are not zero, row by row (k,); their columns (k,); where a row begins among them (n + 1,)."""

SPARSE_BELOW = 0.2
"""Matrices with a smaller share of entries that are not zero are kept compressed."""


@dataclass(frozen=True)
class DesignMatrix:
    """The rows x_i of a task; made once and used in every round. Its arrays are not written to."""

    entries: Vector | Compressed
    """The matrix, float64 (n, d), C-ordered; or compressed."""
    squares: Vector
    """||x_i||^2, float64 (n,)."""
    features: int
    """d"""

    @classmethod
    def of(cls, rows: NDArray[np.floating], sparse: bool | None = None) -> DesignMatrix:
        """The rows of a matrix (n, d); `sparse`: whether they are compressed, by default where it pays.

        Raises:
            ValueError: not a matrix of finite numbers.
        """
        matrix = np.ascontiguousarray(rows, dtype=np.float64)
        if matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise ValueError(f"rows of shape {matrix.shape} are not a matrix of finite numbers")
        squares = np.einsum("ij,ij->i", matrix, matrix)
        if not (np.count_nonzero(matrix) < SPARSE_BELOW * matrix.size if sparse is None else sparse):
            return cls(matrix, squares, matrix.shape[1])
        places, columns = np.nonzero(matrix)
        begins = np.zeros(len(matrix) + 1, dtype=np.int64)
        np.cumsum(np.bincount(places, minlength=len(matrix)), out=begins[1:])
        return cls((matrix[places, columns], columns.astype(np.int64), begins), squares, matrix.shape[1])

    def __len__(self) -> int:
        return len(self.squares)

    def scores(self, w: Vector) -> Vector:
        """The products <w, x_i>, float64 (n,)."""
        if not isinstance(self.entries, tuple):
            return self.entries @ w
        values, columns, _ = self.entries
        sums = np.zeros(len(self))
        np.add.at(sums, self._places(), values * w[columns])
        return sums

    def support(self, alpha: Vector) -> Vector:
        """The sum of alpha_i x_i, float64 (d,)."""
        if not isinstance(self.entries, tuple):
            return alpha @ self.entries
        values, columns, _ = self.entries
        sums = np.zeros(self.features)
        np.add.at(sums, columns, values * alpha[self._places()])
        return sums

    def _places(self) -> NDArray[np.int64]:
        """The row of every entry."""
        assert isinstance(self.entries, tuple)
        return np.repeat(np.arange(len(self)), np.diff(self.entries[2]))
