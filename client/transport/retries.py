"""What to make of a failed call: raise it, or try again after a pause."""

from __future__ import annotations

import asyncio
import logging
import random

import grpc

from client.transport.target import Target
from common.errors import FedMTLError, Reason, Refused, UnreachableError, WireError
from common.wire.checks import as_line
from common.wire.methods import INTERNAL_ERROR, REASON_KEY

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0

_LOG = logging.getLogger(__name__)

_NO_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # The three below come from gRPC itself when a stream was reset or a server goes down.
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

_CLOSED = (
    "the connection was closed",
    "that both sides use TLS or neither, and whether a client certificate is demanded",
)
_REFUSED = "CERTIFICATE_VERIFY_FAILED"
_TLS_WORDS: tuple[tuple[str, str, str], ...] = (
    (_REFUSED, "its certificate is not signed by the given CA", "the CA file"),
    ("Hostname Verification", "its certificate is for another host name", "the host name"),
    ("Peer name", "its certificate is for another host name", "the host name"),
    ("WRONG_VERSION_NUMBER", "it speaks plain text, not TLS", "that both sides use TLS"),
    ("andshake failed", "the TLS handshake failed", "the TLS files of both sides"),
)
_NETWORK_WORDS: tuple[tuple[str, str, str], ...] = (
    ("HTTP proxy returned", "the proxy does not connect to it", "host and port"),
    ("oo many open files", "this process may open no more files", "the limit of open files (ulimit -n)"),
    ("Connection refused", "nothing listens there", "that the coordinator runs, and host and port"),
    ("resolving", "the host name is not known", "the host name"),
    ("resolution", "the host name is not known", "the host name"),
    ("nreachable", "there is no route to that host", "host, port and the network"),
    ("Internal error from Core", *_CLOSED),  # the stream ended while it was written to
    ("Stream removed", *_CLOSED),
    ("Broken pipe", *_CLOSED),
    ("closed", *_CLOSED),
    ("reset", *_CLOSED),
)
"""(part of gRPC's details, reason, what to check); the first that fits counts."""


def explain(error: grpc.aio.AioRpcError | TimeoutError) -> tuple[str, str]:
    """Why there was no answer and what to check, both in plain words."""
    if isinstance(error, TimeoutError) or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time", "host, port, the network and the coordinator's load"
    details = error.details() or ""
    for part, reason, check in _TLS_WORDS + _NETWORK_WORDS:
        if part in details:
            return reason, check
    return f"{error.code().name}: {' '.join(details.split())[:200]}", "that the coordinator runs, and host and port"


def is_tls_problem(error: grpc.aio.AioRpcError | TimeoutError) -> bool:
    """Whether certificates or their use are wrong, which waiting does not mend."""
    details = "" if isinstance(error, TimeoutError) else error.details() or ""
    return any(part in details for part, _, _ in _TLS_WORDS)


def is_refused_certificate(error: grpc.aio.AioRpcError | TimeoutError) -> bool:
    """Whether this side does not trust the other side's certificate, for whatever reason."""
    return not isinstance(error, TimeoutError) and _REFUSED in (error.details() or "")


def final(error: grpc.aio.AioRpcError, where: str) -> FedMTLError | None:
    """The error that a status stands for, or None where the call should be tried again."""
    code, details = error.code(), as_line(error.details() or "")
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        reasons = [str(value) for key, value in error.trailing_metadata() or () if key == REASON_KEY]
        try:
            return Refused(Reason(reasons[0] if reasons else ""), details)
        except ValueError:
            return WireError(f"coordinator at {where} refused for a reason that this version does not know: {details}")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return WireError(details)
    if code is grpc.StatusCode.INTERNAL and details == INTERNAL_ERROR:
        return FedMTLError(f"coordinator at {where} had an internal error; its log says more")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return WireError(f"{where} is no FedMTL coordinator of this version; check host, port and both versions")
    if code not in _NO_ANSWER:
        return WireError(f"coordinator at {where} answered {code.name}: {details}")
    return None


class Retry:
    """The pauses of one call. Patience runs from `since`, or from the first failure where that comes earlier.

    Args:
        target: the coordinator, for messages.
        jitter: source of the pauses' random part, so that many clients do not come back at the same moment.
        patience_seconds: how long to go on without an answer.
        since: the loop's time in seconds at which an answer is due at the latest; None for the first failure.
    """

    def __init__(
        self, target: Target, jitter: random.Random, patience_seconds: float, since: float | None = None
    ) -> None:
        self._target = target
        self._jitter = jitter
        self._patience = patience_seconds
        self._since = since
        self._failures = 0

    def answered(self) -> None:
        """An answer came: patience starts anew."""
        self._since = None
        self._failures = 0

    async def pause(self, error: grpc.aio.AioRpcError | TimeoutError) -> None:
        """Wait before the next attempt.

        Raises:
            UnreachableError: patience is at its end.
        """
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else min(self._since, now)
        left = self._since + self._patience - now
        reason, check = explain(error)
        if left <= 0:
            raise UnreachableError(
                f"coordinator at {self._target} not reachable for {self._patience:g} s: {reason}; "
                f"check {self._target.to_check(check)}"
            )
        if not self._failures:
            _LOG.warning("coordinator at %s not reachable: %s; trying for %.0f s", self._target, reason, left)
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._failures, LONGEST_PAUSE_SECONDS)
        self._failures += 1
        await asyncio.sleep(min(pause * (0.5 + self._jitter.random() / 2), left))
