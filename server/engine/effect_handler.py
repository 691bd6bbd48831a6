"""Carries out what the core decided: sums, versions, journal, broadcast."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

import numpy as np

from common.orders import Evaluate, Order, ProximalTerm, ScopeVersion, Train
from common.parameters.schema import ParameterSchema
from common.parameters.scope import ByTemplate, Scope, moment_name
from common.parameters.vector import Vector
from common.ports import INLINE_BYTES
from server.aggregation.aggregator import Aggregator, NotFinite
from server.aggregation.strategy import AggregationStrategy
from server.core.effects import (
    ClearSums,
    Commit,
    Effect,
    Fold,
    InstallVersion,
    Record,
    RoundClosed,
    RunEnded,
    StoreVersion,
    TaskCosines,
)
from server.core.events import StoreOutcome, VersionSpoiled, VersionStored
from server.core.facts import Traffic
from server.core.state import FederationState
from server.engine.broadcast import Broadcast
from server.engine.uploads import Uploads
from server.storage.journal import Journal
from server.storage.models import ModelStore

log = logging.getLogger("fedmtl.server")


class EffectHandler:
    """Everything that effects act on. Only the coordinator's one writer calls `carry_out`.

    `vectors` are the published values of the travelling scopes; `traffic` is written with every commit. `cosines` were
    measured when the last version was stored.
    """

    def __init__(
        self,
        journal: Journal,
        models: ModelStore,
        version: int,
        schemas: Mapping[str, ParameterSchema],
        strategy: AggregationStrategy,
        traffic: Callable[[], Traffic],
    ) -> None:
        self.vectors: ByTemplate[Vector] = ByTemplate(models.read(version))
        self.uploads = Uploads(schemas)
        self.broadcast = Broadcast()
        self._journal = journal
        self._models = models
        self._traffic = traffic
        self._strategy = strategy
        self._aggregator = Aggregator(strategy, self._moments(version))
        self.cosines: tuple[TaskCosines, ...] = ()
        self._related = {record.template: record for record in journal.relations()}
        self._anchor_strength = strategy.anchor_strength
        if version == 0 and strategy.anchor_strength:
            shared = {scope: vector for n, vector in self.vectors.items() if (scope := Scope.parse(n)).is_shared}
            self.vectors.update({scope.anchor: vector for scope, vector in shared.items()})
        self._stored: ByTemplate[Vector] = ByTemplate()

    def pulls(self, scopes: Sequence[ScopeVersion]) -> tuple[ProximalTerm, ...]:
        """What an order with these scopes says of anchors."""
        found = []
        for name, version in ((wanted.scope, wanted.version) for wanted in scopes):
            record = self._related.get(Scope.parse(name).template)
            if record is not None and record.mu.get(name):
                found.append(ProximalTerm(name, record.mu[name], version))
            elif self._anchor_strength and Scope.parse(name).is_shared:
                found.append(ProximalTerm(name, self._anchor_strength, 0))
        return tuple(found)

    def with_pulls(self, order: Order) -> Order:
        """The order with what it says of anchors; one to score alone needs none."""
        match order.body:
            case Train():
                return replace(order, body=replace(order.body, proximal_terms=self.pulls(order.scopes)))
            case Evaluate():
                return order
            case _:
                assert_never(order.body)

    def is_quick(self, effect: Effect) -> bool:
        """Whether an effect takes less time than handing it to a thread would."""
        if isinstance(effect, Fold):
            return self.uploads.dense_bytes(effect.order_id) <= INLINE_BYTES
        if isinstance(effect, StoreVersion):  # a small version only joins the next commit; moments have a file
            return not self._aggregator.moments and self._nbytes() <= INLINE_BYTES
        return not isinstance(effect, Commit)

    def _nbytes(self) -> int:
        return sum(vector.nbytes for vector in self.vectors.values())

    def _moments(self, version: int, names: Sequence[str] | None = None) -> dict[str, Vector]:
        """The optimizer's moments as of a version: as they were stored, or their first values at the start of a run."""
        first = {
            moment_name(moment, scope): np.full_like(vector, value)
            for scope, vector in self.vectors.items()
            for moment, value in self._strategy.mover_of(scope)[0].moments
            if not Scope.parse(scope).is_derived
        }
        return self._models.read_moments(version, names or list(first)) if version else first

    async def carry_out(self, effect: Effect, state: FederationState, now: float) -> StoreOutcome | None:
        """Carry out one effect of the step that led to `state`, and say what came of it where the core has to know.

        Raises:
            RunFolderError: the disk does not take it.
        """
        if self.is_quick(effect):
            return self.carry_out_at_once(effect, state, now)
        outcome = await asyncio.to_thread(self._work, effect, now)
        self.finish(effect, state)
        return outcome

    def carry_out_at_once(self, effect: Effect, state: FederationState, now: float) -> StoreOutcome | None:
        """Carry out a quick effect."""
        outcome = self._work(effect, now)
        self.finish(effect, state)
        return outcome

    def finish(self, effect: Effect, state: FederationState) -> None:
        """The part of an effect that belongs into the event loop's thread."""
        match effect:
            case Fold(order_id):
                self.uploads.discard(order_id)
            case InstallVersion():
                self._related |= {record.template: record for record in self._aggregator.related}
                for record in self._aggregator.related:
                    if record.note:
                        log.info("round %d, relation on %s: %s", record.round, record.template, record.note)
                self.vectors, self._stored = self._stored, ByTemplate()
                self.broadcast.clear()
            case Commit(records) if any(isinstance(record, RoundClosed | RunEnded) for record in records):
                self.uploads.discard_all_but(frozenset(state.open.orders if state.open is not None else ()))

    def _work(self, effect: Effect, now: float) -> StoreOutcome | None:
        match effect:
            case Fold(order_id, weights, rows):
                self._aggregator.fold(order_id, self.uploads.take(order_id), weights, rows)
            case ClearSums():
                self._aggregator.clear()
            case StoreVersion():
                return self._store(effect, now)
            case Commit(records):
                closed = any(isinstance(record, RoundClosed) and record.published is not None for record in records)
                measured: Sequence[Record] = (*self.cosines, *self._aggregator.related) if closed else ()
                self._journal.commit((*records, *measured, self._traffic()))
        return None

    def _store(self, effect: StoreVersion, now: float) -> StoreOutcome:
        before = {template: record.state for template, record in self._related.items()}
        moments = list(self._aggregator.moments)
        try:
            fresh = self._aggregator.combine(
                self.vectors, effect.totals, effect.rows, effect.trends, effect.version, before
            )
        except NotFinite as found:  # moments were changed in place; those on disk are what the round started from
            self._aggregator.moments = self._moments(effect.version - 1, moments)
            return VersionSpoiled(now, found.scopes, found.lengths)
        self.cosines = tuple(
            TaskCosines(effect.version, scope, tasks, tuple(tuple(row) for row in matrix.tolist()))
            for scope, (tasks, matrix) in self._aggregator.cosines.items()
        )
        self._stored = ByTemplate({**self.vectors, **fresh})
        self._models.write(effect.version, self._stored, self._aggregator.moments)
        return VersionStored(now, effect)
