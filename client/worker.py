"""Carries out orders with torch. Knows no network: values in, values out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from client.data.encoding import Reader, encode
from client.data.sources import TaskData
from client.model import ClientModelSynchronizer
from client.precision import Precision, PrecisionChoice
from client.state.store import PendingUpdate
from client.training.compact import CompactVocabulary, compact_vocabulary
from client.training.evaluation import evaluate
from client.training.loop import Procedure, Progress, TaskSet, train
from common.errors import WireError
from common.metrics import TaskStatistics
from common.models.pretrained import unpack_tokenizer
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
from common.parameters.encodings import ENCODINGS
from common.seeds import derive_seed
from common.tasks import TaskDefinition

log = logging.getLogger("fedmtl.client")


@dataclass(frozen=True)
class Outcome:
    """A finished order: the update to hand in and the private values that go with it."""

    update: PendingUpdate
    private: dict[str, Tensor]


@dataclass(frozen=True)
class Computing:
    """How a client trains. `folder` keeps an automatic choice of precision, one folder per run; None: nowhere."""

    compact_vocabulary: bool = True
    precision: Precision = "float32"
    folder: Path | None = None


class Worker:
    """One client's tasks, data and device; the model follows when the coordinator has described it."""

    def __init__(
        self,
        client_id: str,
        tasks: Sequence[TaskDefinition],
        data: Mapping[str, TaskData],
        device: torch.device,
        capabilities: tuple[str, ...] = (),
        procedure: Procedure = train,
        computing: Computing | None = None,
    ) -> None:
        self.client_id = client_id
        self.tasks = tuple(tasks)
        self.examples = {task.name: len(data[task.name].train) for task in tasks}
        self.capabilities = (*capabilities, *map(offer_of, ENCODINGS))
        self._data = data
        self._device = device
        self._procedure = procedure
        self._payload = np.empty(0, dtype=np.uint8)
        self._computing = computing or Computing()
        self._vocabulary: CompactVocabulary | None = None
        self._precision = PrecisionChoice("float32", None)
        self._sets: tuple[TaskSet, ...] = ()
        self.synchronizer: ClientModelSynchronizer | None = None

    def prepare(self, welcome: Welcome, tokenizer: bytes) -> ClientModelSynchronizer:
        """Build the model and tokenise the data, once per run and architecture.

        Raises:
            Refused: the layouts of the two sides differ.
            WireError: the tokenizer cannot be read.
        """
        names = tuple(task.name for task in self.tasks)
        self.synchronizer = ClientModelSynchronizer(welcome, names, self._device)
        self._sets = self._encoded(welcome, unpack_tokenizer(tokenizer) if tokenizer else None)
        self._choose_computing(welcome.session.run_id)
        return self.synchronizer

    def _encoded(self, welcome: Welcome, reader: Reader | None) -> tuple[TaskSet, ...]:
        """The rows of every task, ready for batching."""
        architecture = welcome.architecture
        definitions = {task.name: task for task in welcome.tasks}
        return tuple(
            TaskSet(
                definitions[name],
                *(
                    encode(rows, definitions[name], reader, architecture.encoding, architecture.max_length)
                    for rows in (self._data[name].train, self._data[name].validation)
                ),
            )
            for name in (task.name for task in self.tasks)
        )

    def _choose_computing(self, run_id: str) -> None:
        assert self.synchronizer is not None
        wanted = self._computing
        self._precision = PrecisionChoice(wanted.precision, wanted.folder / run_id if wanted.folder else None)
        self._vocabulary = (
            compact_vocabulary(self.synchronizer.model, self._sets) if wanted.compact_vocabulary else None
        )
        if self._vocabulary is not None:
            self._sets = tuple(self._vocabulary.renumbered(item) for item in self._sets)
            log.info("trains %d of %d word embeddings", len(self._vocabulary), self._vocabulary.whole)

    def execute(self, order: Order, private: Mapping[str, Tensor], progress: Progress) -> Outcome:
        """Score the received model, train it if the order says so, and pack the update.

        Raises:
            TrainingDiverged: the loss is not finite.
            TrainingStopped: raised by `progress`.
            WireError: the order asks for an encoding that was not offered.
        """
        assert self.synchronizer is not None
        if order.encoding not in ENCODINGS:
            raise WireError(f"order {order.order_id}: this client does not know the encoding '{order.encoding}'")
        started = time.monotonic()
        synchronizer = self.synchronizer
        synchronizer.load_received()
        synchronizer.load_private(dict(private))
        with self._vocabulary.in_place() if self._vocabulary is not None else nullcontext():
            scores, losses = self._compute(order, progress)
        scopes, payload = self._pack(order) if order.kind is OrderKind.TRAIN else ((), memoryview(b""))
        results = tuple(
            TaskResult(s.task.name, len(s.train), losses.get(s.task.name), scores.get(s.task.name)) for s in self._sets
        )
        digest = xxhash.xxh3_128_hexdigest(payload)
        header = UpdateHeader(order.order_id, order.encoding, scopes, digest, results, time.monotonic() - started)
        keeps = synchronizer.private_values() if order.kind is OrderKind.TRAIN else {}
        return Outcome(PendingUpdate(header, payload), keeps)

    def _compute(self, order: Order, progress: Progress) -> tuple[dict[str, TaskStatistics], Mapping[str, float]]:
        """Scores of the loaded model by task; then it is trained, if the order says so, and the losses go along."""
        assert self.synchronizer is not None
        model, settings = self.synchronizer.model, order.training
        # Scoring is float32 in any case: it is a small part of the work, and scores of all clients stay comparable.
        scores = {
            s.task.name: evaluate(model, s.task, s.validation, settings.eval_batch_size)
            for s in self._sets
            if len(s.validation)
        }
        if order.kind is not OrderKind.TRAIN:
            return scores, {}
        seed = derive_seed(order.seed, order.round, self.client_id, "training")
        model.precision = self._precision.settle(model, self._sets, settings)
        try:
            return scores, self._procedure(model, self._sets, settings, seed, progress)
        finally:
            model.precision = torch.float32

    def _pack(self, order: Order) -> tuple[tuple[ScopePayload, ...], memoryview]:
        """What leaves this client: one encoded delta per scope of the order, none of them private.

        The memory of the update before is used again: it is settled or void when another order is carried out.
        """
        assert self.synchronizer is not None
        if order.encoding == DENSE_FLOAT32:
            return self._pack_plain(order, self.synchronizer)
        encoding, scopes, parts = ENCODINGS[order.encoding], [], []
        for wanted in order.scopes:
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
        payload = self._room(sum(synchronizer.schemas[wanted.scope].nbytes for wanted in order.scopes))
        for wanted in order.scopes:
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
