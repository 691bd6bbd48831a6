"""Orders as messages: each a pair of pure functions, value to message and message to value."""

from __future__ import annotations

from collections.abc import Collection

from common.errors import WireError
from common.methods.balances import BALANCES
from common.methods.local_optimizers import LOCAL_OPTIMIZERS
from common.methods.procedures import PROCEDURES, ProximalStep
from common.methods.relation import LARGEST_MU
from common.orders import (
    Order,
    OrderKind,
    ScopePull,
    ScopeValues,
    TrainingSettings,
)
from common.parameters.capacity import is_frozen
from common.ports import INLINE_BYTES
from common.targets import TargetUnits
from common.wire import checks, limits
from common.wire.choices import pack_choice, unpack_choice
from common.wire.gen import federation_pb2 as pb
from common.wire.parts import pack_scope, unpack_scope


def pack_order(value: Order) -> pb.Order:
    """Value to message."""
    return pb.Order(
        order_id=value.order_id,
        kind=value.kind.value,
        round=value.round,
        version=value.version,
        scopes=[pack_scope(scope) for scope in value.scopes],
        seed=value.seed,
        training=_pack_training(value.training),
        seconds_left=value.seconds_left,
        encoding=value.encoding,
        values=[pb.ScopeValues(scope=item.scope, data=item.data) for item in value.values],
        tasks=value.tasks,
        pulls=[pb.ScopePull(scope=pull.scope, mu=pull.mu, version=pull.version) for pull in value.pulls],
        apart=value.apart,
        units=[pb.TargetUnits(task=task, mean=units.mean, scale=units.scale) for task, units in value.units],
    )


def unpack_order(message: pb.Order) -> Order:
    """Message to value."""
    checks.require(message, "training")
    scopes = checks.items(message.scopes, "scopes", limits.MAX_SCOPES)
    names = checks.distinct((scope.scope for scope in scopes), "scopes")
    tasks = checks.items(message.tasks, "tasks", limits.MAX_TASKS)
    pulls = _unpack_pulls(message, names)
    return Order(
        checks.identifier(message.order_id, "order_id"),
        checks.member(OrderKind, message.kind, "kind"),
        checks.count(message.round, "round"),
        checks.count(message.version, "version"),
        tuple(unpack_scope(scope) for scope in scopes),
        checks.count(message.seed, "seed", most=limits.MAX_SEED),
        _unpack_training(message.training),
        checks.amount(message.seconds_left, "seconds_left", limits.MAX_SECONDS),
        checks.identifier(message.encoding, "encoding"),
        _unpack_values(message, {*names, *(pull.anchor.scope for pull in pulls)}),
        checks.distinct((checks.task_name(task) for task in tasks), "tasks"),
        pulls,
        _unpack_apart(message),
        _unpack_units(message),
    )


def _unpack_units(message: pb.Order) -> tuple[tuple[str, TargetUnits], ...]:
    names = checks.distinct((row.task for row in checks.items(message.units, "units", limits.MAX_TASKS)), "units")
    found = [TargetUnits(row.mean, row.scale) for row in message.units]
    if problem := next(filter(None, (units.problem() for units in found)), None):
        raise WireError(f"units: {problem}")
    return tuple(zip(map(checks.task_name, names), found, strict=True))


def _unpack_apart(message: pb.Order) -> tuple[str, ...]:
    for task in message.apart:
        if task not in message.tasks:
            raise WireError(f"apart: task {task[:80]!r} is not the order's")
    return checks.distinct(message.apart, "apart")


def _unpack_pulls(message: pb.Order, scopes: Collection[str]) -> tuple[ScopePull, ...]:
    checks.distinct((pull.scope for pull in message.pulls), "pulls")
    for pull in message.pulls:
        if pull.scope not in scopes:
            raise WireError(f"pulls: scope {pull.scope[:80]!r} is not the order's")
    return tuple(
        ScopePull(pull.scope, checks.amount(pull.mu, "mu", LARGEST_MU), checks.count(pull.version, "version"))
        for pull in message.pulls
    )


def _unpack_values(message: pb.Order, scopes: Collection[str]) -> tuple[ScopeValues, ...]:
    checks.distinct((item.scope for item in message.values), "values")
    for item in message.values:
        if item.scope not in scopes:
            raise WireError(f"values: scope {item.scope[:80]!r} is not the order's")
    checks.count(sum(len(item.data) for item in message.values), "bytes of values", most=INLINE_BYTES)
    return tuple(ScopeValues(item.scope, item.data) for item in message.values)


def _pack_training(value: TrainingSettings) -> pb.TrainingSettings:
    return pb.TrainingSettings(
        local_epochs=value.local_epochs,
        batch_size=value.batch_size,
        learning_rate=value.learning_rate,
        weight_decay=value.weight_decay,
        max_grad_norm=value.max_grad_norm,
        eval_batch_size=value.eval_batch_size,
        procedure=pack_choice(value.procedure),
        balance=pack_choice(value.balance),
        optimizer=pack_choice(value.optimizer),
        proximal_step=value.proximal_step.value,
        frozen=value.frozen,
        finetune_epochs=value.finetune_epochs,
        isolated=value.isolated,
    )


def _unpack_training(message: pb.TrainingSettings) -> TrainingSettings:
    checks.require(message, "procedure", "balance", "optimizer")
    settings = TrainingSettings(
        checks.count(message.local_epochs, "local_epochs"),
        checks.count(message.batch_size, "batch_size", least=1),
        checks.amount(message.learning_rate, "learning_rate"),
        checks.amount(message.weight_decay, "weight_decay"),
        checks.amount(message.max_grad_norm, "max_grad_norm"),
        checks.count(message.eval_batch_size, "eval_batch_size", least=1),
        unpack_choice(message.procedure, PROCEDURES, "procedure"),
        unpack_choice(message.balance, BALANCES, "balance"),
        unpack_choice(message.optimizer, LOCAL_OPTIMIZERS, "optimizer"),
        checks.member(ProximalStep, message.proximal_step, "proximal_step"),
        _frozen(message.frozen),
        checks.count(message.finetune_epochs, "finetune_epochs"),
        message.isolated,
    )
    if problem := settings.problem():
        raise WireError(problem)
    return settings


def _frozen(text: str) -> str:
    if not is_frozen(text):
        raise WireError(f"frozen: {text[:80]!r} is not empty, all or a number of layers")
    return text
