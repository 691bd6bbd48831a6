"""MOCHA in one process: every task's rows side by side, without orders, versions or a wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from client.training.design import DesignMatrix
from client.training.sdca import Subproblem, measure, solve
from common.methods.dual_losses import DualLoss
from common.seeds import derive_seed

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

Relearn = Callable[[int, Matrix], Matrix]
"""(round, W of shape (d, m)) -> the Sigma of the next round."""


@dataclass(frozen=True)
class Past:
    """A round's certificate, after its changes and, if there was one, after the relationship update."""

    primal: float
    dual: float

    @property
    def gap(self) -> float:
        return self.primal - self.dual


@dataclass
class Twin:
    """All tasks' subproblems; alpha, B and W are one whole, W = B Sigma / lambda always."""

    problems: list[Subproblem]
    sigma: Matrix
    forced: float | None = None
    """sigma' of everybody instead of the safe one."""
    past: list[Past] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        rows: Sequence[Matrix],
        targets: Sequence[Vector],
        loss: DualLoss,
        strength: float,
        sigma: Matrix,
        weights: Sequence[Vector] | None = None,
        forced: float | None = None,
    ) -> Twin:
        weights = [np.ones(len(y)) for y in targets] if weights is None else weights
        return cls(
            [
                Subproblem(DesignMatrix.of(x), y, c, loss, len(y), strength, sigma[t, t])
                for t, (x, y, c) in enumerate(zip(rows, targets, weights, strict=True))
            ],
            sigma,
            forced,
        )

    def __post_init__(self) -> None:
        self.alphas = [np.zeros(len(problem.targets)) for problem in self.problems]
        self.b = np.zeros((self.problems[0].rows.features, len(self.problems)))
        self.relate(self.sigma)

    def relate(self, sigma: Matrix) -> None:
        """Take a Sigma: every task's Sigma_tt and sigma' follow it, and so does W."""
        self.sigma = sigma
        couplings = (
            np.abs(sigma).sum(axis=1) / np.diag(sigma) if self.forced is None else np.full(len(sigma), self.forced)
        )
        self.problems = [
            replace(problem, sigma=float(sigma[t, t]), coupling=max(float(couplings[t]), 1.0))
            for t, problem in enumerate(self.problems)
        ]
        self.map()

    def map(self) -> None:
        self.w = self.b @ self.sigma / self.problems[0].strength

    def certificate(self) -> Past:
        strength, fit, dual = self.problems[0].strength, 0.0, 0.0
        for t, problem in enumerate(self.problems):
            sums = measure(problem, np.ascontiguousarray(self.w[:, t]), self.alphas[t])
            fit += sums.loss_sum / problem.count
            dual += sums.dual_sum / problem.count
        penalty = float(np.sum((self.b @ self.sigma) * self.b)) / (2.0 * strength)
        return Past(fit + penalty, dual - penalty)

    def round(self, number: int, passes: Sequence[float] | None = None, seed: int = 0) -> Past:
        """One round; `passes`: every task's share of its rows to visit, 0 for a drop-out; by default 1 for all."""
        for t, problem in enumerate(self.problems):
            visits = round((1.0 if passes is None else passes[t]) * len(problem.targets))
            if visits:
                w = np.ascontiguousarray(self.w[:, t])
                solved = solve(problem, w, self.alphas[t], derive_seed(seed, number, t), visits)
                self.alphas[t] = solved.alpha
                self.b[:, t] = solved.support / problem.count
        self.map()
        return self.certificate()

    def run(
        self,
        rounds: int,
        passes: Callable[[int], Sequence[float]] | None = None,
        relearn: Relearn | None = None,
        stop_at_gap: float = 0.0,
    ) -> list[Past]:
        """Rounds until the gap is small; the certificates so far."""
        for number in range(1, rounds + 1):
            found = self.round(number, None if passes is None else passes(number))
            if relearn is not None:
                self.relate(relearn(number, self.w))
                found = self.certificate()
            self.past.append(found)
            if found.gap <= stop_at_gap:
                break
        return self.past
