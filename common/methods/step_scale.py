"""How long the common step of several tasks is: a mean of steps that point in different directions is short."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

StepScale = str | float
"""MEAN, the mean step as it is; NORM, as long as the steps that it is made of; or a number, so many times the mean."""

MEAN, NORM = "mean", "norm"


def lengthening(scale: StepScale, shares: Float64, gram: Float64) -> float:
    """What the mean step of T tasks, or members, is multiplied by.

    With `norm` the mean step gets the mean length of the T steps, but no more than sqrt(T) times its own: so much makes
    up for equal steps that are orthogonal to each other, and steps that cancel out stay short. One step stays as it is,
    to the bit. Sums of task vectors have the same purpose (Ilharco et al. 2023, "Editing models with task arithmetic").

    Args:
        scale: how.
        shares: (T,) float64, not negative, of each step in the mean.
        gram: (T, T) float64, inner products of the steps.
    """
    if not isinstance(scale, str):
        return scale
    lengths = np.sqrt(np.diag(gram))
    count = np.count_nonzero(shares * lengths)
    length = float(np.sqrt(max(float(shares @ gram @ shares), 0.0)))
    if scale == MEAN or count < 2:
        return 1.0
    most = float(np.sqrt(count))
    wanted = float(shares @ lengths)
    return most if wanted >= most * length else wanted / length
