"""How conflicting tasks agree on one step: from the inner products of their steps to the weight of each.

Every rule sees the tasks' steps g_1 .. g_T through their Gram matrix alone, (T, T) float64 with g_s . g_t at [s, t],
and gives weights a, (T,): the common step is sum_t a_t g_t. So sums by task suffice, of a federation or of one client.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.methods.choice import LARGEST, Bounds, Row, table
from common.methods.quadratic import minimise

Float64 = NDArray[np.float64]

ALL_ORDERS = 6
"""Up to so many tasks PCGrad's projections are averaged over all orders of the other tasks."""
_STATIONARY = 1e-6
"""A combination this short against the lengths of what it combines counts as none: no direction serves every task."""
_SAME = 1e-9
"""Cosines that differ by less are equal."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class ConflictRule(Row):
    """Base of the rows: what the coordinator asks for each scope that tasks share, or a client in each of its steps."""

    compares_losses: ClassVar[bool] = False
    """See `common.methods.balance.BalanceRow`."""
    rescale: bool = True
    """the common step gets the length of the mean step; false: the rule's own length"""

    def __call__(self, gram: Float64) -> Float64:
        """Weights of the steps from their inner products; a step that is shorter than rounding takes no part."""
        raise NotImplementedError


@dataclass(frozen=True)
class PCGrad(ConflictRule):
    """PCGrad (Yu et al., NeurIPS 2020, algorithm 1), as the mean of the projected steps.

    Each step loses, task by task, what points against the original steps of the others. The paper draws the order of
    the others, on which the result depends for T > 2. Up to ALL_ORDERS tasks it is the mean over all orders; beyond,
    the most opposed comes first, so that there, too, the numbers of the tasks mean nothing.
    """

    name = "pcgrad"

    def __call__(self, gram: Float64) -> Float64:
        """See `ConflictRule`."""
        project = _over_all_orders if len(gram) <= ALL_ORDERS else _most_opposed_first
        mixtures: Float64 = np.array([project(gram, task) for task in range(len(gram))])
        result: Float64 = mixtures.mean(axis=0)
        return result


def _over_all_orders(gram: Float64, task: int) -> Float64:
    """What is left of a task's step, (T,), on the mean over all orders of the others."""
    orders = np.array(list(permutations(other for other in range(len(gram)) if other != task)), dtype=np.int64)
    mixtures = np.zeros((len(orders), len(gram)))
    mixtures[:, task] = 1.0
    rows = np.arange(len(orders))
    for others in orders.T:
        against = np.minimum(np.einsum("kt,kt->k", mixtures, gram[others]), 0.0)
        mixtures[rows, others] -= against / gram[others, others]
    result: Float64 = mixtures.mean(axis=0)
    return result


def _most_opposed_first(gram: Float64, task: int) -> Float64:
    """What is left of a task's step, (T,), when at each turn the one that it points against most is projected out.

    Those that it points against equally are projected out together: it moves to the next place where none of them is
    hurt, which is the plain projection if there is one.
    """
    lengths, table = np.sqrt(np.diag(gram)), cosines(gram)
    mixture = np.zeros(len(gram))
    mixture[task] = 1.0
    left = np.arange(len(gram)) != task
    while left.any():
        products = table @ mixture
        least = float(products[left].min())
        if least >= -_ROUNDING:
            break
        turn = np.flatnonzero(left & (products <= least + _SAME))
        mixture[turn] += minimise(table[np.ix_(turn, turn)], products[turn])
        left[turn] = False
    result: Float64 = mixture * lengths[task] / lengths
    return result


@dataclass(frozen=True)
class MGDA(ConflictRule):
    """MGDA (Desideri 2012; Sener and Koltun, NeurIPS 2018): the shortest convex combination of the steps."""

    name = "mgda"

    def __call__(self, gram: Float64) -> Float64:
        """See `ConflictRule`."""
        return minimise(gram, np.zeros(len(gram)), total=1.0)


