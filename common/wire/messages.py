"""The codec of every message that travels on its own, chunks of streams apart."""

from __future__ import annotations

from collections.abc import Collection
from typing import assert_never

from common.errors import WireError
from common.orders import (
    Answer,
    Description,
    FederationStatus,
    JoinRequest,
    PollKind,
    PollReply,
    Receipt,
    Reply,
    Session,
    Update,
    UpdateHeader,
    UpdateState,
    UploadStatus,
    Welcome,
)
from common.targets import TargetSums
from common.wire import checks, limits, order_parts, parts
from common.wire.calls import FailureCall, FetchCall, HeartbeatCall, OrderCall, PollCall, TokenizerCall, WithdrawCall
from common.wire.codec import Codec, codec
from common.wire.gen import admin_pb2 as admin
from common.wire.gen import federation_pb2 as pb
from common.wire.scope_parts import pack_scope, unpack_scope


def _pack_join(value: JoinRequest) -> pb.JoinRequest:
    return pb.JoinRequest(
        client_id=value.client_id,
        tasks=[parts.pack_task(task) for task in value.tasks],
        examples=[
            pb.TaskExamples(task=task, examples=examples, validation=dict(value.validation).get(task, 0))
            for task, examples in value.examples
        ],
        capabilities=parts.pack_capabilities(value.capabilities),
        headers=[parts.pack_header(task, header, len(value.headers)) for task, header in value.headers],
        targets=[parts.pack_sums(task, sums) for task, sums in value.targets],
        inputs=[parts.pack_input_sums(task, sums) for task, sums in value.inputs],
    )


def _unpack_join(message: pb.JoinRequest) -> JoinRequest:
    tasks = parts.unpack_tasks(message.tasks)
    named = {
        "examples": checks.distinct((row.task for row in message.examples), "examples"),
        "headers": checks.distinct((row.task for row in message.headers), "headers"),
        "inputs": checks.distinct((row.task for row in message.inputs), "inputs"),
    }
    for field, names in named.items():
        if unknown := set(names) - {task.name for task in tasks}:
            raise WireError(f"{field}: {min(unknown)[:80]!r} is not among the tasks")
    return JoinRequest(
        checks.client_id(message.client_id),
        tasks,
        tuple((row.task, _count_rows(row.examples, "examples")) for row in message.examples),
        parts.unpack_capabilities(message.capabilities),
        headers=tuple((row.task, parts.unpack_header(row)) for row in message.headers),
        validation=tuple(
            (row.task, _count_rows(row.validation, "validation")) for row in message.examples if row.validation
        ),
        targets=_unpack_targets(message, {task.name for task in tasks if task.tells_sums}),
        inputs=tuple((row.task, parts.unpack_input_sums(row)) for row in message.inputs),
    )


def _unpack_targets(message: pb.JoinRequest, telling: Collection[str]) -> tuple[tuple[str, TargetSums], ...]:
    for name in checks.distinct((row.task for row in message.targets), "targets"):
        if name not in telling:
            raise WireError(f"targets: {name[:80]!r} is no task of which sums are told")
    return tuple((row.task, parts.unpack_sums(row)) for row in message.targets)


def _count_rows(value: int, field: str) -> int:
    return checks.count(value, field, most=limits.MAX_EXAMPLES)


def _unpack_description(message: pb.Description) -> Description:
    checks.require(message, "architecture")
    return Description(parts.unpack_architecture(message.architecture), parts.unpack_tasks(message.tasks))


def _pack_welcome(value: Welcome) -> pb.Welcome:
    return pb.Welcome(
        session=parts.pack_session(value.session),
        run_name=value.run_name,
        architecture=parts.pack_architecture(value.architecture),
        tasks=[parts.pack_task(task) for task in value.tasks],
        rules=[pb.SharingRule(match=match, scope=scope) for match, scope in value.rules],
        schema_digests=[pb.SchemaDigest(scope=scope, digest=digest) for scope, digest in value.schema_digests],
        poll_seconds=value.poll_seconds,
        heartbeat_seconds=value.heartbeat_seconds,
    )


def _unpack_welcome(message: pb.Welcome) -> Welcome:
    checks.require(message, "session", "architecture")
    rules = checks.items(message.rules, "rules", limits.MAX_RULES)
    digests = checks.items(message.schema_digests, "schema_digests", limits.MAX_SCOPES)
    checks.distinct((row.scope for row in digests), "schema_digests")
    return Welcome(
        parts.unpack_session(message.session),
        checks.label(message.run_name, "run_name", limits.RUN_NAME_CHARS),
        parts.unpack_architecture(message.architecture),
        parts.unpack_tasks(message.tasks),
        tuple(
            (
                checks.label(rule.match, "match", limits.RULE_CHARS),
                checks.rule_scope(rule.scope),
            )
            for rule in rules
        ),
        tuple((checks.scope_name(row.scope), checks.digest(row.digest)) for row in digests),
        checks.amount(message.poll_seconds, "poll_seconds", limits.MAX_SECONDS),
        checks.amount(message.heartbeat_seconds, "heartbeat_seconds", limits.MAX_SECONDS),
    )


