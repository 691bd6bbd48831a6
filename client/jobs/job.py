"""One order carried out with torch: values in, values out. Knows no network and no disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
import xxhash
from torch import Tensor

from client.jobs.hidden_scores import OrderScores
from client.jobs.hiding import OrderRows, RowKeeper
from client.jobs.packing import pack
from client.jobs.precision import PrecisionChoice
from client.jobs.probe import losses_of
from client.jobs.solve import ALL_WORK, LinearProblems, SolvedHead, WorkShare, share_of_passes
from client.jobs.summing import layouts_of, summed, sums_of_order, trained_cells
from client.jobs.synchronizer import ClientModelSynchronizer
from client.training.compact import Examples
from client.training.evaluation import Scores, score
from client.training.loop import Progress, TaskSet, TrainingDiverged
from client.training.own_model import OwnModel
from client.training.own_models import scoring_of, training_of
from client.training.work import ClientState, Procedure, Work, frozen
from common.bodies import Body, Evaluate, Probe, Solve, Train, TrainingSettings
from common.capabilities import Capacity
from common.errors import ConfigError, Reason, Refused, WireError
from common.orders import Answer, Order, Reply, ScopePayload, TaskResult, Update, UpdateHeader
from common.parameters.capacity import blocks_of, capacity_problem, frozen_blocks, trained_blocks, untrained_scopes
from common.parameters.encodings import ENCODINGS
from common.parameters.plan import block_of
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, is_sum, isolated_scopes
from common.statistics import TaskStatistics


@dataclass(frozen=True)
class Job:
    """One order of one client, and all that its work depends on beside the model and what the client keeps."""

    order: Order
    examples: Examples
    capacity: Capacity
    """How much of the model this client holds and trains."""
    precision: PrecisionChoice
    progress: Progress
    """Hears of the work done."""
    procedure: Procedure | None = None
    """Takes the place of the one that the order names."""
    work: WorkShare = ALL_WORK
    """How much of a solver's passes it does."""
    rows: RowKeeper | None = None
    """Hides single rows where an order asks for that; None: nothing here can."""


@dataclass(frozen=True)
class JobResult:
    """A finished order: what to hand in, and what the client keeps once that counts."""

    answer: Answer
    state: ClientState
    results: tuple[TaskResult, ...] = ()
    """What the client itself may keep of them, whether or not the answer tells them."""


def run_job(job: Job, replica: ClientModelSynchronizer, state: ClientState) -> JobResult:
    """Do what an order asks for, such as to score the received model and the client's own and to train both.

    Args:
        job: what to do.
        replica: holds what the order needs; its parameters are anything afterwards.
        state: what was committed last.

    Raises:
        TrainingDiverged: a loss, a score or a kept value is not finite.
        DataError: the model gives outputs that are not finite.
        TrainingStopped: raised by the job's `progress`.
        WireError: the order asks for an encoding that was not offered, for a task that this client has not, or in
            units that do not fit a task.
        BudgetSpent: it would tell more of single rows than their budget allows.
        ConfigError: it asks to hide single rows in what is none of them.
    """
    started, order, held = time.monotonic(), job.order, job.examples.tasks
    unknown = sorted(set(order.tasks) - set(held))
    if unknown:
        raise WireError(f"order {order.order_id}: this client has no task '{unknown[0]}'")
    if order.tasks and len(order.tasks) < len(held):
        replica = replica.part(order.tasks)
    job = replace(job, examples=job.examples.of_order(order))
    if strange := [item.task.name for item in job.examples.whole if not item.task.takes(item.units)]:
        raise WireError(f"order {order.order_id}: its units of task '{strange[0]}' have not one weight per label")
    return CARRIED_OUT[type(order.body)](job, order.body, replica, state, started)


def require_capacity(capacity: Capacity, schemas: Mapping[str, ParameterSchema]) -> None:
    """Check that a client can train as much as it means to.

    Raises:
        Refused: a part of a scope alone would be trained.
    """
    problem = capacity_problem(capacity, blocks_of(schemas))
    if problem is not None:
        raise Refused(Reason.SCHEMA_MISMATCH, problem)


