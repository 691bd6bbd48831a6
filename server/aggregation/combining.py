"""From folded updates to the values of the next version, as a method says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.conflict import cosines
from server.aggregation.method import Method
from server.aggregation.streaming import Delta, Part, StreamingMean

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Combiner:
    """Folds the updates of a round and combines them at its end.

    `cosines` are those of the last round: scope -> tasks and their matrix, for scopes with a sum per task.
    """

    def __init__(self, method: Method) -> None:
        self.cosines: dict[str, tuple[tuple[str, ...], Float64]] = {}
        self._method = method
        self._sums = StreamingMean()

    def fold(
        self,
        deltas: Sequence[tuple[str, Delta]],
        weights: Mapping[str, int],
        rows: Mapping[str, Mapping[str, int]],
    ) -> None:
        """Take one client's update in; see `core.effects.Fold`."""
        self._sums.fold(deltas, weights, rows)

    def combine(
        self, vectors: Mapping[str, Float32], totals: Mapping[str, int], rows: Mapping[str, Mapping[str, int]]
    ) -> dict[str, Float32]:
        """New values of the scopes in `totals` on top of `vectors`; see `core.effects.StoreVersion`."""
        self.cosines = {}
        fresh = {}
        for scope, total in totals.items():
            parts = self._weigh(scope, rows[scope]) if scope in rows else [Part("", total)]
            fresh[scope] = self._move(scope, vectors[scope], parts)
        self.clear()
        return fresh

    def clear(self) -> None:
        """Forget what was folded."""
        self._sums.clear()

    def _weigh(self, scope: str, examples: Mapping[str, int]) -> list[Part]:
        """The sums of a scope's tasks with their shares in the step."""
        method, tasks = self._method, tuple(examples)
        counts = np.array(list(examples.values()), dtype=np.float64)
        shares = method.shares(counts) * np.array([method.task_weights.get(task, 1.0) for task in tasks])
        shares = shares / shares.sum()
        if len(tasks) > 1:
            gram = self._sums.gram(scope, [Part(task, examples[task]) for task in tasks])
            self.cosines[scope] = tasks, cosines(gram)
            if method.settlement is not None:
                shares = method.settlement.weights(gram, shares)
        return [Part(task, examples[task], float(share)) for task, share in zip(tasks, shares, strict=True)]

    def _move(self, scope: str, base: Float32, parts: Sequence[Part]) -> Float32:
        """`base` plus the step, computed in float64 and rounded once."""
        result = np.empty(len(base), dtype=np.float32)
        for start, step in self._sums.steps(scope, parts):
            step *= self._method.rate
            step += base[start : start + len(step)]
            result[start : start + len(step)] = step
        return result