@dataclass(frozen=True)
class CAGrad(ConflictRule):
    """CAGrad (Liu et al., NeurIPS 2021, equation 3), before their rescaling by 1 / (1 + c^2).

    The step d that is best for the worst-off task, max_d min_t g_t . d, with ||d - g_0|| <= c ||g_0||, g_0 the mean:
    d = g_0 + k g_w / ||g_w||, where k = c ||g_0|| and w minimises g_w . g_0 + k ||g_w|| over the simplex. With s for
    ||g_w||, k ||g_w|| is the least of k (w'Gw / s + s) / 2 over s: for each s a quadratic program, and s is found by
    bisection, because the outer function is convex. Where s is nothing, no direction serves all: the mean is kept.
    """

    name = "cagrad"
    radius: Annotated[float, Bounds(above=0, most=LARGEST)] = 0.4
    """how far the step may leave the mean, in lengths of the mean"""

    def __call__(self, gram: Float64) -> Float64:
        """See `ConflictRule`."""
        count = len(gram)
        even = np.full(count, 1.0 / count)
        linear = gram @ even
        reach = self.radius * float(np.sqrt(max(even @ linear, 0.0)))
        if reach == 0.0:
            return even
        lengths = np.sqrt(np.diag(gram))
        low, high = _STATIONARY * float(lengths.min()), float(lengths.max())
        weights = _cagrad_weights(gram, linear, reach, low)
        if _norm(gram, weights) <= _STATIONARY * float(weights @ lengths):
            return even
        for _ in range(80):
            middle = 0.5 * (low + high)
            weights = _cagrad_weights(gram, linear, reach, middle)
            low, high = (middle, high) if _norm(gram, weights) > middle else (low, middle)
        return even + reach / _norm(gram, weights) * weights


def _cagrad_weights(gram: Float64, linear: Float64, reach: float, length: float) -> Float64:
    return minimise(gram * (reach / length), linear, total=1.0)


@dataclass(frozen=True)
class NashMTL(ConflictRule):
    """Nash-MTL (Navon et al., ICML 2022, equation 3): G a = 1 / a with a > 0, found to machine precision.

    It is where a'Ga / 2 - sum(log a) is least, which is strictly convex: a damped Newton iteration (damped as
    self-concordance asks, Nesterov and Nemirovskii 1994). It is solved for steps of length 1, the cosines, and then
    a_t = b_t / ||g_t||: the settled step is the same whatever the lengths of the steps, and has length sqrt(T). If no
    direction serves every task there is no minimum; a ridge of 1e-10 on the cosines keeps b finite then.
    """

    name = "nash"

    def __call__(self, gram: Float64) -> Float64:
        """See `ConflictRule`."""
        count, lengths = len(gram), np.sqrt(np.diag(gram))
        matrix = cosines(gram) + 1e-10 * np.eye(count)
        weights: Float64 = np.full(count, 1.0 / np.sqrt(count))
        for _ in range(500):
            slope = matrix @ weights - 1.0 / weights
            step = np.linalg.solve(matrix + np.diag(weights**-2.0), slope)
            decrement = float(np.sqrt(max(float(slope @ step), 0.0)))
            weights -= step / (1.0 + decrement)
            if decrement < 1e-13:
                break
        weights /= lengths
        return weights


@dataclass(frozen=True)
class IMTLG(ConflictRule):
    """IMTL-G (Liu et al., ICLR 2021): equal projections on every task's direction, and sum(a) = 1; a may be negative.

    With u_t = g_t / ||g_t|| and C = (u_s . u_t): C b = 1, a_t = b_t / ||g_t||, divided by the sum. A sum that is not
    positive would turn the step against every task, and then the mean is kept.
    """

    name = "imtl_g"

    def __call__(self, gram: Float64) -> Float64:
        """See `ConflictRule`."""
        lengths = np.sqrt(np.diag(gram))
        cosine = gram / np.outer(lengths, lengths)
        weights = np.linalg.lstsq(cosine, np.ones(len(gram)), rcond=1e-12)[0] / lengths
        total = float(weights.sum())
        if total <= _STATIONARY * float((1.0 / lengths).sum()):
            return np.full(len(gram), 1.0 / len(gram))
        result: Float64 = weights / total
        return result