def _unpack_poll(message: pb.PollRequest) -> PollCall:
    checks.require(message, "session")
    return PollCall(
        parts.unpack_session(message.session),
        checks.optional_identifier(message.pending_order, "pending_order"),
        _unpack_answer(message),
    )


def _pack_poll(call: PollCall) -> pb.PollRequest:
    message = pb.PollRequest(session=parts.pack_session(call.session), pending_order=call.pending_order)
    match call.answer:
        case Update(header, payload):
            message.update.CopyFrom(pb.Update(header=parts.pack_update(header), payload=bytes(payload)))
        case Reply():
            message.reply.CopyFrom(parts.pack_reply(call.answer))
        case None:
            pass
        case _:
            assert_never(call.answer)
    return message


def _unpack_answer(message: pb.PollRequest) -> Answer | None:
    match message.WhichOneof("answer"):
        case "update":
            checks.require(message.update, "header")
            header = parts.unpack_update(message.update.header)
            return Update(header, parts.whole_payload(header, message.update.payload))
        case "reply":
            return parts.unpack_reply(message.reply)
        case _:
            return None


def _pack_pending(value: UpdateHeader | Reply) -> pb.PendingAnswer:
    match value:
        case UpdateHeader():
            return pb.PendingAnswer(update=parts.pack_update(value))
        case Reply():
            return pb.PendingAnswer(reply=parts.pack_reply(value))
        case _:
            assert_never(value)


def _unpack_pending(message: pb.PendingAnswer) -> UpdateHeader | Reply:
    match message.WhichOneof("answer"):
        case "update":
            return parts.unpack_update(message.update)
        case "reply":
            return parts.unpack_reply(message.reply)
        case _:
            raise WireError("answer: missing, or none that this version knows")


def _pack_reply(value: PollReply) -> pb.PollReply:
    return pb.PollReply(
        kind=value.kind.value,
        update_state=value.update_state.value,
        waiting_for=checks.as_line(value.waiting_for),
        order=None if value.order is None else order_parts.pack_order(value.order),
    )


def _unpack_reply(message: pb.PollReply) -> PollReply:
    kind = checks.member(PollKind, message.kind, "kind")
    if (kind is PollKind.ORDER) != message.HasField("order"):
        raise WireError(f"order: does not fit an answer of kind {kind}")
    return PollReply(
        kind,
        checks.member(UpdateState, message.update_state, "update_state"),
        checks.line(message.waiting_for, "waiting_for"),
        order_parts.unpack_order(message.order) if kind is PollKind.ORDER else None,
    )


def _pack_fetch(value: FetchCall) -> pb.FetchRequest:
    return pb.FetchRequest(
        session=parts.pack_session(value.session),
        scope=pack_scope(value.scope),
        offset=value.offset,
        chunk_bytes=value.chunk_bytes,
    )


def _unpack_fetch(message: pb.FetchRequest) -> FetchCall:
    checks.require(message, "session", "scope")
    return FetchCall(
        parts.unpack_session(message.session),
        unpack_scope(message.scope),
        checks.count(message.offset, "offset"),
        checks.chunk_bytes(message.chunk_bytes),
    )


def _pack_tokenizer(value: TokenizerCall) -> pb.TokenizerRequest:
    return pb.TokenizerRequest(
        session=parts.pack_session(value.session), offset=value.offset, chunk_bytes=value.chunk_bytes
    )


def _unpack_tokenizer(message: pb.TokenizerRequest) -> TokenizerCall:
    checks.require(message, "session")
    return TokenizerCall(
        parts.unpack_session(message.session),
        checks.count(message.offset, "offset"),
        checks.chunk_bytes(message.chunk_bytes),
    )


def _unpack_leave(message: pb.LeaveRequest) -> Session:
    checks.require(message, "session")
    return parts.unpack_session(message.session)


def _unpack_withdraw(message: pb.WithdrawRequest) -> WithdrawCall:
    return WithdrawCall(checks.client_id(message.client_id))


def _unpack_receipt(message: pb.Receipt) -> Receipt:
    return Receipt(checks.identifier(message.order_id, "order_id"), checks.digest(message.digest))


def _unpack_upload_status(message: pb.UploadStatusRequest) -> OrderCall:
    checks.require(message, "session")
    return OrderCall(parts.unpack_session(message.session), checks.identifier(message.order_id, "order_id"))


def _unpack_upload_reply(message: pb.UploadStatusReply) -> UploadStatus:
    return UploadStatus(
        checks.member(UpdateState, message.update_state, "update_state"), checks.count(message.received, "received")
    )


def _unpack_heartbeat(message: pb.HeartbeatRequest) -> HeartbeatCall:
    checks.require(message, "session", "progress")
    return HeartbeatCall(parts.unpack_session(message.session), parts.unpack_progress(message.progress))


def _unpack_failure(message: pb.FailureReport) -> FailureCall:
    checks.require(message, "session")
    return FailureCall(
        parts.unpack_session(message.session),
        checks.identifier(message.order_id, "order_id"),
        checks.line(message.reason, "reason"),
    )


