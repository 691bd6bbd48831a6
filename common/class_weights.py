"""How much a row's loss counts by its label, made from how many rows have each label.

A weight multiplies the loss of its rows, and the mean is over the rows, as with `class_weight` of scikit-learn: rows
of weight 2 count as if each were there twice. A mean over the weights of each batch instead, as that of cross_entropy
in torch, would cancel them in a batch of one class, and so at a client that has no other. Over rows, the mean of
clients by their examples is the loss of the pooled rows.

All clients of a task hear its weights. They are coarse, and rare labels count alike, so that a client that takes its
own rows out learns of the others no more than roughly how their labels are spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp, ldexp
from typing import Literal, TypeAlias

ClassWeights: TypeAlias = Literal["none", "balanced"] | tuple[float, ...]
"""All alike, from the federation's rows, or as given: one by label."""

LEAST_COUNT = 5
"""A label of fewer rows, or of none, counts as if it had so many."""
LEAST_WEIGHT, MOST_WEIGHT = 1e-9, 1e9
_STEPS = 16
"""A weight from 8 to 16 is a whole number, and so in every octave: at most 1/16 beside the exact one."""
RARE = 0.05
"""The share of rows below which accuracy says little about a label."""


def balanced_classes(counts: Sequence[float], rows: float) -> tuple[float, ...]:
    """Weights with which the rows of every class count the same together: rows / (classes x count).

    Those of compute_class_weight("balanced") in scikit-learn (after King and Zeng 2001), to rounding.
    """
    return tuple(_coarse(rows / (len(counts) * max(count, LEAST_COUNT))) for count in counts)


def balanced_labels(counts: Sequence[float], rows: float) -> tuple[float, ...]:
    """Weights of the rows that have a label, with which they count as much as those without it: without / with.

    Those that BCEWithLogitsLoss in torch recommends as `pos_weight`, to rounding.
    """
    return tuple(_coarse(max(rows - count, LEAST_COUNT) / max(count, LEAST_COUNT)) for count in counts)


def _coarse(weight: float) -> float:
    mantissa, exponent = frexp(min(max(weight, LEAST_WEIGHT), MOST_WEIGHT))
    return ldexp(round(mantissa * _STEPS) / _STEPS, exponent)


def rare_label(labels: Sequence[str], counts: Sequence[float], rows: float, named: str = "rows") -> str | None:
    """What to say of a task whose primary metric is accuracy where a label is rare, or None.

    With many labels each is in few rows: rare is what is also below half of an equal share. `named` is what rows are.
    """
    if not rows:
        return None
    count, at = min((count, at) for at, count in enumerate(counts))
    share = count / rows
    if share >= min(RARE, 0.5 / len(labels)):
        return None
    text = f"'{labels[at]}' is the label of {share:.1%} of the training {named}"
    reached = f"a model that never says it can have an accuracy of {1 - share:.1%}"
    return f"{text}, and {reached}"
