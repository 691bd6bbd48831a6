"""From folded updates to the values of the next version, as a strategy says."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from common.methods.conflict import cosines
from common.methods.relation import Relation
from common.methods.step_scale import lengthening
from common.methods.task_weights import Evidence
from common.parameters.encodings import BLOCK, is_finite
from common.parameters.plan import heights_of
from common.parameters.schema import ParameterSchema
from common.parameters.scope import ByTemplate, Scope, is_sum, moment_name
from common.parameters.vector import Float64, Vector
from server.aggregation.accumulator import Accumulator, ByTask, Delta, Piece, Summand
from server.aggregation.auxiliary import gated
from server.aggregation.averaging import averaged
from server.aggregation.bound import bounded, clipped
from server.aggregation.dual import HEADS, remade
from server.aggregation.kept_updates import KeptUpdates
from server.aggregation.lengths import Measured, length_of
from server.aggregation.noise import add_noise, clip_after
from server.aggregation.ring_sums import OpenedSums, RingSums
from server.aggregation.strategy import AggregationStrategy, WeightedMean
from server.aggregation.streaming import StreamingMean
from server.core.dual_facts import Relationship
from server.core.effects import Combine, OpenSums
from server.core.privacy_facts import Noising
from server.core.readers import Stretch, StretchTotal
from server.core.state import Related
from server.relations.relate import Context, relate, related_templates

log = logging.getLogger("fedmtl.server")

MOST_NAMED = 5
"""So many of the longest updates are named where a version is not finite."""


class NotFinite(Exception):
    """New values of these scopes, or moments, would not be finite; `lengths` are the longest updates by order id."""

    def __init__(self, scopes: Sequence[str], lengths: Mapping[str, float]) -> None:
        super().__init__(f"not finite: {', '.join(scopes)}")
        self.scopes = tuple(scopes)
        self.lengths = tuple(sorted(lengths.items(), key=lambda item: (-item[1], item[0]))[:MOST_NAMED])


class Aggregator:
    """Folds the updates of a round and combines them at its end.

    `cosines` are those of the last round: scope -> tasks and their matrix, for scopes with a sum per task; `related`
    is what the relation between members did in it, `clip` the longest update of the next one where that changes,
    `lengths` how long updates were as they came, by order id.
    `moments` are the server optimizer's, by `moment_name`; `combine` changes them in place, also where it fails.
    """

    def __init__(
        self,
        strategy: AggregationStrategy,
        moments: Mapping[str, Vector] | None = None,
        schemas: Mapping[str, ParameterSchema] = MappingProxyType({}),
    ) -> None:
        self.cosines: dict[str, tuple[tuple[str, ...], Float64]] = {}
        self.related: list[Related] = []
        self.relationship: Relationship | None = None
        self.clip: float | None = None
        self.lengths: dict[str, float] = {}
        self._schemas = schemas
        self._heights = heights_of({name: schema for name, schema in schemas.items() if Scope.parse(name).is_member})
        self.moments: dict[str, Vector] = dict(moments or {})
        self.ring = RingSums()
        """Of a round whose answers are integers."""
        self._strategy = strategy
        mean = strategy.mean
        self._shortened = 0
        self._bound: float | None = None
        self._lengths: dict[str, float] = {}
        self._updates: Accumulator = (
            StreamingMean() if isinstance(mean, WeightedMean) else KeptUpdates(mean, strategy.folder)
        )

    def fold(
        self,
        order_id: str,
        deltas: Sequence[tuple[str, Delta]],
        weights: Mapping[str, int],
        by_task: ByTask,
        clip: float | None = None,
        median: float | None = None,
    ) -> None:
        """Take one client's update in; see `core.effects.Fold`.

        Raises:
            RunFolderError: it is to be kept on disk, and the disk does not take it.
        """
        came = [(scope, Measured(delta)) for scope, delta in deltas]
        counted: Sequence[tuple[str, Delta]] = came
        self._bound = self._strategy.bound_after(median)
        if self._bound is not None:
            counted = bounded(came, self._bound)
            self._shortened += counted is not came
        if clip is not None and self._strategy.noise is not None:
            counted, is_within = clipped(came, clip, self._strategy.noise.head_scale, by_task)
            self._shortened += not is_within
        self._updates.add(order_id, counted, weights, by_task)
        self._lengths[order_id] = length_of([delta for _, delta in came])

    def open(self, asked: OpenSums, stored: RingSums | None = None) -> OpenedSums:
        """Open the sums of circles, those that were `stored` or else `ring`: they then are sums of updates folded.

        Raises:
            ConfigError: `cryptography` is missing.
        """
        assert isinstance(self._updates, StreamingMean)
        opened = (self.ring if stored is None else stored).open(asked)
        for found in opened.cells:
            found.write_to(self._updates.whole(found.cell.scope, found.cell.task, len(found.total)))
        return opened

    def combine(self, vectors: Mapping[str, Vector], asked: Combine) -> dict[str, Vector]:
        """New values of the scopes in `asked.totals` on top of `vectors`; afterwards nothing is folded any more.

        Raises:
            NotFinite: a value or a moment would be NaN or infinite.
        """
        self.cosines, self.related, self.relationship, self.clip = {}, [], None, None
        self.lengths = dict(self._lengths)
        noise, counts = self._strategy.noise, (self._shortened, len(self._lengths))
        if self._shortened:
            bound = ("aggregation.norm_bound", self._bound)
            bound = bound if asked.noise is None else ("privacy.clip", asked.noise.clip)
            log.info("%d of %d updates were longer than %s %g and shortened", *counts, *bound)
        if noise is not None and asked.noise is not None:
            assert isinstance(self._updates, StreamingMean)
            add_noise(self._updates, vectors, asked, noise)
            self.clip = clip_after(asked, noise, counts[1] - counts[0], counts[1])
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what that makes of numbers is looked for below
                fresh = self._moved(vectors, asked)
                self._require_finite(fresh)
                related = self._relate(vectors, fresh, asked)
                related |= self._remake(ByTemplate({**vectors, **fresh}), asked)
                self._require_finite(related)
                return fresh | related | self._averaged(vectors, fresh | related, asked)
        finally:
            self.clear()

    def _moved(self, vectors: Mapping[str, Vector], asked: Combine) -> dict[str, Vector]:
        """The values of scopes after the round's steps."""
        fresh, starts = {}, asked.probed.starts
        for scope, total in asked.totals.items():
            if not total:  # a relation alone may move it
                continue
            first = is_sum(scope) and scope not in vectors
            base = np.zeros_like(vectors[Scope.parse(scope).base]) if first else vectors[starts.get(scope, scope)]
            rows = asked.rows.get(scope)
            parts = asked.stretches.get(scope) or [
                StretchTotal(Stretch(0, len(base), frozenset(rows or ())), total),
            ]
            if rows is not None:
                pieces = self._weighed(scope, rows, parts, asked)
            else:
                whole = asked.divisor(scope)
                pieces = [self._whole(scope, part.stretch, part.total if len(parts) > 1 else whole) for part in parts]
            fresh[scope] = self._move(scope, base, self._updates.report(scope, pieces))
        return fresh

    def _relate(self, vectors: Mapping[str, Vector], fresh: Mapping[str, Vector], asked: Combine) -> dict[str, Vector]:
        """What the relation makes of members that moved."""
        relation, totals = self._strategy.relation, asked.totals
        related: dict[str, Vector] = {}
        if relation is not None:
            passed = asked.version / self._strategy.num_rounds
            whole = isinstance(relation, Relation) and relation.whole_models
            for template in related_templates(totals if whole else fresh):
                schema, height = self._schemas.get(template), self._heights.get(template, 0.0)
                context = Context(schema, height, passed, self._strategy.scale, asked.probed)
                state = asked.remembered.get(template, "")
                moved, record = relate(relation, template, vectors, fresh, totals, asked.version, state, context)
                related |= moved
                self.related.append(record)
        return related

    def _remake(self, vectors: Mapping[str, Vector], asked: Combine) -> dict[str, Vector]:
        """The heads of a run that solves a dual."""
        if self._strategy.dual is None or not asked.heads:
            return {}
        before = asked.remembered.get(HEADS, "")
        made = remade(self._strategy.dual, self._schemas, vectors, asked.heads, asked.version, before)
        self.relationship = made.relationship
        self.related.append(made.record)
        return made.values

    def _averaged(
        self, vectors: Mapping[str, Vector], fresh: Mapping[str, Vector], asked: Combine
    ) -> dict[str, Vector]:
        """The averages of versions, which take the place of the last one."""
        average, rounds = self._strategy.average, self._strategy.num_rounds
        if average is None:
            return {}
        found = averaged({**vectors, **fresh}, self.moments, average.share(asked.version, rounds))
        if asked.version < rounds:
            return {}
        log.info("version %d is the average of versions (aggregation.average: %s)", asked.version, average.name)
        return {scope: values.copy() for scope, values in found.items() if scope in asked.totals}

    def _require_finite(self, values: Mapping[str, Vector]) -> None:
        """Check values and the moments that go with them, block by block."""
        spoiled = []
        for scope, vector in values.items():
            names = [moment_name(moment, scope) for moment, _ in self._strategy.mover_of(scope)[0].moments]
            moments = [self.moments[name] for name in names if name in self.moments]
            if not all(map(_is_finite, (vector, *moments))):
                spoiled.append(scope)
        if spoiled:
            raise NotFinite(spoiled, self._lengths)

    def clear(self) -> None:
        """Forget what was folded."""
        self._shortened = 0
        self._lengths.clear()
        self._updates.clear()
        self.ring.clear()

    def _whole(self, scope: str, stretch: Stretch, total: float) -> Piece:
        """The only sum of a scope; where tasks may share it, times the number that steps are scaled by."""
        scale, shared = self._strategy.scale, Scope.parse(scope).is_averaged
        share = scale if shared and not isinstance(scale, str) else 1.0
        return Piece(stretch.start, stretch.stop, [Summand("", total, share)])

    def _weighed(
        self, scope: str, examples: Mapping[str, int], parts: Sequence[StretchTotal], asked: Combine
    ) -> list[Piece]:
        """The sums of a scope's tasks with their shares in the step of each stretch: of those that read it."""
        tasks = tuple(examples)
        counts = np.array(list(examples.values()), dtype=np.float64)
        summands = [Summand(task, asked.divisor(scope, task)) for task in tasks]
        even = [Piece(part.stretch.start, part.stretch.stop, summands) for part in parts]
        grams = [self._gram(scope, piece, asked.noise) for piece in even]
        if len(tasks) > 1:
            self.cosines[scope] = tasks, cosines(sum(grams[1:], grams[0]))
        pieces = []
        for piece, part, gram in zip(even, parts, grams, strict=True):
            found = [i for i, task in enumerate(tasks) if task in part.stretch.tasks] or list(range(len(tasks)))
            readers = tuple(tasks[i] for i in found)
            evidence = Evidence(readers, counts[found], gram[np.ix_(found, found)], asked.trends)
            shares = self._shares(evidence, asked.noise is None or bool(np.diag(evidence.gram).all()))
            weighed = [replace(summands[i], share=float(share)) for i, share in zip(found, shares, strict=True)]
            pieces.append(replace(piece, summands=weighed))
        return pieces

    def _gram(self, scope: str, piece: Piece, noising: Noising | None) -> Float64:
        """Inner products of the tasks' mean steps, (T, T), without what noise adds to their lengths on the average."""
        if len(piece.summands) < 2:
            return np.ones((1, 1))
        assert isinstance(self._updates, StreamingMean)
        gram, noise = self._updates.gram(scope, piece), self._strategy.noise
        if noising is None or noise is None:
            return gram
        deviation, size = noise.deviation(noising, scope), piece.stop - piece.start
        surplus = np.array([size * (deviation / summand.total) ** 2 for summand in piece.summands])
        squares = np.diag(gram) - surplus
        # The squared length of noise alone has the deviation sqrt(2/size) of itself: what is within three is no step.
        squares[squares <= 3 * np.sqrt(2 / size) * surplus] = 0.0
        if not squares.all():
            log.info("scope %s: the noise of a task's step hides its length; tasks weigh as in the mean", scope)
        most = np.sqrt(np.outer(squares, squares))
        found: Float64 = np.clip(gram, -most, most)
        np.fill_diagonal(found, squares)
        return found

    def _shares(self, evidence: Evidence, resolves: bool) -> Float64:
        """What tasks' mean steps are multiplied by, (T,); only with `resolves` by a rule for conflicts."""
        mean, tasks, gram = self._strategy.mean, evidence.tasks, evidence.gram
        assert isinstance(mean, WeightedMean)
        shares = mean.weights(evidence)
        shares = shares * np.array([mean.factors.get(task, 1.0) for task in tasks])
        shares = gated(shares / shares.sum(), gram, np.array([task in mean.auxiliary for task in tasks]))
        if len(tasks) > 1 and mean.resolver is not None and resolves:
            counted = np.flatnonzero(shares)
            shares[counted] = mean.resolver.weights(gram[np.ix_(counted, counted)], shares[counted])
        scaled: Float64 = shares * lengthening(self._strategy.scale, shares, gram)
        return scaled

    def _move(self, scope: str, base: Vector, steps: Iterator[tuple[int, Float64]]) -> Vector:
        """`base` plus the optimizer's move, computed in float64 and rounded once to the type of `base`."""
        optimizer, rate = self._strategy.mover_of(scope)
        moments = [
            self.moments.setdefault(moment_name(moment, scope), np.full_like(base, value))
            for moment, value in optimizer.moments
        ]
        result = np.empty_like(base)
        for start, step in steps:
            stop = start + len(step)
            move = optimizer.advance(step, [moment[start:stop] for moment in moments])
            move *= rate
            move += base[start:stop]
            result[start:stop] = move
        return result


def _is_finite(vector: Vector) -> bool:
    return all(is_finite(vector[i : i + BLOCK]) for i in range(0, len(vector), BLOCK))
