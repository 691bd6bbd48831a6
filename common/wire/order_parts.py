"""Orders as messages: each a pair of pure functions, value to message and message to value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from google.protobuf.message import Message

from common.bodies import (
    Body,
    ControlShare,
    DualProblem,
    Evaluate,
    NoisePromise,
    ProximalTerm,
    RowNoise,
    Solve,
    Train,
    TrainingSettings,
)
from common.errors import WireError
from common.methods.balances import BALANCES
from common.methods.local_optimizers import LOCAL_OPTIMIZERS
from common.methods.own_models import OWN_MODELS
from common.methods.procedures import PROCEDURES, ProximalStep
from common.methods.relation import LARGEST_MU
from common.orders import Order, ScopeValues
from common.parameters.capacity import is_frozen
from common.parameters.scope import Scope, ScopeKind, is_private, is_sum
from common.ports import INLINE_BYTES
from common.standardising import InputScale
from common.targets import TargetUnits
from common.wire import checks, limits
from common.wire.choices import pack_choice, unpack_choice
from common.wire.extensions import EXTENSIONS, extension, name_of
from common.wire.gen import federation_pb2 as pb
from common.wire.parts import pack_scale, pack_units, unpack_scale, unpack_units
from common.wire.scope_parts import pack_scope, unpack_candidate, unpack_scope
from common.wire.sum_parts import pack_sum_order, unpack_sum_order


def pack_order(value: Order) -> pb.Order:
    """Value to message."""
    message = pb.Order(
        order_id=value.order_id,
        round=value.round,
        version=value.version,
        scopes=[pack_scope(scope) for scope in value.scopes],
        seconds_left=value.seconds_left,
        tasks=value.tasks,
        units=[pack_units(task, units) for task, units in value.units],
        inline=[pb.ScopeValues(scope=item.scope, data=item.data) for item in value.inline],
        scales=[pack_scale(task, scale) for task, scale in value.scales],
    )
    if row := next((row for row in _BODIES if row.body is type(value.body)), None):
        getattr(message, row.field).CopyFrom(row.pack(value.body))
    else:
        name = name_of(value.body)
        message.extension.name, message.extension.data = name, EXTENSIONS[name].body_codec.encode(value.body)
    return message


def unpack_order(message: pb.Order) -> Order:
    """Message to value."""
    scopes = checks.items(message.scopes, "scopes", limits.MAX_SCOPES)
    names = checks.distinct((scope.scope for scope in scopes), "scopes")
    tasks = checks.items(message.tasks, "tasks", limits.MAX_TASKS)
    order = Order(
        checks.identifier(message.order_id, "order_id"),
        checks.count(message.round, "round"),
        checks.count(message.version, "version"),
        tuple(unpack_scope(scope) for scope in scopes),
        checks.amount(message.seconds_left, "seconds_left", limits.MAX_SECONDS),
        _unpack_body(message, names),
        checks.distinct((checks.task_name(task) for task in tasks), "tasks"),
        _unpack_units(message),
        scales=_unpack_scales(message),
    )
    needed = {scope.scope for scope in order.needed}
    held = {term.scope for term in order.body.proximal_terms} if isinstance(order.body, Train) else set()
    known = held.union(names)
    for foreign in sorted(found for found in needed if Scope.parse(found).base not in known and found not in names):
        raise WireError(f"body: scope {foreign[:80]!r} is for none of the order's")
    return replace(order, inline=_unpack_inline(message, needed))


def _unpack_body(message: pb.Order, scopes: Collection[str]) -> Body:
    field = message.WhichOneof("body")
    if field == "extension":
        found: Body = extension(message.extension.name).body_codec.decode(message.extension.data)
        return found
    row = next((row for row in _BODIES if row.field == field), None)
    if row is None:
        raise WireError("body: missing, or none that this version knows")
    return row.unpack(message, scopes)


def _pack_train(value: Train) -> pb.Train:
    return pb.Train(
        settings=_pack_training(value.settings),
        seed=value.seed,
        codec=value.codec,
        proximal_terms=[
            pb.ProximalTerm(scope=term.scope, mu=term.mu, version=term.version) for term in value.proximal_terms
        ],
        isolated_tasks=value.isolated_tasks,
        controls=[pb.ControlShare(scope=share.scope, clients=share.clients) for share in value.controls],
        starts=map(pack_scope, value.starts),
        fixed=value.fixed,
        noise=None if value.noise is None else pb.NoisePromise(**vars(value.noise)),
        sums=pack_sum_order(value.sums),
    )


def _unpack_train(order: pb.Order, scopes: Collection[str]) -> Train:
    message = order.train
    checks.require(message, "settings")
    settings = _unpack_training(message.settings)
    if settings.procedure.is_dual:
        raise WireError(f"procedure: {settings.procedure.name} trains nothing, it solves")
    return Train(
        settings,
        _unpack_seed(message.seed),
        checks.identifier(message.codec, "codec"),
        _unpack_proximal_terms(message, scopes),
        _unpack_isolated_tasks(order),
        _unpack_controls(message, scopes, settings),
        unpack_candidate(message.starts, "starts"),
        _unpack_fixed(message, scopes),
        _unpack_noise(message.noise) if message.HasField("noise") else None,
        unpack_sum_order(message.sums, scopes, order.tasks) if message.HasField("sums") else None,
    )


def _pack_solve(value: Solve) -> pb.Solve:
    problems = map(_pack_problem, value.problems)
    return pb.Solve(settings=_pack_training(value.settings), seed=value.seed, codec=value.codec, problems=problems)


def _unpack_solve(order: pb.Order, scopes: Collection[str]) -> Solve:
    message = order.solve
    checks.require(message, "settings")
    settings = _unpack_training(message.settings)
    if not settings.procedure.is_dual:
        raise WireError(f"procedure: {settings.procedure.name} solves no dual")
    problems = _unpack_problems(message.problems, scopes, order.tasks)
    supports = {Scope.parse(problem.scope).support for problem in problems}
    if supports != {scope for scope in scopes if is_sum(scope)}:
        raise WireError(f"problems: they do not fit scopes {sorted(scopes)}")
    return Solve(settings, _unpack_seed(message.seed), problems, checks.identifier(message.codec, "codec"))


def _pack_problem(value: DualProblem) -> pb.DualProblem:
    return pb.DualProblem(**vars(value))


def _unpack_problems(
    messages: Sequence[pb.DualProblem], scopes: Collection[str], tasks: Collection[str]
) -> tuple[DualProblem, ...]:
    checks.distinct((problem.task for problem in messages), "problems")
    for problem in messages:
        if problem.scope not in scopes or problem.task not in tasks:
            raise WireError(f"problems: task {problem.task[:80]!r} or its scope is not the order's")
    return tuple(
        DualProblem(
            problem.task,
            problem.scope,
            checks.count(problem.rows, "rows", least=1),
            checks.amount(problem.variance, "variance", 1.0),
            checks.amount(problem.coupling, "coupling"),
            checks.count(problem.solved, "solved"),
        )
        for problem in messages
    )


def _pack_evaluate(value: Evaluate) -> pb.Evaluate:
    settings, problems = _pack_training(value.settings), map(_pack_problem, value.problems)
    return pb.Evaluate(settings=settings, seed=value.seed, problems=problems, sums=pack_sum_order(value.sums))


def _unpack_evaluate(order: pb.Order, scopes: Collection[str]) -> Evaluate:
    message = order.evaluate
    checks.require(message, "settings")
    problems = _unpack_problems(message.problems, scopes, order.tasks)
    sums = unpack_sum_order(message.sums, (), order.tasks) if message.HasField("sums") else None
    return Evaluate(_unpack_training(message.settings), _unpack_seed(message.seed), problems, sums)


@dataclass(frozen=True)
class _BodyRow:
    field: str
    """In the `oneof` of `Order`."""
    body: type[Body]
    pack: Callable[[Any], Message]
    unpack: Callable[[pb.Order, Collection[str]], Body]


_BODIES = (
    _BodyRow("train", Train, _pack_train, _unpack_train),
    _BodyRow("evaluate", Evaluate, _pack_evaluate, _unpack_evaluate),
    _BodyRow("solve", Solve, _pack_solve, _unpack_solve),
)


def _unpack_seed(value: int) -> int:
    return checks.count(value, "seed", most=limits.MAX_SEED)


def _unpack_units(message: pb.Order) -> tuple[tuple[str, TargetUnits], ...]:
    names = checks.distinct((row.task for row in checks.items(message.units, "units", limits.MAX_TASKS)), "units")
    return tuple(zip(map(checks.task_name, names), map(unpack_units, message.units), strict=True))


def _unpack_scales(message: pb.Order) -> tuple[tuple[str, InputScale], ...]:
    names = checks.distinct((row.task for row in checks.items(message.scales, "scales", limits.MAX_TASKS)), "scales")
    return tuple(zip(map(checks.task_name, names), map(unpack_scale, message.scales), strict=True))


def _unpack_isolated_tasks(order: pb.Order) -> tuple[str, ...]:
    isolated = checks.distinct(order.train.isolated_tasks, "isolated_tasks")
    for task in isolated:
        if task not in order.tasks:
            raise WireError(f"isolated_tasks: task {task[:80]!r} is not the order's")
    return isolated


def _unpack_noise(message: pb.NoisePromise) -> NoisePromise:
    return NoisePromise(
        checks.amount(message.noise_multiplier, "noise_multiplier"),
        checks.amount(message.epsilon, "epsilon"),
        checks.amount(message.delta, "delta"),
        checks.count(message.clients, "clients"),
    )


def _unpack_fixed(message: pb.Train, scopes: Collection[str]) -> tuple[str, ...]:
    fixed = checks.distinct(message.fixed, "fixed")
    for scope in fixed:
        if scope not in scopes:
            raise WireError(f"fixed: scope {scope[:80]!r} is not the order's")
    return fixed


def _unpack_proximal_terms(message: pb.Train, scopes: Collection[str]) -> tuple[ProximalTerm, ...]:
    checks.distinct((term.scope for term in message.proximal_terms), "proximal_terms")
    for term in message.proximal_terms:
        if term.scope not in scopes and not is_private(checks.scope_name(term.scope, "proximal_terms")):
            raise WireError(f"proximal_terms: scope {term.scope[:80]!r} is not the order's")
    return tuple(
        ProximalTerm(term.scope, checks.amount(term.mu, "mu", LARGEST_MU), checks.count(term.version, "version"))
        for term in message.proximal_terms
    )


def _unpack_controls(
    message: pb.Train, scopes: Collection[str], settings: TrainingSettings
) -> tuple[ControlShare, ...]:
    """The shares of exactly those controls that the order is about, and only where its procedure has such."""
    names = checks.distinct((share.scope for share in message.controls), "controls")
    controls = {str(scope.of) for scope in map(Scope.parse, scopes) if scope.kind is ScopeKind.CONTROL}
    if {*names} != controls or not controls <= {*scopes} or (controls and not settings.procedure.has_controls):
        raise WireError(f"controls: {sorted(names)} do not fit scopes {sorted(scopes)} and {settings.procedure.name}")
    return tuple(ControlShare(s.scope, checks.count(s.clients, "clients", least=1)) for s in message.controls)


def _unpack_inline(message: pb.Order, scopes: Collection[str]) -> tuple[ScopeValues, ...]:
    checks.distinct((item.scope for item in message.inline), "inline")
    for item in message.inline:
        if item.scope not in scopes:
            raise WireError(f"inline: scope {item.scope[:80]!r} is not the order's")
    checks.count(sum(len(item.data) for item in message.inline), "bytes of inline", most=INLINE_BYTES)
    return tuple(ScopeValues(item.scope, item.data) for item in message.inline)


@lru_cache(maxsize=8)  # all orders of a round have the same
def _pack_training(value: TrainingSettings) -> pb.TrainingSettings:
    return pb.TrainingSettings(
        local_epochs=value.local_epochs,
        batch_size=value.batch_size,
        learning_rate=value.learning_rate,
        head_learning_rate=value.head_learning_rate,
        weight_decay=value.weight_decay,
        max_grad_norm=value.max_grad_norm,
        eval_batch_size=value.eval_batch_size,
        procedure=pack_choice(value.procedure),
        balance=pack_choice(value.balance),
        optimizer=pack_choice(value.optimizer),
        proximal_step=value.proximal_step.value,
        frozen=value.frozen,
        own_model=pack_choice(value.own_model),
        keeps_scores=value.keeps_scores,
        row_noise=_pack_row_noise(value.row_noise),
    )


def _pack_row_noise(value: RowNoise | None) -> pb.RowNoise | None:
    if value is None:
        return None
    return pb.RowNoise(
        clip=value.clip,
        delta=value.delta,
        rounds=value.rounds,
        epsilon=value.epsilon,
        noise_multiplier=value.noise_multiplier,
        scores_noise=value.scores_noise,
    )


def _unpack_row_noise(message: pb.TrainingSettings) -> RowNoise | None:
    if not message.HasField("row_noise"):
        return None
    found = message.row_noise
    noise = RowNoise(
        found.clip,
        found.delta,
        checks.count(found.rounds, "rounds"),
        found.epsilon if found.HasField("epsilon") else None,
        found.noise_multiplier if found.HasField("noise_multiplier") else None,
        found.scores_noise if found.HasField("scores_noise") else None,
    )
    if (problem := noise.problem()) is not None:
        raise WireError(f"row_noise: {problem}")
    return noise


def _unpack_training(message: pb.TrainingSettings) -> TrainingSettings:
    checks.require(message, "procedure", "balance", "optimizer", "own_model")
    procedure = unpack_choice(message.procedure, PROCEDURES, "procedure")
    if procedure.parts()[0] != procedure:
        raise WireError(f"procedure: {procedure.name} travels as its parts")
    return TrainingSettings(
        checks.count(message.local_epochs, "local_epochs"),
        checks.count(message.batch_size, "batch_size", least=1),
        checks.amount(message.learning_rate, "learning_rate"),
        checks.amount(message.head_learning_rate, "head_learning_rate"),
        checks.amount(message.weight_decay, "weight_decay"),
        checks.amount(message.max_grad_norm, "max_grad_norm"),
        checks.count(message.eval_batch_size, "eval_batch_size", least=1),
        procedure,
        unpack_choice(message.balance, BALANCES, "balance"),
        unpack_choice(message.optimizer, LOCAL_OPTIMIZERS, "optimizer"),
        checks.member(ProximalStep, message.proximal_step, "proximal_step"),
        _frozen(message.frozen),
        unpack_choice(message.own_model, OWN_MODELS, "own_model"),
        message.keeps_scores,
        _unpack_row_noise(message),
    )


def _frozen(text: str) -> str:
    if not is_frozen(text):
        raise WireError(f"frozen: {text[:80]!r} is not empty, all or a number of layers")
    return text
