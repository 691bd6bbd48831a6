"""Auxiliary tasks in what they share with others: they count as far as they point the way of the main tasks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.parameters.vector import Float64


def gated(shares: Float64, gram: Float64, auxiliary: NDArray[np.bool_]) -> Float64:
    """Shares of tasks, each auxiliary one's times max(0, cos) of its step with the mean of the main tasks' steps.

    The cosine gate of Du et al. 2018 ("Adapting auxiliary losses using gradient similarity"), on steps of a round in
    place of gradients. Shares sum to 1 again, so that the step is a weighted mean: of all tasks where all agree, of
    the main ones alone where no auxiliary one helps. Without a main task that moved, all shares are 0.

    Args:
        shares: (T,) float64, positive, sum 1.
        gram: (T, T) float64, inner products of the tasks' steps.
        auxiliary: (T,), which tasks are.
    """
    if not auxiliary.any():
        return shares
    mean = np.where(auxiliary, 0.0, shares)
    lengths = np.sqrt(np.diag(gram) * max(float(mean @ gram @ mean), 0.0))
    cosines = np.divide(gram @ mean, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    found = shares * np.where(auxiliary, np.clip(cosines, 0.0, 1.0), float(mean.any()))
    total = float(found.sum())
    return found / total if total > 0 else found
