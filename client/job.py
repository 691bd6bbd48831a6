"""One order carried out with torch: values in, values out. Knows no network and no disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import isfinite

import torch
import xxhash
from torch import Tensor

from client.model import ClientModelSynchronizer
from client.packing import pack
from client.personal import Scores, score, work_on_own
from client.precision import PrecisionChoice
from client.state.store import PendingUpdate
from client.training.compact import Examples
from client.training.loop import Progress, TaskSet, TrainingDiverged
from client.training.procedures import Procedure, Work, frozen, procedure_of, share_of
from common.errors import Reason, Refused, WireError
from common.orders import Order, OrderKind, ScopePayload, TaskResult, UpdateHeader
from common.parameters.capacity import blocks_of, capacity_problem, fixed_scopes, frozen_blocks, trained_blocks
from common.parameters.encodings import ENCODINGS
from common.parameters.plan import block_of
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, untrained_scopes
from common.seeds import derive_seed

ClientState = Mapping[str, Tensor]
"""What a client keeps between orders: private values and those of its own model, float32 CPU vectors by scope."""


@dataclass(frozen=True)
class Job:
    """One order of one client, and all that its work depends on beside the model and what the client keeps."""

    order: Order
    client_id: str
    examples: Examples
    trains: str
    """How much of the model this client trains: all, head or top_<n>."""
    precision: PrecisionChoice
    progress: Progress
    """Hears of the work done."""
    procedure: Procedure | None = None
    """Takes the place of the one that the order names."""


@dataclass(frozen=True)
class JobResult:
    """A finished order: the update to hand in, and what the client keeps once that counts."""

    update: PendingUpdate
    state: ClientState


def run_job(job: Job, replica: ClientModelSynchronizer, state: ClientState) -> JobResult:
    """Score the received model and the client's own, train both if the order says so, and pack the update.

    Args:
        job: what to do.
        replica: holds what the order needs; its parameters are anything afterwards.
        state: what was committed last.

    Raises:
        TrainingDiverged: a loss, a score or a private value is not finite.
        DataError: the model gives outputs that are not finite.
        TrainingStopped: raised by the job's `progress`.
        WireError: the order asks for an encoding that was not offered, or for a task that this client has not.
    """
    started, order, held = time.monotonic(), job.order, job.examples.tasks
    unknown = sorted(set(order.tasks) - set(held))
    if unknown:
        raise WireError(f"order {order.order_id}: this client has no task '{unknown[0]}'")
    if order.encoding not in ENCODINGS:
        raise WireError(f"order {order.order_id}: this client does not know the encoding '{order.encoding}'")
    if order.tasks and len(order.tasks) < len(held):
        replica = replica.part(order.tasks)
    job = replace(job, examples=job.examples.of_order(order))
    replica.load_received()
    replica.load_private({scope: state[scope] for scope in replica.private_scopes})
    parts = 2 if order.kind is OrderKind.TRAIN and order.training.has_own_model else 1
    frozen_names = _frozen_names(job, replica)
    scores, losses = _work_on_received(job, replica, frozen_names, share_of(job.progress, 0, 1, parts))
    personal, keeps = _work_on_own(job, replica, frozen_names, share_of(job.progress, parts - 1, 1, parts), state)
    scopes, payload = tuple[ScopePayload, ...](), memoryview(b"")
    if order.kind is OrderKind.TRAIN:
        scopes, payload = pack(replica, order, _untrained_scopes(job, replica))
        keeps |= replica.private_values()
    results = tuple(
        TaskResult(n, 0 if n in order.apart else len(s.train), losses.get(n), scores.get(n), personal.get(n))
        for s in job.examples.whole
        for n in [s.task.name]
    )
    _require_finite(results, keeps)
    digest = xxhash.xxh3_128_hexdigest(payload)
    header = UpdateHeader(order.order_id, order.encoding, scopes, digest, results, time.monotonic() - started)
    if keeps:  # values of tasks that this order is not about stay as they are
        keeps = {**state, **keeps}
    return JobResult(PendingUpdate(header, payload), keeps)


def require_capacity(trains: str, schemas: Mapping[str, ParameterSchema]) -> None:
    """Check that a client can train as much as it means to.

    Raises:
        Refused: a part of a scope alone would be trained.
    """
    problem = capacity_problem(trains, blocks_of(schemas))
    if problem is not None:
        raise Refused(Reason.SCHEMA_MISMATCH, problem)


def _frozen_names(job: Job, replica: ClientModelSynchronizer) -> frozenset[str]:
    """The parameters that stay as received."""
    blocks = blocks_of(replica.schemas)
    trained = trained_blocks(job.trains, blocks) - frozen_blocks(job.order.training.frozen, blocks)
    return frozenset(name for name, _ in replica.model.named_parameters() if block_of(name) not in trained)


def _untrained_scopes(job: Job, replica: ClientModelSynchronizer) -> frozenset[str]:
    """The scopes of the order that are therefore absent from the update, and those that belong to no trained task."""
    order = job.order
    frozen_scopes = fixed_scopes(job.trains, blocks_of(replica.schemas), order.training.frozen)
    return frozen_scopes | untrained_scopes(replica.schemas, order.tasks, order.apart)


def _work_on_received(
    job: Job, replica: ClientModelSynchronizer, frozen_names: frozenset[str], progress: Progress
) -> tuple[Scores, Mapping[str, float]]:
    """Scores of the loaded model by task; then the order's tasks train it, and the losses go along."""
    model, order, settings = replica.model, job.order, job.order.training
    # An anchor moves rows that no text of this client has.
    compact = job.examples.vocabulary if not order.pulls else None
    with compact.in_place() if compact is not None else nullcontext():
        sets = job.examples.whole if compact is None else job.examples.compact
        # Scoring is float32 in any case: it is a small part of the work, and scores of all clients stay comparable.
        scores = score(model, sets, settings.eval_batch_size)
        sets = tuple(item for item in sets if item.task.name not in order.apart)
        if order.kind is not OrderKind.TRAIN or not sets:
            return scores, {}
        work = _work(job, replica, sets, progress)
        with frozen(model, frozen_names), job.precision.in_use(model, sets, settings):
            return scores, (job.procedure or procedure_of(settings.procedure))(work)


def _work_on_own(
    job: Job, replica: ClientModelSynchronizer, frozen_names: frozenset[str], progress: Progress, state: ClientState
) -> tuple[Scores, dict[str, Tensor]]:
    """The same for the client's own model, if its procedure has one: scores, and the values to keep."""
    alone = job.order.training.isolated  # no anchor either: what the client would compute without the others
    sets, compact = (job.examples.compact, job.examples.vocabulary) if alone else (job.examples.whole, None)
    work = replace(_work(job, replica, sets, progress), ties=())
    with frozen(replica.model, frozen_names):
        return work_on_own(replica, job.order.kind, work, state, job.precision, compact)


def _work(job: Job, replica: ClientModelSynchronizer, sets: tuple[TaskSet, ...], progress: Progress) -> Work:
    order = job.order
    names = {scope: frozenset(entry.name for entry in replica.schemas[scope].entries) for scope in replica.received}
    seed = derive_seed(order.seed, order.round, job.client_id, "training")
    travelling = frozenset[str]().union(*names.values())
    body = frozenset[str]().union(*(found for scope, found in names.items() if not Scope.parse(scope).task))
    ties = tuple((replica.anchor_values(pull), pull.mu) for pull in order.pulls)
    return Work(replica.model, sets, order.training, seed, progress, travelling, body, ties)


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