def _pack_status(value: FederationStatus) -> admin.FederationStatus:
    return admin.FederationStatus(
        run_name=value.run_name,
        run_id=value.run_id,
        phase=value.phase,
        round=value.round,
        num_rounds=value.num_rounds,
        waiting_for=checks.as_line(value.waiting_for),
        clients=[parts.pack_client(client) for client in value.clients],
        client_count=value.client_count,
        more=value.more,
    )


def _unpack_status_request(message: admin.StatusRequest) -> str:
    return checks.client_id(message.after, "after") if message.after else ""


def _unpack_status(message: admin.FederationStatus) -> FederationStatus:
    clients = checks.items(message.clients, "clients", limits.MAX_CLIENTS)
    checks.distinct((client.client_id for client in clients), "clients")
    return FederationStatus(
        checks.label(message.run_name, "run_name", limits.RUN_NAME_CHARS),
        checks.identifier(message.run_id, "run_id"),
        checks.label(message.phase, "phase", limits.LABEL_CHARS),
        checks.count(message.round, "round"),
        checks.count(message.num_rounds, "num_rounds"),
        checks.line(message.waiting_for, "waiting_for"),
        tuple(parts.unpack_client(client) for client in clients),
        checks.count(message.client_count, "client_count", least=len(clients)),
        message.more,
    )


DESCRIBE_REQUEST: Codec[None] = codec(pb.DescribeRequest, lambda _: pb.DescribeRequest(), lambda _: None)
DESCRIPTION: Codec[Description] = codec(
    pb.Description,
    lambda value: pb.Description(
        architecture=parts.pack_architecture(value.architecture), tasks=map(parts.pack_task, value.tasks)
    ),
    _unpack_description,
)
JOIN_REQUEST: Codec[JoinRequest] = codec(pb.JoinRequest, _pack_join, _unpack_join)
WELCOME: Codec[Welcome] = codec(pb.Welcome, _pack_welcome, _unpack_welcome)
POLL_REQUEST: Codec[PollCall] = codec(
    pb.PollRequest,
    _pack_poll,
    _unpack_poll,
)
POLL_REPLY: Codec[PollReply] = codec(pb.PollReply, _pack_reply, _unpack_reply)
FETCH_REQUEST: Codec[FetchCall] = codec(pb.FetchRequest, _pack_fetch, _unpack_fetch)
TOKENIZER_REQUEST: Codec[TokenizerCall] = codec(pb.TokenizerRequest, _pack_tokenizer, _unpack_tokenizer)
PENDING_ANSWER: Codec[UpdateHeader | Reply] = codec(pb.PendingAnswer, _pack_pending, _unpack_pending)
RECEIPT: Codec[Receipt] = codec(
    pb.Receipt, lambda receipt: pb.Receipt(order_id=receipt.order_id, digest=receipt.digest), _unpack_receipt
)
UPLOAD_STATUS_REQUEST: Codec[OrderCall] = codec(
    pb.UploadStatusRequest,
    lambda call: pb.UploadStatusRequest(session=parts.pack_session(call.session), order_id=call.order_id),
    _unpack_upload_status,
)
UPLOAD_STATUS_REPLY: Codec[UploadStatus] = codec(
    pb.UploadStatusReply,
    lambda value: pb.UploadStatusReply(update_state=value.update_state.value, received=value.received),
    _unpack_upload_reply,
)
HEARTBEAT_REQUEST: Codec[HeartbeatCall] = codec(
    pb.HeartbeatRequest,
    lambda call: pb.HeartbeatRequest(
        session=parts.pack_session(call.session), progress=parts.pack_progress(call.progress)
    ),
    _unpack_heartbeat,
)
HEARTBEAT_REPLY: Codec[bool] = codec(
    pb.HeartbeatReply, lambda cancel: pb.HeartbeatReply(cancel=cancel), lambda message: message.cancel
)
FAILURE_REPORT: Codec[FailureCall] = codec(
    pb.FailureReport,
    lambda call: pb.FailureReport(
        session=parts.pack_session(call.session), order_id=call.order_id, reason=checks.as_line(call.reason)
    ),
    _unpack_failure,
)
LEAVE_REQUEST: Codec[Session] = codec(
    pb.LeaveRequest, lambda session: pb.LeaveRequest(session=parts.pack_session(session)), _unpack_leave
)
WITHDRAW_REQUEST: Codec[WithdrawCall] = codec(
    pb.WithdrawRequest, lambda call: pb.WithdrawRequest(client_id=call.client_id), _unpack_withdraw
)
DONE: Codec[None] = codec(pb.Done, lambda _: pb.Done(), lambda _: None)
STATUS_REQUEST: Codec[str] = codec(
    admin.StatusRequest, lambda after: admin.StatusRequest(after=after), _unpack_status_request
)
FEDERATION_STATUS: Codec[FederationStatus] = codec(admin.FederationStatus, _pack_status, _unpack_status)
