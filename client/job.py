"""One order carried out with torch: values in, values out. Knows no network and no disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import isfinite
from typing import assert_never

import torch
import xxhash
from torch import Tensor

from client.model import ClientModelSynchronizer
from client.packing import pack
from client.personal import Scores, fine_tune_own, score, score_own, train_own
from client.precision import PrecisionChoice
from client.training.compact import Examples
from client.training.loop import Progress, TaskSet, TrainingDiverged
from client.training.procedures import PROCEDURES, Procedure, Work, frozen, share_of
from common.errors import Reason, Refused, WireError
from common.orders import (
    Answer,
    Evaluate,
    Order,
    Reply,
    TaskResult,
    Train,
    TrainingSettings,
    Update,
    UpdateHeader,
)
from common.parameters.capacity import blocks_of, capacity_problem, fixed_scopes, frozen_blocks, trained_blocks
from common.parameters.encodings import ENCODINGS
from common.parameters.plan import block_of
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, untrained_scopes

ClientState = Mapping[str, Tensor]
"""What a client keeps between orders: private values and those of its own model, float32 CPU vectors by scope."""


@dataclass(frozen=True)
class Job:
    """One order of one client, and all that its work depends on beside the model and what the client keeps."""

    order: Order
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
    """A finished order: what to hand in, and what the client keeps once that counts."""

    answer: Answer
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
    order, held = job.order, job.examples.tasks
    unknown = sorted(set(order.tasks) - set(held))
    if unknown:
        raise WireError(f"order {order.order_id}: this client has no task '{unknown[0]}'")
    if order.tasks and len(order.tasks) < len(held):
        replica = replica.part(order.tasks)
    job = replace(job, examples=job.examples.of_order(order))
    replica.load_received()
    replica.load_private({scope: state[scope] for scope in replica.private_scopes})
    match order.body:
        case Train():
            answer, results, keeps = _train(job, order.body, replica, state)
        case Evaluate():
            answer, results, keeps = _evaluate(job, order.body, replica, state)
        case _:
            assert_never(order.body)
    _require_finite(results, keeps)
    if keeps:  # values of tasks that this order is not about stay as they are
        keeps = {**state, **keeps}
    return JobResult(answer, keeps)


Done = tuple[Answer, tuple[TaskResult, ...], dict[str, Tensor]]
"""An answer, its results and the values to keep."""


def _train(job: Job, body: Train, replica: ClientModelSynchronizer, state: ClientState) -> Done:
    started, order, settings = time.monotonic(), job.order, body.settings
    if body.codec not in ENCODINGS:
        raise WireError(f"order {order.order_id}: this client does not know the encoding '{body.codec}'")
    parts = 2 if settings.procedure.personal else 1
    frozen_names = _frozen_names(job, replica, settings.frozen)
    scores, losses = _train_received(job, body, replica, frozen_names, share_of(job.progress, 0, 1, parts))
    personal, keeps = Scores(), dict[str, Tensor]()
    if settings.procedure.personal:
        alone = settings.procedure.isolated  # no anchor either: what the client would compute without the others
        sets, compact = (job.examples.compact, job.examples.vocabulary) if alone else (job.examples.whole, None)
        work = _work(replica, settings, body.seed, sets, share_of(job.progress, 1, 1, parts))
        with frozen(replica.model, frozen_names):
            personal, keeps = train_own(replica, work, state, job.precision, compact)
    untrained = fixed_scopes(job.trains, blocks_of(replica.schemas), settings.frozen)
    untrained |= untrained_scopes(replica.schemas, order.tasks, body.isolated_tasks)
    trained = [wanted for wanted in order.scopes if wanted.scope not in untrained]
    scopes, payload = pack(replica, trained, body.codec)
    results = tuple(
        TaskResult(
            name,
            0 if name in body.isolated_tasks else len(item.train),
            losses.get(name),
            scores.get(name),
            personal.get(name),
        )
        for item in job.examples.whole
        for name in [item.task.name]
    )
    digest = xxhash.xxh3_128_hexdigest(payload)
    header = UpdateHeader(order.order_id, body.codec, scopes, digest, results, time.monotonic() - started)
    return Update(header, payload), results, keeps | replica.private_values()


def _evaluate(job: Job, body: Evaluate, replica: ClientModelSynchronizer, state: ClientState) -> Done:
    started, examples = time.monotonic(), job.examples
    with examples.vocabulary.in_place() if examples.vocabulary is not None else nullcontext():
        sets = examples.whole if examples.vocabulary is None else examples.compact
        scores = score(replica.model, sets, body.batch_size)
    personal, keeps = Scores(), dict[str, Tensor]()
    if body.own_model:
        personal = score_own(replica, examples.whole, body.batch_size, state)
    elif (tuning := body.fine_tuning) is not None:
        work = _work(replica, tuning.settings, tuning.seed, examples.whole, job.progress)
        with frozen(replica.model, _frozen_names(job, replica)):
            personal, keeps = fine_tune_own(replica, work, state, job.precision)
    results = tuple(TaskResult(name, 0, None, scores.get(name), personal.get(name)) for name in examples.tasks)
    return Reply(job.order.order_id, results, time.monotonic() - started), results, keeps


def require_capacity(trains: str, schemas: Mapping[str, ParameterSchema]) -> None:
    """Check that a client can train as much as it means to.

    Raises:
        Refused: a part of a scope alone would be trained.
    """
    problem = capacity_problem(trains, blocks_of(schemas))
    if problem is not None:
        raise Refused(Reason.SCHEMA_MISMATCH, problem)


def _frozen_names(job: Job, replica: ClientModelSynchronizer, frozen_blocks_of_round: str = "") -> frozenset[str]:
    """The parameters that stay as received."""
    blocks = blocks_of(replica.schemas)
    trained = trained_blocks(job.trains, blocks) - frozen_blocks(frozen_blocks_of_round, blocks)
    return frozenset(name for name, _ in replica.model.named_parameters() if block_of(name) not in trained)


def _train_received(
    job: Job, body: Train, replica: ClientModelSynchronizer, frozen_names: frozenset[str], progress: Progress
) -> tuple[Scores, Mapping[str, float]]:
    """Scores of the loaded model by task; then the order's tasks train it, and the losses go along."""
    model, settings = replica.model, body.settings
    # An anchor moves rows that no text of this client has.
    compact = job.examples.vocabulary if not body.proximal_terms else None
    with compact.in_place() if compact is not None else nullcontext():
        sets = job.examples.whole if compact is None else job.examples.compact
        # Scoring is float32 in any case: it is a small part of the work, and scores of all clients stay comparable.
        scores = score(model, sets, settings.eval_batch_size)
        sets = tuple(item for item in sets if item.task.name not in body.isolated_tasks)
        if not sets:
            return scores, {}
        ties = tuple((replica.anchor_values(term), term.mu) for term in body.proximal_terms)
        work = replace(_work(replica, settings, body.seed, sets, progress), ties=ties)
        with frozen(model, frozen_names), job.precision.in_use(model, sets, settings):
            return scores, (job.procedure or PROCEDURES[settings.procedure.name])(work)


def _work(
    replica: ClientModelSynchronizer,
    settings: TrainingSettings,
    seed: int,
    sets: tuple[TaskSet, ...],
    progress: Progress,
) -> Work:
    names = {scope: frozenset(entry.name for entry in replica.schemas[scope].entries) for scope in replica.received}
    travelling = frozenset[str]().union(*names.values())
    body = frozenset[str]().union(*(found for scope, found in names.items() if not Scope.parse(scope).task))
    return Work(replica.model, sets, settings, seed, progress, travelling, body)


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
