"""Messages inside messages: each a pair of pure functions, value to message and message to value."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from common.balance import BalanceRule, LocalBalance
from common.errors import WireError
from common.metrics import TaskStatistics
from common.orders import (
    MemberStatus,
    ModelArchitecture,
    Order,
    OrderKind,
    Progress,
    ScopePayload,
    ScopePull,
    ScopeValues,
    ScopeVersion,
    Session,
    TaskResult,
    TrainingSettings,
    UpdateHeader,
)
from common.parameters.capacity import is_frozen
from common.ports import INLINE_BYTES
from common.procedures import LARGEST_MOMENTUM, LARGEST_MU, LocalProcedure, OptimizerName, ProcedureName, PullStep
from common.tasks import METRICS, TaskDefinition, TaskType
from common.wire import checks, limits
from common.wire.gen import admin_pb2 as admin
from common.wire.gen import federation_pb2 as pb


def pack_session(value: Session) -> pb.Session:
    """Value to message."""
    return pb.Session(run_id=value.run_id, client_id=value.client_id, token=value.token)


def unpack_session(message: pb.Session) -> Session:
    """Message to value."""
    return Session(
        checks.identifier(message.run_id, "run_id"),
        checks.client_id(message.client_id),
        checks.identifier(message.token, "token"),
    )


def pack_task(value: TaskDefinition) -> pb.TaskDefinition:
    """Value to message."""
    return pb.TaskDefinition(
        name=value.name,
        type=value.type.value,
        labels=value.labels,
        pair=value.pair,
        metrics=value.metrics,
        weight=value.weight,
        auxiliary=value.auxiliary,
    )


def unpack_task(message: pb.TaskDefinition) -> TaskDefinition:
    """Message to value."""
    kind = checks.member(TaskType, message.type, "type")
    labels = checks.items(message.labels, "labels", limits.MAX_LABELS)
    if (kind is TaskType.REGRESSION) == bool(labels):
        raise WireError(f"labels: {len(labels)} do not fit a {kind}")
    metrics = checks.items(message.metrics, "metrics", limits.MAX_METRICS, least=1)
    for metric in metrics:
        if metric not in METRICS[kind]:
            raise WireError(f"metrics: {metric[:80]!r} is not one of {', '.join(METRICS[kind])}")
    return TaskDefinition(
        checks.task_name(message.name, "name"),
        kind,
        checks.distinct((checks.label(label, "labels", limits.LABEL_CHARS) for label in labels), "labels"),
        message.pair,
        checks.distinct(metrics, "metrics"),
        checks.amount(message.weight, "weight"),
        message.auxiliary,
    )


def unpack_tasks(messages: Sequence[pb.TaskDefinition]) -> tuple[TaskDefinition, ...]:
    """Messages to values; at least one, no two of the same name."""
    tasks = tuple(unpack_task(task) for task in checks.items(messages, "tasks", limits.MAX_TASKS, least=1))
    checks.distinct((task.name for task in tasks), "tasks")
    return tasks


def pack_architecture(value: ModelArchitecture) -> pb.ModelArchitecture:
    """Value to message."""
    return pb.ModelArchitecture(
        encoder_config=value.encoder_config,
        encoding=value.encoding,
        max_length=value.max_length,
        tokenizer_digest=value.tokenizer_digest,
        tokenizer_bytes=value.tokenizer_bytes,
    )


def unpack_architecture(message: pb.ModelArchitecture) -> ModelArchitecture:
    """Message to value."""
    return ModelArchitecture(
        checks.text(message.encoder_config, "encoder_config", limits.CONFIG_CHARS),
        checks.identifier(message.encoding, "encoding"),
        checks.count(message.max_length, "max_length", least=1),
        checks.digest(message.tokenizer_digest, "tokenizer_digest"),
        checks.count(message.tokenizer_bytes, "tokenizer_bytes"),
    )


def pack_scope(value: ScopeVersion) -> pb.ScopeVersion:
    """Value to message."""
    return pb.ScopeVersion(scope=value.scope, version=value.version)


def unpack_scope(message: pb.ScopeVersion) -> ScopeVersion:
    """Message to value."""
    return ScopeVersion(checks.scope_name(message.scope), checks.count(message.version, "version"))


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
        checks.amount(message.seconds_left, "seconds_left"),
        checks.identifier(message.encoding, "encoding"),
        _unpack_values(message, {*names, *(f"anchor/{pull.scope}" for pull in pulls)}),
        checks.distinct((checks.task_name(task) for task in tasks), "tasks"),
        pulls,
    )


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
    chosen = value.procedure
    return pb.TrainingSettings(
        local_epochs=value.local_epochs,
        batch_size=value.batch_size,
        learning_rate=value.learning_rate,
        weight_decay=value.weight_decay,
        max_grad_norm=value.max_grad_norm,
        eval_batch_size=value.eval_batch_size,
        procedure=pb.LocalProcedure(
            name=chosen.name.value,
            mu=chosen.mu,
            pull=chosen.pull.value,
            head_epochs=chosen.head_epochs,
            inner_learning_rate=chosen.inner_learning_rate,
            finetune_epochs=chosen.finetune_epochs,
        ),
        balance=pb.LocalBalance(
            rule=value.balance.rule.value,
            rate=value.balance.rate,
            alpha=value.balance.alpha,
            decay=value.balance.decay,
            cagrad_c=value.balance.cagrad_c,
            rescale=value.balance.rescale,
        ),
        optimizer=value.optimizer.value,
        momentum=value.momentum,
        frozen=value.frozen,
    )


def _unpack_training(message: pb.TrainingSettings) -> TrainingSettings:
    checks.require(message, "procedure")
    checks.require(message, "balance")
    return TrainingSettings(
        checks.count(message.local_epochs, "local_epochs"),
        checks.count(message.batch_size, "batch_size", least=1),
        checks.amount(message.learning_rate, "learning_rate"),
        checks.amount(message.weight_decay, "weight_decay"),
        checks.amount(message.max_grad_norm, "max_grad_norm"),
        checks.count(message.eval_batch_size, "eval_batch_size", least=1),
        _unpack_procedure(message.procedure),
        _unpack_balance(message.balance),
        checks.member(OptimizerName, message.optimizer, "optimizer"),
        checks.amount(message.momentum, "momentum", most=LARGEST_MOMENTUM),
        _frozen(message.frozen),
    )


def _frozen(text: str) -> str:
    if not is_frozen(text):
        raise WireError(f"frozen: {text[:80]!r} is not empty, all or a number of layers")
    return text


def _unpack_procedure(message: pb.LocalProcedure) -> LocalProcedure:
    procedure = LocalProcedure(
        checks.member(ProcedureName, message.name, "procedure"),
        message.mu,
        checks.member(PullStep, message.pull, "pull"),
        message.head_epochs,
        message.inner_learning_rate,
        message.finetune_epochs,
    )
    if problem := procedure.problem():
        raise WireError(problem)
    return procedure


def _unpack_balance(message: pb.LocalBalance) -> LocalBalance:
    balance = LocalBalance(
        checks.member(BalanceRule, message.rule, "balance"),
        message.rate,
        message.alpha,
        message.decay,
        message.cagrad_c,
        message.rescale,
    )
    if problem := balance.problem():
        raise WireError(problem)
    return balance


def pack_update(value: UpdateHeader) -> pb.UpdateHeader:
    """Value to message."""
    return pb.UpdateHeader(
        order_id=value.order_id,
        codec=value.codec,
        scopes=[
            pb.ScopePayload(
                scope=scope.scope,
                base_version=scope.base_version,
                schema_digest=scope.schema_digest,
                nbytes=scope.nbytes,
            )
            for scope in value.scopes
        ],
        digest=value.digest,
        results=[_pack_result(result) for result in value.results],
        seconds=value.seconds,
        offset=value.offset,
    )


def unpack_update(message: pb.UpdateHeader) -> UpdateHeader:
    """Message to value."""
    scopes = checks.items(message.scopes, "scopes", limits.MAX_SCOPES)
    results = checks.items(message.results, "results", limits.MAX_TASKS)
    checks.distinct((scope.scope for scope in scopes), "scopes")
    checks.distinct((result.task for result in results), "results")
    size = checks.count(sum(scope.nbytes for scope in scopes), "nbytes")
    return UpdateHeader(
        checks.identifier(message.order_id, "order_id"),
        checks.identifier(message.codec, "codec"),
        tuple(_unpack_payload(scope) for scope in scopes),
        checks.digest(message.digest),
        tuple(_unpack_result(result) for result in results),
        checks.amount(message.seconds, "seconds"),
        checks.count(message.offset, "offset", most=size),
    )


def _unpack_payload(message: pb.ScopePayload) -> ScopePayload:
    return ScopePayload(
        checks.scope_name(message.scope),
        checks.count(message.base_version, "base_version"),
        checks.digest(message.schema_digest, "schema_digest"),
        checks.count(message.nbytes, "nbytes"),
    )


def _pack_result(value: TaskResult) -> pb.TaskResult:
    return pb.TaskResult(
        task=value.task,
        examples=value.examples,
        train_loss=value.train_loss,
        validation=None if value.validation is None else _pack_statistics(value.validation),
        personal=None if value.personal is None else _pack_statistics(value.personal),
    )


def _unpack_result(message: pb.TaskResult) -> TaskResult:
    return TaskResult(
        checks.task_name(message.task),
        checks.count(message.examples, "examples"),
        checks.number(message.train_loss, "train_loss") if message.HasField("train_loss") else None,
        _unpack_statistics(message.validation) if message.HasField("validation") else None,
        _unpack_statistics(message.personal) if message.HasField("personal") else None,
    )


def _pack_statistics(value: TaskStatistics) -> pb.TaskStatistics:
    return pb.TaskStatistics(
        examples=value.examples,
        loss_sum=value.loss_sum,
        confusion=value.confusion,
        moments=value.moments,
        means=[pb.MeanMetric(metric=name, value=mean, examples=n) for name, mean, n in value.means],
    )


def _unpack_statistics(message: pb.TaskStatistics) -> TaskStatistics:
    means = checks.items(message.means, "means", limits.MAX_METRICS)
    checks.distinct((mean.metric for mean in means), "means")
    moments = checks.items(message.moments, "moments", most=5)
    if len(moments) not in (0, 5):
        raise WireError(f"moments: {len(moments)} numbers are not five sums")
    return TaskStatistics(
        checks.count(message.examples, "examples"),
        checks.number(message.loss_sum, "loss_sum"),
        tuple(
            checks.count(cell, "confusion") for cell in checks.items(message.confusion, "confusion", limits.MAX_CELLS)
        ),
        tuple(checks.number(moment, "moments") for moment in moments),
        tuple(
            (
                checks.identifier(mean.metric, "metric"),
                checks.number(mean.value, "value"),
                checks.count(mean.examples, "examples"),
            )
            for mean in means
        ),
    )


def pack_progress(value: Progress) -> pb.Progress:
    """Value to message."""
    return pb.Progress(order_id=value.order_id, phase=checks.as_line(value.phase), fraction=value.fraction)


def unpack_progress(message: pb.Progress) -> Progress:
    """Message to value."""
    return Progress(
        checks.optional_identifier(message.order_id, "order_id"),
        checks.line(message.phase, "phase"),
        checks.amount(message.fraction, "fraction", most=1.0),
    )


def pack_member(value: MemberStatus) -> admin.MemberStatus:
    """Value to message."""
    return admin.MemberStatus(
        client_id=value.client_id, tasks=value.tasks, present=value.present, doing=checks.as_line(value.doing)
    )


def unpack_member(message: admin.MemberStatus) -> MemberStatus:
    """Message to value."""
    tasks = checks.items(message.tasks, "tasks", limits.MAX_TASKS)
    return MemberStatus(
        checks.client_id(message.client_id),
        checks.distinct((checks.task_name(task) for task in tasks), "tasks"),
        message.present,
        checks.line(message.doing, "doing"),
    )


def whole_payload(header: UpdateHeader, payload: bytes) -> bytes:
    """The payload of an update that came in one message, if it is all of it and small."""
    if header.offset or len(payload) != checks.count(header.nbytes, "nbytes", most=INLINE_BYTES):
        raise WireError(f"payload: {len(payload)} bytes are not the {header.nbytes} of the update")
    return payload
