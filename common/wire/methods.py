"""Every remote procedure: its path, the shape of the call and its codecs. Service and transport are built from it.

Both sides hand gRPC plain bytes, so that a malformed message reaches our decoder and is answered by us.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from common.orders import (
    Description,
    FederationStatus,
    JoinRequest,
    PollReply,
    Receipt,
    Session,
    UploadStatus,
    Welcome,
)
from common.ports import Chunk
from common.wire import messages
from common.wire.calls import (
    FailureCall,
    FetchCall,
    HeartbeatCall,
    OrderCall,
    PollCall,
    TokenizerCall,
    UploadStart,
    WithdrawCall,
)
from common.wire.chunks import CHUNK, UPLOAD_PART
from common.wire.codec import Codec

Q = TypeVar("Q")
A = TypeVar("A")

REASON_KEY = "fedmtl-reason"
"""Trailing metadata that holds the `Reason` of a refusal."""

CONTINUE_KEY = "fedmtl-continue"
"""Initial metadata by which the coordinator asks for the payload of an update."""

STOPPING = "the coordinator cannot use its run folder and stops; it will be back with --resume"
"""Details of the status *unavailable* where its disk is why."""
INTERNAL_ERROR = "internal error"
"""Details of the status that stands for a defect of the coordinator."""


class Kind(StrEnum):
    """Which side sends one message and which a stream."""

    UNARY_UNARY = "unary_unary"
    UNARY_STREAM = "unary_stream"
    STREAM_UNARY = "stream_unary"


@dataclass(frozen=True)
class Method(Generic[Q, A]):
    """One remote procedure; the codecs are those of single messages, also where a stream of them goes."""

    path: str
    kind: Kind
    request: Codec[Q]
    reply: Codec[A]


_CLIENTS = "/fedmtl.v1.Federation/"
_OPERATORS = "/fedmtl.v1.Admin/"

DESCRIBE: Method[None, Description] = Method(
    _CLIENTS + "Describe", Kind.UNARY_UNARY, messages.DESCRIBE_REQUEST, messages.DESCRIPTION
)
JOIN: Method[JoinRequest, Welcome] = Method(
    _CLIENTS + "Join", Kind.UNARY_UNARY, messages.JOIN_REQUEST, messages.WELCOME
)
POLL: Method[PollCall, PollReply] = Method(
    _CLIENTS + "Poll", Kind.UNARY_UNARY, messages.POLL_REQUEST, messages.POLL_REPLY
)
FETCH_SLICE: Method[FetchCall, Chunk] = Method(
    _CLIENTS + "FetchSlice", Kind.UNARY_STREAM, messages.FETCH_REQUEST, CHUNK
)
FETCH_TOKENIZER: Method[TokenizerCall, Chunk] = Method(
    _CLIENTS + "FetchTokenizer", Kind.UNARY_STREAM, messages.TOKENIZER_REQUEST, CHUNK
)
SUBMIT_UPDATE: Method[UploadStart | Chunk, Receipt] = Method(
    _CLIENTS + "SubmitUpdate", Kind.STREAM_UNARY, UPLOAD_PART, messages.RECEIPT
)
UPLOAD_STATUS: Method[OrderCall, UploadStatus] = Method(
    _CLIENTS + "UploadStatus", Kind.UNARY_UNARY, messages.UPLOAD_STATUS_REQUEST, messages.UPLOAD_STATUS_REPLY
)
HEARTBEAT: Method[HeartbeatCall, bool] = Method(
    _CLIENTS + "Heartbeat", Kind.UNARY_UNARY, messages.HEARTBEAT_REQUEST, messages.HEARTBEAT_REPLY
)
REPORT_FAILURE: Method[FailureCall, None] = Method(
    _CLIENTS + "ReportFailure", Kind.UNARY_UNARY, messages.FAILURE_REPORT, messages.DONE
)
LEAVE: Method[Session, None] = Method(_CLIENTS + "Leave", Kind.UNARY_UNARY, messages.LEAVE_REQUEST, messages.DONE)
WITHDRAW: Method[WithdrawCall, None] = Method(
    _CLIENTS + "Withdraw", Kind.UNARY_UNARY, messages.WITHDRAW_REQUEST, messages.DONE
)
STATUS: Method[str, FederationStatus] = Method(
    _OPERATORS + "Status", Kind.UNARY_UNARY, messages.STATUS_REQUEST, messages.FEDERATION_STATUS
)

METHODS: tuple[Method[Any, Any], ...] = (
    DESCRIBE,
    JOIN,
    POLL,
    FETCH_SLICE,
    FETCH_TOKENIZER,
    SUBMIT_UPDATE,
    UPLOAD_STATUS,
    HEARTBEAT,
    REPORT_FAILURE,
    LEAVE,
    WITHDRAW,
    STATUS,
)
"""All of them, in the order of protos/."""