def _train(job: Job, body: Train, replica: ClientModelSynchronizer, state: ClientState, started: float) -> JobResult:
    order, settings, examples = job.order, body.settings, job.examples
    if body.sums is None and body.codec not in ENCODINGS:
        raise WireError(f"order {order.order_id}: this client does not know the encoding '{body.codec}'")
    replica.start_from(body.starts)
    _load(replica, state)
    scores, told = _scores(job, settings, replica), _hidden_scores(job, settings, replica)
    untrained = untrained_scopes(job.capacity, blocks_of(replica.schemas), settings.frozen)
    isolated = isolated_scopes((wanted.scope for wanted in order.scopes), order.tasks, body.isolated_tasks)
    left_out = isolated.union(body.fixed)
    handed_in = [w for w in order.scopes if w.scope not in left_out and Scope.parse(w.scope).base not in untrained]
    work = replace(
        _work(job, replica, settings, body.seed, state),
        proximal_terms=tuple((replica.anchor_values(term), term.mu) for term in body.proximal_terms),
        start_terms=tuple((replica.anchor_values(term), term.mu) for term in body.proximal_terms if term.to_start),
        isolated=frozenset(body.isolated_tasks),
        trained=frozenset(wanted.scope for wanted in handed_in if not Scope.parse(wanted.scope).is_derived),
        controls={share.scope: replica.mean_control(share) for share in body.controls if share.scope not in untrained},
    )
    hiding = _hiding(job, body, replica)
    if hiding is not None:
        work = replace(work, hidden=hiding.hidden)
    names = {entry.name for scope in body.fixed for entry in replica.schemas[scope].entries}
    with frozen(replica.model, _frozen_names(job.capacity, settings.frozen, replica) | names):
        trained = training_of(settings, job.procedure)(work, state)
    if hiding is not None:  # before anything of it is kept or leaves
        hiding.charge()
    results = tuple(
        TaskResult(
            n,
            0 if n in body.isolated_tasks else len(item.train),
            trained.losses.get(n),
            scores.get(n),
            trained.scores.get(n),
        )
        for item in examples.whole
        for n in [item.task.name]
    )
    results, kept = _told(results, settings, told), {**trained.state, **replica.private_values()}
    if body.sums is not None:
        summand = _summand(job, {wanted.scope for wanted in handed_in}, replica, results, trained.deltas)
        return _finished(summand, results, state, kept)
    scopes, payload = pack(replica, handed_in, body.codec, trained.deltas)
    update = _update(order, body.codec, scopes, payload, results, started)
    return _finished(update, results, state, kept)


def _summand(
    job: Job,
    trained: Collection[str],
    replica: ClientModelSynchronizer,
    results: tuple[TaskResult, ...],
    deltas: Mapping[str, Tensor],
) -> Update:
    """The answer to an order whose answers enter sums.

    Raises:
        TrainingDiverged: a result or a change is not a finite number.
        WireError: the order's cells are not those of its scopes, or numbers do not fit as it says.
    """
    order, sums = job.order, sums_of_order(job.order)
    assert sums is not None
    _require_finite(results, {})
    tasks = [item.task for item in job.examples.whole]
    wanted = trained_cells(sums, results)
    layouts = layouts_of(order, sums, replica.schemas, tasks)
    if strange := sorted(set(wanted) - set(trained)):
        raise WireError(f"order {order.order_id}: scope '{strange[0]}' enters a sum, and nothing trains it")
    changes = {
        scope: (deltas[scope] if scope in deltas else replica.take_delta(scope)).numpy() for scope in sorted(wanted)
    }
    return summed(order, layouts, results, changes, tasks, replica.payload)


def _scores(job: Job, settings: TrainingSettings, replica: ClientModelSynchronizer) -> Scores:
    """Scores of the received model by task; those that stay here are not even computed.

    Float32 in any case: it is a small part of the work, and scores of all clients stay comparable.
    """
    return {} if settings.keeps_scores else score(replica.model, job.examples.whole, settings.eval_batch_size)


def _hiding(job: Job, body: Train, replica: ClientModelSynchronizer) -> OrderRows | None:
    """How single rows are hidden, if the order asks for that.

    Raises:
        ConfigError: nothing here can hide them.
    """
    if body.settings.row_noise is None:
        return None
    if job.procedure is not None:
        raise _not_hidden("in a procedure of one's own")
    anchors = {
        f"{term.anchor.scope} {name}": value
        for term in body.proximal_terms
        for name, value in replica.anchor_values(term).items()
    }
    keeper = _keeper(job)
    return keeper.begin(job.order, body.settings, job.examples.whole, {**replica.vectors, **anchors})


