"""How conflicting tasks agree on one step: from the inner products of their steps to the weight of each.

Every rule sees the tasks' steps g_1 .. g_T through their Gram matrix alone, (T, T) float64 with g_s . g_t at [s, t],
and gives weights a, (T,): the common step is sum_t a_t g_t. So sums by task suffice, of a federation or of one client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from common.quadratic import minimise

Float64 = NDArray[np.float64]
Rule = Callable[[Float64], Float64]

ALL_ORDERS = 6
"""Up to so many tasks PCGrad's projections are averaged over all orders of the other tasks."""
SAMPLED_ORDERS = 120
_STATIONARY = 1e-6
"""A combination this short against the tasks' steps counts as none: no direction serves every task."""


def pcgrad(gram: Float64) -> Float64:
    """PCGrad (Yu et al., NeurIPS 2020, algorithm 1), as the mean of the projected steps.

    Each step loses, task by task, what points against the original steps of the others. Since the result depends on
    the order of the others for T > 2, it is averaged: over all orders up to ALL_ORDERS tasks, beyond that over
    SAMPLED_ORDERS drawn with a fixed seed, where renumbering the tasks changes the result a little.
    """
    count = len(gram)
    total = np.zeros(count)
    for task in range(count):
        orders = _orders([other for other in range(count) if other != task], task)
        mixtures = np.zeros((len(orders), count))
        mixtures[:, task] = 1.0
        rows = np.arange(len(orders))
        for others in orders.T:
            against = np.minimum(np.einsum("kt,kt->k", mixtures, gram[others]), 0.0)
            mixtures[rows, others] -= against / gram[others, others]
        total += mixtures.mean(axis=0)
    return total / count


def _orders(others: list[int], task: int) -> NDArray[np.int64]:
    """Orders of the other tasks, one per row."""
    if len(others) < ALL_ORDERS:
        return np.array(list(permutations(others)), dtype=np.int64)
    rng = np.random.Generator(np.random.PCG64([len(others), task]))
    return np.array([rng.permutation(others) for _ in range(SAMPLED_ORDERS)], dtype=np.int64)


def mgda(gram: Float64) -> Float64:
    """MGDA (Desideri 2012; Sener and Koltun, NeurIPS 2018): the shortest convex combination of the steps."""
    return minimise(gram, np.zeros(len(gram)), total=1.0)


def cagrad(gram: Float64, radius: float) -> Float64:
    """CAGrad (Liu et al., NeurIPS 2021, equation 3), before their rescaling by 1 / (1 + c^2).

    The step d that is best for the worst-off task, max_d min_t g_t . d, with ||d - g_0|| <= c ||g_0||, g_0 the mean:
    d = g_0 + k g_w / ||g_w||, where k = c ||g_0|| and w minimises g_w . g_0 + k ||g_w|| over the simplex. With s for
    ||g_w||, k ||g_w|| is the least of k (w'Gw / s + s) / 2 over s: for each s a quadratic program, and s is found by
    bisection, because the outer function is convex. Where s is nothing, no direction serves all: the mean is kept.
    """
    count = len(gram)
    even = np.full(count, 1.0 / count)
    linear = gram @ even
    reach = radius * float(np.sqrt(max(even @ linear, 0.0)))
    if reach == 0.0:
        return even
    high = float(np.sqrt(np.diag(gram).max()))
    low = _STATIONARY * high
    weights = _cagrad_weights(gram, linear, reach, low)
    if _norm(gram, weights) <= low:
        return even
    for _ in range(80):
        middle = 0.5 * (low + high)
        weights = _cagrad_weights(gram, linear, reach, middle)
        low, high = (middle, high) if _norm(gram, weights) > middle else (low, middle)
    return even + reach / _norm(gram, weights) * weights


def _cagrad_weights(gram: Float64, linear: Float64, reach: float, length: float) -> Float64:
    return minimise(gram * (reach / length), linear, total=1.0)


def nash(gram: Float64) -> Float64:
    """Nash-MTL (Navon et al., ICML 2022, equation 3): G a = 1 / a with a > 0, found to machine precision.

    It is where a'Ga / 2 - sum(log a) is least, which is strictly convex: a damped Newton iteration (damped as
    self-concordance asks, Nesterov and Nemirovskii 1994). If no direction serves every task there is no minimum; a
    ridge of 1e-10 of the mean diagonal keeps a finite then. The step has length sqrt(T), however long the steps are.
    """
    count = len(gram)
    scale = float(np.diag(gram).mean())
    matrix = gram / scale + 1e-10 * np.eye(count)
    weights: Float64 = 1.0 / np.sqrt(count * np.diag(matrix))
    for _ in range(500):
        slope = matrix @ weights - 1.0 / weights
        step = np.linalg.solve(matrix + np.diag(weights**-2.0), slope)
        decrement = float(np.sqrt(max(float(slope @ step), 0.0)))
        weights -= step / (1.0 + decrement)
        if decrement < 1e-13:
            break
    weights /= np.sqrt(scale)
    return weights


def imtl_g(gram: Float64) -> Float64:
    """IMTL-G (Liu et al., ICLR 2021): equal projections on every task's direction, and sum(a) = 1; a may be negative.

    With u_t = g_t / ||g_t|| and C = (u_s . u_t): C b = 1, a_t = b_t / ||g_t||, divided by the sum. A sum that is not
    positive would turn the step against every task, and then the mean is kept.
    """
    lengths = np.sqrt(np.diag(gram))
    cosine = gram / np.outer(lengths, lengths)
    weights = np.linalg.lstsq(cosine, np.ones(len(gram)), rcond=1e-12)[0] / lengths
    total = float(weights.sum())
    if total <= _STATIONARY * float((1.0 / lengths).sum()):
        return np.full(len(gram), 1.0 / len(gram))
    result: Float64 = weights / total
    return result


def upgrad(gram: Float64) -> Float64:
    """UPGrad (Quinton and Rey 2024, "Jacobian descent for multi-objective optimization"): the mean of projections.

    Every step is projected on the cone of directions that hurt no task, {d: g_t . d >= 0 for all t}: g_s becomes
    sum_t v_t g_t with the v >= e_s that makes it shortest.
    """
    count = len(gram)
    total = np.ones(count)
    for task in range(count):
        total += minimise(gram, gram[task])
    return total / count


CONFLICT_RULES: Mapping[str, Rule] = {
    "pcgrad": pcgrad,
    "mgda": mgda,
    "nash": nash,
    "imtl_g": imtl_g,
    "upgrad": upgrad,
}
"""Rules without a parameter of their own, by name; `conflict_rule` knows all."""


def conflict_rule(name: str, radius: float) -> Rule:
    """The rule of a name; `radius` is CAGrad's c.

    Raises:
        KeyError: there is none.
    """
    return partial(cagrad, radius=radius) if name == "cagrad" else CONFLICT_RULES[name]


@dataclass(frozen=True)
class Settlement:
    """A rule, and how it is asked.

    `only_conflicts`: while no two steps point against each other, their mean is the answer, whatever the rule.
    `rescale`: the common step gets the length of the mean; else it keeps the rule's own, which differ widely.
    """

    rule: Rule
    only_conflicts: bool = True
    rescale: bool = True

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
        if self.rescale:
            mean = np.full(len(moved), 1.0 / len(shares))
            length = _norm(scaled, found)
            if length > _STATIONARY * _norm(scaled, np.abs(found)) and length > 0:
                found = found * (_norm(scaled, mean) / length)
        weights = shares.copy()
        weights[moved] = found * factors
        return weights


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
