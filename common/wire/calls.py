"""What a call of `CoordinatorPort` carries where it is more than one value of `common.orders`."""

from __future__ import annotations

from dataclasses import dataclass

from common.bodies import ScopeVersion
from common.orders import Answer, Progress, Session, UpdateHeader
from common.ports import CHUNK_BYTES


@dataclass(frozen=True)
class PollCall:
    """`poll`."""

    session: Session
    pending_order: str
    answer: Answer | None = None


@dataclass(frozen=True)
class WithdrawCall:
    """`withdraw`."""

    client_id: str


@dataclass(frozen=True)
class FetchCall:
    """`fetch`; the answer comes in chunks of at most `chunk_bytes`."""

    session: Session
    scope: ScopeVersion
    offset: int
    chunk_bytes: int = CHUNK_BYTES


@dataclass(frozen=True)
class TokenizerCall:
    """`fetch_tokenizer`; the answer comes in chunks of at most `chunk_bytes`."""

    session: Session
    offset: int
    chunk_bytes: int = CHUNK_BYTES


@dataclass(frozen=True)
class UploadStart:
    """The first part of `submit`'s stream. `payload` is all of a small update, or None where chunks follow."""

    session: Session
    header: UpdateHeader
    payload: bytes | None = None


@dataclass(frozen=True)
class OrderCall:
    """`upload_status`."""

    session: Session
    order_id: str


@dataclass(frozen=True)
class HeartbeatCall:
    """`heartbeat`."""

    session: Session
    progress: Progress


@dataclass(frozen=True)
class FailureCall:
    """`report_failure`."""

    session: Session
    order_id: str
    reason: str