def _hidden_scores(job: Job, settings: TrainingSettings, replica: ClientModelSynchronizer) -> OrderScores | None:
    """How single validation rows are hidden in scores of the model as it now is, if the order asks for that.

    Raises:
        ConfigError: nothing here can hide them, or scores enter sums.
    """
    noise = settings.row_noise
    if settings.keeps_scores or noise is None or noise.scores_noise is None:
        return None
    if isinstance(job.order.body, Train | Evaluate) and job.order.body.sums is not None:
        raise ConfigError("privacy.scores: noisy ones do not enter sums; write none, or leave secure_aggregation out")
    return _keeper(job).scores(job.order, noise, job.examples.whole, replica.vectors)


def _keeper(job: Job) -> RowKeeper:
    if job.rows is None:
        raise _not_hidden("where jobs run in Ray")
    return job.rows


def _not_hidden(where: str) -> ConfigError:
    return ConfigError(f"privacy.noise: rows are not hidden {where}; leave that out, or write coordinator")


def _solve(job: Job, body: Solve, replica: ClientModelSynchronizer, state: ClientState, started: float) -> JobResult:
    order, settings = job.order, body.settings
    _load(replica, state)
    scores = score(replica.model, job.examples.whole, settings.eval_batch_size)
    problems = {said.task: said for said in body.problems}
    work, stop = job.work.of(body.seed), job.work.clock()
    solved: dict[str, SolvedHead] = {}
    for item in job.examples.whole:
        name, rows = item.task.name, len(item.train)
        if name in problems:
            visits = share_of_passes(settings, rows, work)
            found = LinearProblems.of(problems[name], settings, item, replica, state)
            solved[name] = found.solved(order.round, body.seed, visits, stop)
        job.progress((len(solved) + 1) / (len(job.examples.whole) + 1))
    handed_in = [wanted for wanted in order.scopes if is_sum(wanted.scope)]
    scopes, payload = pack(replica, handed_in, body.codec, {found.support: found.change for found in solved.values()})
    results = tuple(_solved_result(item, scores.get(item.task.name), solved) for item in job.examples.whole)
    update = _update(order, body.codec, scopes, payload, results, started)
    fresh = {name: value for found in solved.values() for name, value in found.state.items()}
    return _finished(update, results, state, {**fresh, **replica.private_values()})


def _solved_result(item: TaskSet, scores: TaskStatistics | None, solved: Mapping[str, SolvedHead]) -> TaskResult:
    """The loss of a solved head is that of the received weights, in its mean over rows."""
    found, rows = solved.get(item.task.name), len(item.train)
    if found is None:
        return TaskResult(item.task.name, 0, None, scores)
    return TaskResult(item.task.name, rows, found.sums.loss / rows, scores, dual=found.sums)


def _update(
    order: Order,
    codec: str,
    scopes: tuple[ScopePayload, ...],
    payload: memoryview,
    results: tuple[TaskResult, ...],
    started: float,
) -> Update:
    """The answer to an order, with the digest of its payload."""
    digest = xxhash.xxh3_128_hexdigest(payload)
    return Update(UpdateHeader(order.order_id, codec, scopes, digest, results, time.monotonic() - started), payload)


def _evaluate(
    job: Job, body: Evaluate, replica: ClientModelSynchronizer, state: ClientState, started: float
) -> JobResult:
    _load(replica, state)
    settings = body.settings
    scores, told = _scores(job, settings, replica), _hidden_scores(job, settings, replica)
    with frozen(replica.model, _frozen_names(job.capacity, settings.frozen, replica)):
        own = scoring_of(settings)(_work(job, replica, settings, body.seed, state), state)
    problems = {said.task: said for said in body.problems}
    results = tuple(
        TaskResult(
            name,
            0,
            None,
            scores.get(name),
            own.scores.get(name),
            LinearProblems.of(problems[name], settings, item, replica, state).measured() if name in problems else None,
        )
        for item in job.examples.whole
        for name in [item.task.name]
    )
    results = _told(results, settings, told)
    if body.sums is not None:
        return _finished(_summand(job, (), replica, results, {}), results, state, own.state)
    reply = Reply(job.order.order_id, results, time.monotonic() - started)
    return _finished(reply, results, state, own.state)


