"""Carries out orders with torch. Knows no network: values in, values out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from client.data.encoding import Reader, TrainingRows, encode, scores_of
from client.data.rows import Rows, TaskData
from client.limits import Limits
from client.model import ClientModelSynchronizer
from client.personal import Scores, score, work_on_own
from client.precision import Precision, PrecisionChoice
from client.state.store import PendingUpdate
from client.training.compact import CompactVocabulary, compact_vocabulary
from client.training.loop import Progress, TaskSet, TrainingDiverged
from client.training.procedures import Procedure, Work, frozen, procedure_of, share_of
from common.errors import Reason, Refused, WireError
from common.models.packed_tokenizer import unpack_tokenizer
from common.orders import (
    DENSE_FLOAT32,
    Order,
    OrderKind,
    ScopePayload,
    TaskResult,
    UpdateHeader,
    Welcome,
    offer_of,
)
from common.parameters.capacity import (
    ALL,
    blocks_of,
    capability_of,
    capacity_problem,
    fixed_scopes,
    frozen_blocks,
    trained_blocks,
)
from common.parameters.encodings import ENCODINGS
from common.parameters.plan import block_of
from common.parameters.scope import Scope, untrained_scopes
from common.seeds import derive_seed
from common.targets import OWN_UNITS, sums_of
from common.tasks import TaskDefinition, TaskType

log = logging.getLogger("fedmtl.client")


@dataclass(frozen=True)
class Outcome:
    """A finished order: the update to hand in, and the private values and own model that go with it."""

    update: PendingUpdate
    private: dict[str, Tensor]


@dataclass(frozen=True)
class Computing:
    """How a client trains, and how much of the model: all, head or top_<n>; of the first `layers` layers, if given.

    `folder` keeps an automatic choice of precision, one folder per run; None: nowhere.
    """

    compact_vocabulary: bool = True
    precision: Precision = "float32"
    folder: Path | None = None
    trains: str = ALL
    layers: int | None = None
    limits: Limits = field(default_factory=Limits)


class Worker:
    """One client's tasks, data and device; the model follows when the coordinator has described it.

    `procedure` takes the place of the one that orders name.
    """

    def __init__(
        self,
        client_id: str,
        tasks: Sequence[TaskDefinition],
        data: Mapping[str, TaskData],
        device: torch.device,
        capabilities: tuple[str, ...] = (),
        procedure: Procedure | None = None,
        computing: Computing | None = None,
    ) -> None:
        self.client_id = client_id
        self.tasks = tuple(tasks)
        self.examples = {task.name: len(data[task.name].train) for task in tasks}
        self.validation = {task.name: len(data[task.name].validation) for task in tasks}
        self.targets = {
            task.name: sums_of(scores_of(data[task.name].train)) for task in tasks if task.type is TaskType.REGRESSION
        }
        headers = {task.name: data[task.name].header for task in tasks}
        self.headers = tuple((name, header) for name, header in sorted(headers.items()) if header is not None)
        self._data = data
        self._device = device
        self._procedure = procedure
        self._payload = np.empty(0, dtype=np.uint8)
        self._computing = computing or Computing()
        self.capabilities = (*capabilities, *map(offer_of, ENCODINGS), *self._capacity())
        self._still: frozenset[str] = frozenset()
        self._fixed: frozenset[str] = frozenset()
        self._vocabulary: CompactVocabulary | None = None
        self._precision = PrecisionChoice("float32", None)
        self._sets: tuple[TaskSet, ...] = ()
        self._whole_sets: tuple[TaskSet, ...] = ()
        self.synchronizer: ClientModelSynchronizer | None = None

    def _capacity(self) -> tuple[str, ...]:
        return capability_of(self._computing.trains, self._computing.layers)

    def prepare(self, welcome: Welcome, tokenizer: bytes) -> ClientModelSynchronizer:
        """Build the model and tokenise the data, once per run and architecture.

        Raises:
            Refused: the layouts of the two sides differ, or a part of a scope alone would be trained.
            WireError: the tokenizer cannot be read.
        """
        names = tuple(task.name for task in self.tasks)
        wanted = self._computing
        self.synchronizer = ClientModelSynchronizer(
            welcome, names, self._device, wanted.layers, wanted.limits.judge_parameters
        )
        self._sets = self._encoded(welcome, unpack_tokenizer(tokenizer) if tokenizer else None)
        self._choose_computing(welcome.session.run_id)
        return self.synchronizer

    def _encoded(self, welcome: Welcome, reader: Reader | None) -> tuple[TaskSet, ...]:
        """The rows of every task, ready for batching."""
        architecture = welcome.architecture
        definitions = {task.name: task for task in welcome.tasks}

        def encoded(name: str, rows: Rows) -> TrainingRows:
            return encode(rows, definitions[name], reader, architecture.encoding, architecture.max_length)

        return tuple(
            TaskSet(
                definitions[name], encoded(name, self._data[name].train), encoded(name, self._data[name].validation)
            )
            for name in (task.name for task in self.tasks)
        )

    def _choose_parts(self, frozen: str = "") -> None:
        """Which parameters stay as received, and which scopes are therefore in no update."""
        assert self.synchronizer is not None
        trains, blocks = self._computing.trains, blocks_of(self.synchronizer.schemas)
        problem = capacity_problem(trains, blocks)
        if problem is not None:
            raise Refused(Reason.SCHEMA_MISMATCH, problem)
        wanted = trained_blocks(trains, blocks) - frozen_blocks(frozen, blocks)
        self._fixed = fixed_scopes(trains, blocks, frozen)
        names = [name for name, _ in self.synchronizer.model.named_parameters()]
        self._still = frozenset(name for name in names if block_of(name) not in wanted)

    def _choose_computing(self, run_id: str) -> None:
        assert self.synchronizer is not None
        wanted = self._computing
        self._whole_sets = self._sets
        self._choose_parts()
        self._precision = PrecisionChoice(wanted.precision, wanted.folder / run_id if wanted.folder else None)
        self._vocabulary = (
            compact_vocabulary(self.synchronizer.model, self._sets) if wanted.compact_vocabulary else None
        )
        if self._vocabulary is not None:
            self._sets = tuple(self._vocabulary.renumbered(item) for item in self._sets)
            log.info("trains %d of %d word embeddings", len(self._vocabulary), self._vocabulary.whole)

    def execute(self, order: Order, private: Mapping[str, Tensor], progress: Progress) -> Outcome:
        """Score the received model and the client's own, train both if the order says so, and pack the update.

        Args:
            order: what to do.
            private: committed private values and those of the own model, float32 CPU vectors by scope.
            progress: hears of the work done.

        Raises:
            TrainingDiverged: a loss, a score or a private value is not finite.
            DataError: the model gives outputs that are not finite.
            TrainingStopped: raised by `progress`.
            WireError: the order asks for an encoding that was not offered, or for a task that this client has not.
        """
        with self._only(order):
            self._choose_parts(order.training.frozen)
            assert self.synchronizer is not None
            self._fixed |= untrained_scopes(self.synchronizer.schemas, order.tasks, order.apart)
            return self._carry_out(order, private, progress)

    @contextmanager
    def _only(self, order: Order) -> Iterator[None]:
        """Hold the tasks alone that an order names, as a client does that has no others, in the order's units."""
        unknown = sorted(set(order.tasks) - {task.name for task in self.tasks})
        if unknown:
            raise WireError(f"order {order.order_id}: this client has no task '{unknown[0]}'")
        assert self.synchronizer is not None
        everything = self.synchronizer, self._sets, self._whole_sets
        if order.tasks and len(order.tasks) < len(self.tasks):
            self.synchronizer = self.synchronizer.part(order.tasks)
        units = dict(order.units)
        self._sets, self._whole_sets = (
            tuple(
                replace(item, units=units.get(item.task.name, OWN_UNITS))
                for item in sets
                if not order.tasks or item.task.name in order.tasks
            )
            for sets in everything[1:]
        )
        try:
            yield
        finally:
            self.synchronizer, self._sets, self._whole_sets = everything

    def _carry_out(self, order: Order, private: Mapping[str, Tensor], progress: Progress) -> Outcome:
        assert self.synchronizer is not None
        if order.encoding not in ENCODINGS:
            raise WireError(f"order {order.order_id}: this client does not know the encoding '{order.encoding}'")
        started = time.monotonic()
        synchronizer = self.synchronizer
        synchronizer.load_received()
        synchronizer.load_private({scope: private[scope] for scope in synchronizer.private_scopes})
        parts = 2 if order.kind is OrderKind.TRAIN and order.training.has_own_model else 1
        compact = self._vocabulary if not order.pulls else None  # a pull moves rows that no text of this client has
        with compact.in_place() if compact is not None else nullcontext():
            sets = self._sets if compact is not None else self._whole_sets
            scores, losses = self._compute(order, sets, share_of(progress, 0, 1, parts))
        alone = order.training.isolated  # no pull either: what the client would compute without the others
        sets, compact = (self._sets, self._vocabulary) if alone else (self._whole_sets, None)
        own = replace(self._work(order, sets, share_of(progress, parts - 1, 1, parts)), ties=())
        with frozen(synchronizer.model, self._still):
            personal, keeps = work_on_own(synchronizer, order.kind, own, private, self._precision, compact)
        scopes, payload = self._pack(order) if order.kind is OrderKind.TRAIN else ((), memoryview(b""))
        results = tuple(
            TaskResult(n, 0 if n in order.apart else len(s.train), losses.get(n), scores.get(n), personal.get(n))
            for s in self._sets
            for n in [s.task.name]
        )
        if order.kind is OrderKind.TRAIN:
            keeps |= synchronizer.private_values()
        _require_finite(results, keeps)
        digest = xxhash.xxh3_128_hexdigest(payload)
        header = UpdateHeader(order.order_id, order.encoding, scopes, digest, results, time.monotonic() - started)
        if keeps:  # values of tasks that this order is not about stay as they are
            keeps = {**private, **keeps}
        return Outcome(PendingUpdate(header, payload), keeps)

    def _work(self, order: Order, sets: tuple[TaskSet, ...], progress: Progress) -> Work:
        assert self.synchronizer is not None
        names = {
            scope: frozenset(entry.name for entry in self.synchronizer.schemas[scope].entries)
            for scope in self.synchronizer.received
        }
        seed = derive_seed(order.seed, order.round, self.client_id, "training")
        travelling = frozenset[str]().union(*names.values())
        body = frozenset[str]().union(*(found for scope, found in names.items() if not Scope.parse(scope).task))
        ties = tuple((self.synchronizer.anchor_values(pull), pull.mu) for pull in order.pulls)
        return Work(self.synchronizer.model, sets, order.training, seed, progress, travelling, body, ties)

    def _compute(
        self, order: Order, sets: tuple[TaskSet, ...], progress: Progress
    ) -> tuple[Scores, Mapping[str, float]]:
        """Scores of the loaded model by task; then the order's tasks train it, and the losses go along."""
        assert self.synchronizer is not None
        model, settings = self.synchronizer.model, order.training
        # Scoring is float32 in any case: it is a small part of the work, and scores of all clients stay comparable.
        scores = score(model, sets, settings.eval_batch_size)
        sets = tuple(item for item in sets if item.task.name not in order.apart)
        if order.kind is not OrderKind.TRAIN or not sets:
            return scores, {}
        work = self._work(order, sets, progress)
        with frozen(model, self._still), self._precision.in_use(model, sets, settings):
            procedure = self._procedure or procedure_of(settings.procedure)
            return scores, procedure(work)

    def _pack(self, order: Order) -> tuple[tuple[ScopePayload, ...], memoryview]:
        """What leaves this client: one encoded delta per scope of the order that it trains, none of them private.

        The memory of the update before is used again: it is settled or void when another order is carried out.
        """
        assert self.synchronizer is not None
        if order.encoding == DENSE_FLOAT32:
            return self._pack_plain(order, self.synchronizer)
        encoding, scopes, parts = ENCODINGS[order.encoding], [], []
        for wanted in order.scopes:
            if wanted.scope in self._fixed:
                continue
            schema = self.synchronizer.schemas[wanted.scope]
            encoded = encoding.encode(self.synchronizer.take_delta(wanted.scope).numpy(), schema)
            scopes.append(ScopePayload(wanted.scope, wanted.version, schema.digest, len(encoded)))
            parts.append(encoded)
        payload = self._room(sum(map(len, parts)))
        if parts:
            np.concatenate(parts, out=payload)
        return tuple(scopes), payload.data

    def _pack_plain(
        self, order: Order, synchronizer: ClientModelSynchronizer
    ) -> tuple[tuple[ScopePayload, ...], memoryview]:
        """The same for plain float32: the difference is written where it is sent from, in one pass."""
        scopes, at = [], 0
        trained = [wanted for wanted in order.scopes if wanted.scope not in self._fixed]
        payload = self._room(sum(synchronizer.schemas[wanted.scope].nbytes for wanted in trained))
        for wanted in trained:
            schema = synchronizer.schemas[wanted.scope]
            part = payload[at : at + schema.nbytes].view(np.float32)
            synchronizer.write_delta(wanted.scope, torch.from_numpy(part))
            scopes.append(ScopePayload(wanted.scope, wanted.version, schema.digest, schema.nbytes))
            at += schema.nbytes
        return tuple(scopes), payload.data

    def _room(self, nbytes: int) -> NDArray[np.uint8]:
        """Memory for a payload."""
        if len(self._payload) < nbytes:
            self._payload = np.empty(nbytes, dtype=np.uint8)
        return self._payload[:nbytes]


def _require_finite(results: Sequence[TaskResult], keeps: Mapping[str, Tensor]) -> None:
    """Check that nothing but numbers leaves or is kept; what travels as bytes the coordinator checks itself.

    Raises:
        TrainingDiverged: what is not a finite number.
    """
    for result in results:
        for what, scores in (("the received model", result.validation), ("its own model", result.personal)):
            sums = (
                () if scores is None else (scores.loss_sum, *scores.moments, *(value for _, value, _ in scores.means))
            )
            if not all(map(isfinite, sums)):
                raise TrainingDiverged(
                    f"task {result.task}: the loss or a score of {what} on validation rows is not a finite number; "
                    "lower training.learning_rate"
                )
        if result.train_loss is not None and not isfinite(result.train_loss):
            raise TrainingDiverged(f"task {result.task}: its training loss is {result.train_loss}")
    for scope, values in keeps.items():
        if not bool(torch.isfinite(values).all()):
            raise TrainingDiverged(f"scope {scope}: values that this client keeps are no longer finite numbers")
