"""Small convex quadratic programs, solved exactly by an active set; for conflict rules, whose size is that of tasks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_TOLERANCE = 1e-12
"""Relative to the largest entry: below this a gradient counts as zero."""


def minimise(matrix: Float64, linear: Float64, total: float | None = None) -> Float64:
    """The x >= 0 that minimises x'Mx / 2 + b'x; with `total` also sum(x) = total, which must be more than zero.

    The active set of Lawson and Hanson (1974), with one more equation for the sum. Where several x are as good, the
    one that is reached first is given; Mx is the same for all of them.

    Args:
        matrix: M, (n, n), symmetric and positive semidefinite.
        linear: b, (n,); without `total` it must lie in the range of M, or there is no minimum.
        total: what the elements of x sum to.

    Returns:
        x, (n,).
    """
    n = len(linear)
    scale = max(float(np.abs(matrix).max(initial=0.0)), float(np.abs(linear).max(initial=0.0)))
    if scale == 0.0:
        return np.full(n, (total or 0.0) / n)
    matrix, linear = matrix / scale, linear / scale
    x = np.zeros(n)
    free: list[int] = []
    if total is not None:
        free = [int(np.argmin(0.5 * total * np.diag(matrix) + linear))]
        x[free] = total
    for _ in range(50 * (n + 1)):
        slope, level = matrix @ x + linear, 0.0
        if total is not None:
            level = float(slope[free].mean())
        candidates = [i for i in range(n) if i not in free and slope[i] - level < -_TOLERANCE * max(1.0, total or 1.0)]
        if not candidates:
            break
        before = tuple(free)
        free.append(min(candidates, key=lambda i: (slope[i], i)))
        x = _flush(matrix, linear, total, x, free)
        if tuple(free) == before:  # the new element went straight back to zero: rounding is all that is left
            break
    return x


def _flush(matrix: Float64, linear: Float64, total: float | None, x: Float64, free: list[int]) -> Float64:
    """Move to the minimum over the free elements, giving back on the way those that reach zero."""
    while True:
        best = _stationary(matrix[np.ix_(free, free)], linear[free], total)
        if (best > 0).all():
            x = np.zeros_like(x)
            x[free] = best
            return x
        now = x[free]
        falling = best <= 0
        share = np.ones_like(best)
        np.divide(now, now - best, out=share, where=falling & (now > best))
        step = float(share[falling].min())
        moved = now + step * (best - now)
        stay = ~falling | (share > step)
        x = np.zeros_like(x)
        x[free] = np.where(stay, np.maximum(moved, 0.0), 0.0)
        free[:] = [i for i, kept in zip(free, stay, strict=True) if kept]
        if not free or (len(free) == 1 and total is not None):
            x = np.zeros_like(x)
            if free:
                x[free] = float(total or 0.0)
            return x


def _stationary(matrix: Float64, linear: Float64, total: float | None) -> Float64:
    """Where the gradient vanishes, signs apart; the shortest such point if the matrix is singular."""
    if total is None:
        return np.asarray(np.linalg.lstsq(matrix, -linear, rcond=None)[0], dtype=np.float64)
    n = len(linear)
    system = np.ones((n + 1, n + 1))
    system[:n, :n], system[n, n] = matrix, 0.0
    return np.asarray(np.linalg.lstsq(system, np.append(-linear, total), rcond=None)[0][:n], dtype=np.float64)