def _probe(job: Job, body: Probe, replica: ClientModelSynchronizer, state: ClientState, started: float) -> JobResult:
    _load(replica, state)
    losses = losses_of(job.examples.whole, body, replica, job.progress)
    return JobResult(Reply(job.order.order_id, (), time.monotonic() - started, losses), {})


CARRIED_OUT: Mapping[type[Body], Callable[[Job, Any, ClientModelSynchronizer, ClientState, float], JobResult]] = {
    Train: _train,
    Evaluate: _evaluate,
    Solve: _solve,
    Probe: _probe,
}
"""What each body asks of a client: a function of the job, its body, the replica, what is kept, and when it began."""


def _load(replica: ClientModelSynchronizer, state: ClientState) -> None:
    """Put the received values and the kept private ones into the model."""
    replica.load_received()
    replica.load_private({scope: state[scope] for scope in replica.private_scopes})


def _work(
    job: Job, replica: ClientModelSynchronizer, settings: TrainingSettings, seed: int, state: ClientState
) -> Work:
    private = {scope: state[scope] for scope in replica.private_scopes}
    names = {scope: frozenset(entry.name for entry in replica.schemas[scope].entries) for scope in replica.received}
    travelling = frozenset[str]().union(*names.values())
    shared = frozenset[str]().union(*(found for scope, found in names.items() if not Scope.parse(scope).task))
    return Work(
        replica.model,
        job.examples,
        settings,
        seed,
        job.progress,
        travelling,
        shared,
        OwnModel(replica.schemas, replica.vectors, replica.received, private),
        in_precision=job.precision.in_use,
    )


def _frozen_names(capacity: Capacity, frozen_layers: str, replica: ClientModelSynchronizer) -> frozenset[str]:
    """The parameters that stay as received."""
    blocks = blocks_of(replica.schemas)
    trained = trained_blocks(capacity, blocks) - frozen_blocks(frozen_layers, blocks)
    return frozenset(name for name, _ in replica.model.named_parameters() if block_of(name) not in trained)


def _told(
    results: tuple[TaskResult, ...], settings: TrainingSettings, hidden: OrderScores | None
) -> tuple[TaskResult, ...]:
    """What the coordinator hears of results: of scores that stay here, not even that there are some."""
    if hidden is None and not settings.keeps_scores:
        return results
    exact = {found.task: found.validation for found in results if found.validation is not None}
    scores = hidden.told(exact) if hidden is not None else {}
    return tuple(TaskResult(found.task, found.examples, None, scores.get(found.task)) for found in results)


def _finished(answer: Answer, results: Sequence[TaskResult], before: ClientState, fresh: ClientState) -> JobResult:
    """An answer with what is kept beside it: values of tasks that the order is not about stay as they are."""
    _require_finite(results, fresh)
    return JobResult(answer, {**before, **fresh} if fresh else {}, tuple(results))


def _metric_sums(scores: TaskStatistics) -> list[float]:
    return [*(value for _, value, _ in scores.means), *(value for _, values in scores.sums for value in values)]


def _require_finite(results: Sequence[TaskResult], kept: ClientState) -> None:
    """Check that nothing but numbers leaves or is kept; what travels as bytes the coordinator checks itself.

    Raises:
        TrainingDiverged: what is not a finite number.
    """
    for result in results:
        for what, scores in (("the received model", result.validation), ("its own model", result.personal)):
            sums = () if scores is None else (scores.loss_sum, *scores.moments, *_metric_sums(scores))
            if not all(map(isfinite, sums)):
                raise TrainingDiverged(
                    f"task {result.task}: the loss or a score of {what} on validation rows is not a finite number; "
                    "lower training.learning_rate"
                )
        if result.train_loss is not None and not isfinite(result.train_loss):
            raise TrainingDiverged(f"task {result.task}: its training loss is {result.train_loss}")
    for scope, values in kept.items():
        if not bool(torch.isfinite(values).all()):
            raise TrainingDiverged(f"scope {scope}: values that this client keeps are no longer finite numbers")
