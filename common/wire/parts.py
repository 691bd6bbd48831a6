"""Messages inside messages: each a pair of pure functions, value to message and message to value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.capabilities import ALL, Capabilities, Capacity
from common.class_weights import ClassWeights
from common.errors import WireError
from common.inputs.header import Header
from common.orders import (
    ClientStatus,
    ModelArchitecture,
    Progress,
    Reply,
    ScopePayload,
    Session,
    UpdateHeader,
)
from common.ports import INLINE_BYTES
from common.standardising import MOST_COLUMNS, InputScale, InputSums
from common.targets import TargetSums, TargetUnits
from common.tasks import TASK_KINDS, TaskDefinition, TaskKind
from common.wire import checks, limits
from common.wire.extensions import decode_content, encode_content
from common.wire.gen import admin_pb2 as admin
from common.wire.gen import federation_pb2 as pb
from common.wire.result_parts import pack_result, unpack_results


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
        type=value.type.name,
        labels=value.labels,
        pair=value.pair,
        metrics=value.metrics,
        weight=value.weight,
        auxiliary=value.auxiliary,
        balanced=value.class_weights == "balanced",
        class_weights=value.class_weights if isinstance(value.class_weights, tuple) else (),
    )


def unpack_task(message: pb.TaskDefinition) -> TaskDefinition:
    """Message to value."""
    kind = TASK_KINDS[checks.choice(TASK_KINDS, message.type, "type")]
    labels = checks.items(message.labels, "labels", limits.MAX_LABELS)
    if kind.has_labels != bool(labels):
        raise WireError(f"labels: {len(labels)} do not fit a {kind}")
    metrics = checks.items(message.metrics, "metrics", limits.MAX_METRICS, least=1)
    for metric in metrics:
        checks.choice(kind.metrics, metric, "metrics")
    return TaskDefinition(
        checks.task_name(message.name, "name"),
        kind,
        checks.distinct((checks.label(label, "labels", limits.LABEL_CHARS) for label in labels), "labels"),
        message.pair,
        checks.distinct(metrics, "metrics"),
        checks.amount(message.weight, "weight"),
        message.auxiliary,
        _unpack_class_weights(message, kind),
    )


def _unpack_class_weights(message: pb.TaskDefinition, kind: TaskKind) -> ClassWeights:
    given = tuple(checks.amount(weight, "class_weights") for weight in message.class_weights)
    weighs = bool(given or message.balanced)
    if (given and len(given) != len(message.labels)) or (weighs and not kind.has_class_weights):
        raise WireError(f"class_weights: {len(given)} do not fit a {kind} with {len(message.labels)} labels")
    return given or ("balanced" if message.balanced else "none")


def unpack_tasks(messages: Sequence[pb.TaskDefinition]) -> tuple[TaskDefinition, ...]:
    """Messages to values; at least one, no two of the same name."""
    checks.items(messages, "tasks", limits.MAX_TASKS, least=1)
    checks.count(sum(len(task.labels) for task in messages), "number of labels", most=limits.MAX_LABELS)
    tasks = tuple(unpack_task(task) for task in messages)
    checks.distinct((task.name for task in tasks), "tasks")
    return tasks


def pack_sums(task: str, value: TargetSums) -> pb.TargetSums:
    """Value to message."""
    return pb.TargetSums(task=task, mean=value.mean, squares=value.squares, counts=map(int, value.counts))


def unpack_sums(message: pb.TargetSums) -> TargetSums:
    """Message to value."""
    counts = checks.items(message.counts, "counts", limits.MAX_LABELS)
    return TargetSums(
        checks.number(message.mean, "mean"),
        checks.amount(message.squares, "squares"),
        tuple(checks.count(count, "counts", most=limits.MAX_EXAMPLES) for count in counts),
    )


def pack_units(task: str, value: TargetUnits) -> pb.TargetUnits:
    """Value to message."""
    return pb.TargetUnits(task=task, mean=value.mean, scale=value.scale, weights=value.weights or ())


def unpack_units(message: pb.TargetUnits) -> TargetUnits:
    """Message to value."""
    weights = checks.items(message.weights, "weights", limits.MAX_LABELS)
    units = TargetUnits(message.mean, message.scale, tuple(weights) or None)
    if problem := units.problem():
        raise WireError(f"units: {problem}")
    return units


def pack_input_sums(task: str, value: InputSums) -> pb.InputSums:
    """Value to message."""
    return pb.InputSums(task=task, counts=value.counts, means=value.means, squares=value.squares)


def unpack_input_sums(message: pb.InputSums) -> InputSums:
    """Message to value."""
    counts = checks.items(message.counts, "counts", MOST_COLUMNS, least=1)
    return InputSums(
        tuple(checks.count(count, "counts", most=limits.MAX_EXAMPLES) for count in counts),
        tuple(checks.number(mean, "means") for mean in checks.items(message.means, "means", MOST_COLUMNS)),
        tuple(checks.amount(square, "squares") for square in checks.items(message.squares, "squares", MOST_COLUMNS)),
    )


def pack_scale(task: str, value: InputScale) -> pb.InputScale:
    """Value to message."""
    return pb.InputScale(task=task, means=value.means, scales=value.scales)


def unpack_scale(message: pb.InputScale) -> InputScale:
    """Message to value."""
    means, scales = (checks.items(found, "scales", MOST_COLUMNS, least=1) for found in (message.means, message.scales))
    scale = InputScale(tuple(means), tuple(scales))
    if problem := scale.problem():
        raise WireError(f"scales: {problem}")
    return scale


def pack_header(task: str, value: Header, headers: int) -> pb.TaskHeader:
    """Value to message, which is one of so many `headers`: as many names as there is room for."""
    names, room = [], limits.NAMES_CHARS // headers
    for name in value.names[: limits.MAX_NAMES]:
        shown = checks.as_line(name)[: limits.LABEL_CHARS]
        room -= len(shown)
        if room < 0:
            break
        names.append(shown)
    return pb.TaskHeader(task=task, count=value.count, digest=value.digest, names=names, shape=value.shape)


def unpack_header(message: pb.TaskHeader) -> Header:
    """Message to value."""
    names = checks.items(message.names, "names", limits.MAX_NAMES)
    digest = checks.digest(message.digest) if message.digest else ""
    if len(names) > message.count or (names and not digest):
        raise WireError(f"names: {len(names)} do not fit {message.count} features with digest '{digest}'")
    shape = tuple(checks.items(message.shape, "shape", limits.MAX_DIMENSIONS))
    count = checks.count(message.count, "count", least=1, most=limits.MAX_FEATURES)
    if shape and (digest or len(shape) < 2 or math.prod(shape) != count):
        raise WireError(f"shape: {shape} is not that of a row of {count} numbers")
    shown = tuple(checks.text(checks.line(name, "names"), "names", limits.LABEL_CHARS) for name in names)
    return Header(count, digest, shown, shape)


def pack_architecture(value: ModelArchitecture) -> pb.ModelArchitecture:
    """Value to message."""
    return pb.ModelArchitecture(
        encoder_config=value.encoder_config,
        pair_mode=value.pair_mode,
        max_length=value.max_length,
        tokenizer_digest=value.tokenizer_digest,
        tokenizer_bytes=value.tokenizer_bytes,
        exact_heads=value.exact_heads,
    )


def unpack_architecture(message: pb.ModelArchitecture) -> ModelArchitecture:
    """Message to value."""
    return ModelArchitecture(
        checks.text(message.encoder_config, "encoder_config", limits.CONFIG_CHARS),
        checks.identifier(message.pair_mode, "pair_mode"),
        checks.count(message.max_length, "max_length", least=1),
        checks.digest(message.tokenizer_digest, "tokenizer_digest"),
        checks.count(message.tokenizer_bytes, "tokenizer_bytes"),
        message.exact_heads,
    )


def pack_capabilities(value: Capabilities) -> pb.Capabilities:
    """Value to message."""
    held = value.capacity
    return pb.Capabilities(
        codecs=value.codecs, data=value.data, trains=held.trains, layers=held.layers, lacks=held.lacks
    )


def unpack_capabilities(message: pb.Capabilities) -> Capabilities:
    """Message to value; a client that says nothing has the defaults."""
    codecs = checks.items(message.codecs, "codecs", limits.MAX_CODECS)
    lacks = checks.items(message.lacks, "lacks", limits.MAX_PARTS)
    capacity = Capacity(
        checks.identifier(message.trains or ALL, "trains"),
        checks.count(message.layers, "layers", least=1) if message.HasField("layers") else None,
        checks.distinct((checks.identifier(name, "lacks") for name in lacks), "lacks"),
    )
    return Capabilities(
        checks.distinct((checks.identifier(name, "codecs") for name in codecs), "codecs"),
        checks.optional_identifier(message.data, "data"),
        capacity,
    )


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
        results=[pack_result(result) for result in value.results],
        seconds=value.seconds,
        offset=value.offset,
    )


def unpack_update(message: pb.UpdateHeader) -> UpdateHeader:
    """Message to value."""
    scopes = checks.items(message.scopes, "scopes", limits.MAX_SCOPES)
    checks.distinct((scope.scope for scope in scopes), "scopes")
    size = checks.count(sum(scope.nbytes for scope in scopes), "nbytes")
    return UpdateHeader(
        checks.identifier(message.order_id, "order_id"),
        checks.identifier(message.codec, "codec"),
        tuple(_unpack_payload(scope) for scope in scopes),
        checks.digest(message.digest),
        unpack_results(message.results),
        checks.amount(message.seconds, "seconds"),
        checks.count(message.offset, "offset", most=size),
    )


def pack_reply(value: Reply) -> pb.Reply:
    """Value to message."""
    results = [pack_result(result) for result in value.results]
    message = pb.Reply(order_id=value.order_id, results=results, seconds=value.seconds)
    if value.content is not None:
        message.content.name, message.content.data = encode_content(value.content)
    return message


def unpack_reply(message: pb.Reply) -> Reply:
    """Message to value."""
    return Reply(
        checks.identifier(message.order_id, "order_id"),
        unpack_results(message.results),
        checks.amount(message.seconds, "seconds"),
        decode_content(message.content.name, message.content.data) if message.HasField("content") else None,
    )


def _unpack_payload(message: pb.ScopePayload) -> ScopePayload:
    return ScopePayload(
        checks.scope_name(message.scope),
        checks.count(message.base_version, "base_version"),
        checks.digest(message.schema_digest, "schema_digest"),
        checks.count(message.nbytes, "nbytes"),
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


def pack_client(value: ClientStatus) -> admin.ClientStatus:
    """Value to message."""
    return admin.ClientStatus(
        client_id=value.client_id, tasks=value.tasks, present=value.present, activity=checks.as_line(value.activity)
    )


def unpack_client(message: admin.ClientStatus) -> ClientStatus:
    """Message to value."""
    tasks = checks.items(message.tasks, "tasks", limits.MAX_TASKS)
    return ClientStatus(
        checks.client_id(message.client_id),
        checks.distinct((checks.task_name(task) for task in tasks), "tasks"),
        message.present,
        checks.line(message.activity, "activity"),
    )


def whole_payload(header: UpdateHeader, payload: bytes) -> bytes:
    """The payload of an update that came in one message, if it is all of it and small."""
    if header.offset or len(payload) != checks.count(header.nbytes, "nbytes", most=INLINE_BYTES):
        raise WireError(f"payload: {len(payload)} bytes are not the {header.nbytes} of the update")
    return payload