@dataclass(frozen=True)
class UPGrad(ConflictRule):
    """UPGrad (Quinton and Rey 2024, "Jacobian descent for multi-objective optimization"): the mean of projections.

    Every step is projected on the cone of directions that hurt no task, {d: g_t . d >= 0 for all t}: g_s becomes
    sum_t v_t g_t with the v >= e_s that makes it shortest. The cone does not depend on the steps' lengths, so their
    directions u_t are projected, and ||g_s|| u_s with u_s: the result is linear in each length.
    """

    name = "upgrad"

    def __call__(self, gram: Float64) -> Float64:
        """See `ConflictRule`."""
        count, lengths, table = len(gram), np.sqrt(np.diag(gram)), cosines(gram)
        total = np.ones(count)
        for task in range(count):
            total += minimise(table, table[task]) * lengths[task] / lengths
        return total / count


CONFLICT_RULES: dict[str, type[ConflictRule]] = table(PCGrad, MGDA, CAGrad, NashMTL, IMTLG, UPGrad)


@dataclass(frozen=True)
class ConflictResolver:
    """A rule, and how it is asked.

    A common step that is rescaled and is nothing but rounding against the steps that it is made of stays short: no
    direction serves every task then.
    """

    rule: ConflictRule
    only_conflicts: bool = True
    """While no two steps point against each other, their mean is the answer, whatever the rule."""

    def weights(self, gram: Float64, shares: Float64) -> Float64:
        """The weights of the tasks' steps.

        Args:
            gram: (T, T) float64, inner products of the steps.
            shares: (T,) float64, positive, sum 1: each task's share in the weighted mean. The rule sees T times share
                times step, whose plain mean is the weighted mean of the steps.

        Returns:
            (T,) float64. It is `shares` bit for bit for one task, and without conflict if `only_conflicts`. Steps of
            zeros take no part.
        """
        moved = np.flatnonzero(np.diag(gram) > 0)
        inner = gram[np.ix_(moved, moved)]
        if len(moved) <= 1 or (self.only_conflicts and not (inner < 0).any()):
            return shares
        factors = len(shares) * shares[moved]
        scaled = inner * np.outer(factors, factors)
        found = self.rule(scaled) * (len(moved) / len(shares))
        if self.rule.rescale:
            found = found * _factor(scaled, found, np.full(len(moved), 1.0 / len(shares)))
        weights = shares.copy()
        weights[moved] = found * factors
        return weights


def _factor(gram: Float64, found: Float64, mean: Float64) -> float:
    """What makes a combination as long as the mean; at most 1 where it is none (see `_STATIONARY`)."""
    lengths = np.sqrt(np.diag(gram))
    length, reach = _norm(gram, found), float(np.abs(found) @ lengths)
    if length > _STATIONARY * reach:
        return _norm(gram, mean) / length
    return min(1.0, float(mean @ lengths) / reach) if reach > 0 else 1.0


def cosines(gram: Float64) -> Float64:
    """The cosine between every two steps, (T, T) float64; 0 where a step is zero, 1 on the diagonal of the others."""
    lengths: Float64 = np.sqrt(np.diag(gram))
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    result: Float64 = np.clip(gram * np.outer(inverse, inverse), -1.0, 1.0)
    np.fill_diagonal(result, (lengths > 0).astype(float))
    return result


def _norm(gram: Float64, weights: Float64) -> float:
    """The length of a combination of steps."""
    return float(np.sqrt(max(float(weights @ gram @ weights), 0.0)))
