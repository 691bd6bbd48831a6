"""Carries out what the core decided: sums, versions, journal, broadcast."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import assert_never

import numpy as np

from common.errors import RunFolderError
from common.parameters.schema import ParameterSchema
from common.parameters.scope import ByTemplate, Scope, is_candidate, moment_name
from common.parameters.vector import Vector
from common.ports import INLINE_BYTES
from server.aggregation.aggregator import Aggregator, NotFinite
from server.aggregation.averaging import average_names
from server.aggregation.ring_sums import RingSums
from server.aggregation.strategy import AggregationStrategy
from server.core.effects import (
    AddToSums,
    ClearSums,
    Combine,
    Commit,
    Effect,
    Fold,
    InstallVersion,
    Notice,
    OpenSums,
    PhaseClosed,
    RoundClosed,
    RunEnded,
    StoreSums,
    StoreVersion,
    TaskCosines,
    Wake,
)
from server.core.events import Combined, Outcome, SumsOpened, VersionSpoiled
from server.core.state import FederationState
from server.engine.broadcast import Broadcast
from server.engine.uploads import Uploads
from server.relations.first import first_candidates
from server.storage.journal import Journal
from server.storage.models import ModelStore


class EffectHandler:
    """Everything that effects act on. Only the coordinator's one writer calls `carry_out`.

    `vectors` are the published values of the travelling scopes.
    """

    def __init__(
        self,
        journal: Journal,
        models: ModelStore,
        version: int,
        schemas: Mapping[str, ParameterSchema],
        strategy: AggregationStrategy,
    ) -> None:
        self.vectors: ByTemplate[Vector] = ByTemplate(models.read(version))
        self.uploads = Uploads(schemas)
        self.broadcast = Broadcast()
        self._journal = journal
        self._models = models
        self._strategy = strategy
        self._aggregator = Aggregator(strategy, self._moments(version), schemas)
        if version == 0 and strategy.anchor_strength:
            shared = {scope: vector for n, vector in self.vectors.items() if (scope := Scope.parse(n)).is_shared}
            self.vectors.update({scope.anchor: vector for scope, vector in shared.items()})
        if strategy.has_controls:
            travelling = [(Scope.parse(scope), vector) for scope, vector in self.vectors.items()]
            zeros = {scope.control: np.zeros_like(vector) for scope, vector in travelling if not scope.is_derived}
            self.vectors = ByTemplate({**zeros, **self.vectors})
        first = first_candidates(strategy.relation, self.vectors, schemas, strategy.seed)
        self.vectors.update(first)
        self._fresh: Mapping[str, Vector] = {}

    def is_quick(self, effect: Effect) -> bool:
        """Whether an effect takes less time than handing it to a thread would."""
        match effect:
            case Fold(order_id) | AddToSums(order_id):
                return self.uploads.dense_bytes(order_id) <= INLINE_BYTES
            case Combine():
                return self._nbytes() <= INLINE_BYTES
            case StoreVersion():  # a small version only joins the next commit; moments have a file
                return not self._aggregator.moments and self._nbytes() <= INLINE_BYTES
            case StoreSums() | OpenSums() | Commit():
                return False
            case ClearSums() | InstallVersion() | Wake() | Notice():
                return True
            case _:
                assert_never(effect)

    def _combined(self) -> ByTemplate[Vector]:
        """The values of all scopes once the version that was combined is installed.

        Of templates that a relation acted on, candidates of before are gone.
        """
        moved = frozenset(Scope.parse(name).template for name in self._fresh)
        kept = {n: v for n, v in self.vectors.items() if not (is_candidate(n) and Scope.parse(n).template in moved)}
        return ByTemplate({**kept, **self._fresh})

    def _nbytes(self) -> int:
        return sum(vector.nbytes for vector in self.vectors.values())

    def _moments(self, version: int, names: Sequence[str] | None = None) -> dict[str, Vector]:
        """The optimizer's moments as of a version, as they were stored, or their first values at the start of a run.

        Averages of versions are among them, and begin with the first version.
        """
        first = {
            moment_name(moment, scope): np.full_like(vector, value)
            for scope, vector in self.vectors.items()
            for moment, value in self._strategy.mover_of(scope)[0].moments
            if not Scope.parse(scope).is_derived
        }
        averages = average_names(self.vectors).values() if self._strategy.average is not None else ()
        return self._models.read_moments(version, names or [*first, *averages]) if version else first

    async def carry_out(self, effect: Effect, state: FederationState, now: float) -> Outcome | None:
        """Carry out one effect of the step that led to `state`, and say what came of it where the core has to know.

        Raises:
            RunFolderError: the disk does not take it.
        """
        if self.is_quick(effect):
            return self.carry_out_at_once(effect, state, now)
        outcome = await asyncio.to_thread(self._work, effect, now)
        self.finish(effect, state)
        return outcome

    def carry_out_at_once(self, effect: Effect, state: FederationState, now: float) -> Outcome | None:
        """Carry out a quick effect."""
        outcome = self._work(effect, now)
        self.finish(effect, state)
        return outcome

    def finish(self, effect: Effect, state: FederationState) -> None:
        """The part of an effect that belongs into the event loop's thread."""
        match effect:
            case Fold(order_id) | AddToSums(order_id):
                self.uploads.discard(order_id)
            case InstallVersion():
                self.vectors, self._fresh = self._combined(), {}
                self.broadcast.clear()
            case Commit(records) if any(isinstance(record, PhaseClosed | RoundClosed | RunEnded) for record in records):
                self.uploads.discard_all_but(frozenset(state.open.orders if state.open is not None else ()))

    def _work(self, effect: Effect, now: float) -> Outcome | None:
        match effect:
            case Fold(order_id, weights, rows, clip, median):
                self._aggregator.fold(order_id, self.uploads.take(order_id), weights, rows, clip, median)
            case AddToSums(order_id, layouts):
                self._aggregator.ring.add(layouts, self.uploads.payload(order_id))
            case StoreSums(name):
                self._models.sums.write(name, self._aggregator.ring.parts())
                self._aggregator.ring.clear()
            case OpenSums():
                return self._open(effect, now)
            case ClearSums():
                self._aggregator.clear()
            case Combine():
                return self._combine(effect, now)
            case StoreVersion(version, kept):
                self._models.write(version, self._combined(), self._fresh.keys(), self._aggregator.moments, kept)
            case Commit(records):
                self._journal.commit(records)
                if any(isinstance(record, RoundClosed) for record in records):
                    self._aggregator.ring.clear()  # of a round that ended before its sums were opened
                    self._models.sums.forget()
        return None

    def _open(self, asked: OpenSums, now: float) -> SumsOpened:
        """Without what was stored the round has no sums, but the run goes on."""
        try:
            stored = RingSums.of(self._models.sums.read(asked.name)) if asked.name else None
        except RunFolderError as error:
            return SumsOpened(now, {}, {closed.layout.circle.name: str(error) for closed in asked.circles})
        opened = self._aggregator.open(asked, stored)
        return SumsOpened(now, opened.counts, opened.given_up)

    def _combine(self, asked: Combine, now: float) -> Outcome:
        moments = list(self._aggregator.moments)
        try:
            self._fresh = self._aggregator.combine(self.vectors, asked)
        except NotFinite as found:  # moments were changed in place; those on disk are what the round started from
            self._aggregator.moments = self._moments(asked.version - 1, moments)
            return VersionSpoiled(now, found.scopes, found.lengths)
        cosines = tuple(
            TaskCosines(asked.version, scope, tasks, tuple(tuple(row) for row in matrix.tolist()))
            for scope, (tasks, matrix) in self._aggregator.cosines.items()
        )
        did = self._aggregator
        return Combined(now, asked, cosines, tuple(did.related), did.relationship, did.clip, did.lengths)
