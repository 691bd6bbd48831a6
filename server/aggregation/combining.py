"""From folded updates to the values of the next version, as a method says."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from common.conflict import cosines
from server.aggregation.auxiliary import gated
from server.aggregation.bound import bounded
from server.aggregation.cohort import Cohort
from server.aggregation.method import Method, StreamingRule
from server.aggregation.shares import Evidence, Trends
from server.aggregation.streaming import Delta, Part, StreamingMean
from server.core.effects import Related
from server.relations.circle import relate, related_slots

log = logging.getLogger("fedmtl.server")

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def moment_name(moment: str, scope: str) -> str:
    """What a scope's moment is called among all moments."""
    return f"{moment}/{scope}"


class Combiner:
    """Folds the updates of a round and combines them at its end.

    `cosines` are those of the last round: scope -> tasks and their matrix, for scopes with a sum per task; `related`
    is what the relation between members did in it. `moments` are the server optimizer's, by `moment_name`; `combine`
    changes them in place.
    """

    def __init__(self, method: Method, moments: Mapping[str, Float32] | None = None) -> None:
        self.cosines: dict[str, tuple[tuple[str, ...], Float64]] = {}
        self.related: list[Related] = []
        self.moments: dict[str, Float32] = dict(moments or {})
        self._method = method
        self._folded = self._shortened = 0
        self._sums = StreamingMean()
        self._cohort = Cohort(method.rule, method.folder) if not isinstance(method.rule, StreamingRule) else None

    def fold(
        self,
        order_id: str,
        deltas: Sequence[tuple[str, Delta]],
        weights: Mapping[str, int],
        rows: Mapping[str, Mapping[str, int]],
    ) -> None:
        """Take one client's update in; see `core.effects.Fold`.

        Raises:
            RunFolderError: it is to be kept on disk, and the disk does not take it.
        """
        if self._method.norm_bound is not None:
            within = bounded(deltas, self._method.norm_bound)
            self._shortened += within is not deltas
            deltas = within
        self._folded += 1
        if self._cohort is not None:
            self._cohort.fold(order_id, [(scope, delta) for scope, delta in deltas if weights[scope]])
        else:
            self._sums.fold(deltas, weights, rows)

    def combine(
        self,
        vectors: Mapping[str, Float32],
        totals: Mapping[str, int],
        rows: Mapping[str, Mapping[str, int]],
        trends: Trends = (),
        version: int = 0,
        before: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Float32]:
        """New values of the scopes in `totals` on top of `vectors`; see `core.effects.StoreVersion`.

        `before` is what the relation said to remember of each slot, for the version to be made.
        """
        self.cosines, self.related = {}, []
        if self._shortened:
            shares = (self._shortened, self._folded, self._method.norm_bound)
            log.info("%d of %d updates were longer than aggregation.norm_bound %g and shortened", *shares)
        fresh = {}
        for scope, total in totals.items():
            if not total:  # a relation alone may move it
                continue
            if self._cohort is not None:
                steps = self._cohort.steps(scope, len(vectors[scope]))
            else:
                parts = self._weigh(scope, rows[scope], trends) if scope in rows else [Part("", total)]
                steps = self._sums.steps(scope, parts)
            fresh[scope] = self._move(scope, vectors[scope], steps)
        self.clear()
        relation = self._method.relation
        if relation is not None:
            for slot in related_slots(list(fresh)):
                moved, record = relate(relation, slot, vectors, fresh, totals, version, before.get(slot, ""))
                fresh |= moved
                self.related.append(record)
        return fresh

    def clear(self) -> None:
        """Forget what was folded."""
        self._folded = self._shortened = 0
        self._sums.clear()
        if self._cohort is not None:
            self._cohort.clear()

    def _weigh(self, scope: str, examples: Mapping[str, int], trends: Trends) -> list[Part]:
        """The sums of a scope's tasks with their shares in the step."""
        rule, tasks = self._method.rule, tuple(examples)
        assert isinstance(rule, StreamingRule)
        counts = np.array(list(examples.values()), dtype=np.float64)
        several = len(tasks) > 1
        gram = self._sums.gram(scope, [Part(t, examples[t]) for t in tasks]) if several else np.ones((1, 1))
        shares = rule.shares(Evidence(tasks, counts, gram, trends))
        shares = shares * np.array([rule.task_weights.get(task, 1.0) for task in tasks])
        shares = gated(shares / shares.sum(), gram, np.array([task in rule.auxiliary for task in tasks]))
        if several:
            self.cosines[scope] = tasks, cosines(gram)
            if rule.settlement is not None:
                counted = np.flatnonzero(shares)
                shares[counted] = rule.settlement.weights(gram[np.ix_(counted, counted)], shares[counted])
        return [Part(task, examples[task], float(share)) for task, share in zip(tasks, shares, strict=True)]

    def _move(self, scope: str, base: Float32, steps: Iterator[tuple[int, Float64]]) -> Float32:
        """`base` plus the optimizer's move, computed in float64 and rounded once."""
        optimizer, rate = self._method.mover_of(scope)
        moments = [
            self.moments.setdefault(moment_name(moment, scope), np.full_like(base, value))
            for moment, value in optimizer.moments
        ]
        result = np.empty(len(base), dtype=np.float32)
        for start, step in steps:
            stop = start + len(step)
            move = optimizer.advance(step, [moment[start:stop] for moment in moments])
            move *= rate
            move += base[start:stop]
            result[start:stop] = move
        return result
