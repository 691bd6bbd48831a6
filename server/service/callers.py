"""Who calls: what a verified certificate says, against the client that a message speaks for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar
from urllib.parse import unquote

import grpc

from common.certificates import CLIENT_URI
from common.errors import Reason, Refused
from common.log_fields import about
from common.orders import JoinRequest, Session
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
from server.service.pace import Paces

QUIET_SECONDS = 1.0
"""A caller that is refused again and again is told of once in so long."""

Q = TypeVar("Q")
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

log = logging.getLogger("fedmtl.server")


@dataclass(frozen=True)
class Caller:
    """Somebody at the other end of a connection: an address, and the names in a certificate that was verified.

    Without mutual TLS nobody shows one; then `names` is None, and a caller is whom it says.
    """

    address: str
    names: frozenset[str] | None = None

    @classmethod
    def of(cls, peer: str, shown: Mapping[str, Iterable[bytes]] | None) -> Caller:
        """From what gRPC says of a connection; `shown` is what the certificate says, None without mutual TLS."""
        address = unquote(peer.removeprefix("ipv4:").removeprefix("ipv6:"))
        return cls(address, None if shown is None else _names(shown))

    def __str__(self) -> str:
        """The address, and whose certificate it is, if there is one."""
        names = "" if self.names is None else f" with the certificate of '{', '.join(sorted(self.names)) or 'nobody'}'"
        return f"{self.address}{names}"


def _names(shown: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """The clients that a certificate is for: by its URIs, else by its host names, else by its common name."""
    found = {
        key: [value.decode("utf-8", "replace") for value in shown.get(key, ())]
        for key in ("peer_uri", "peer_dns", "x509_common_name")
    }
    by_uri = [name.removeprefix(CLIENT_URI) for name in found["peer_uri"] if name.startswith(CLIENT_URI)]
    return frozenset(by_uri or found["peer_dns"] or found["x509_common_name"])


def client_of(request: object) -> str | None:
    """The client that a message speaks for; None where it speaks for none, as a question about the federation."""
    match request:
        case JoinRequest() | Session() | WithdrawCall():
            return request.client_id
        case PollCall() | FetchCall() | TokenizerCall() | UploadStart() | OrderCall() | HeartbeatCall() | FailureCall():
            return request.session.client_id
        case None | str():
            return None
        case _:
            raise TypeError(f"nobody knows for whom a {type(request).__name__} speaks")


@dataclass
class Doorkeeper:
    """Lets callers speak for the clients of their certificates alone, and tells of others, and of places that change.

    Args:
        mutual: whether callers show certificates; else a caller is whom it says.
        now: seconds on a scale that only moves forward.
    """

    mutual: bool
    now: Callable[[], float] = time.monotonic
    paces: Paces = field(default_factory=lambda: Paces(time.monotonic))
    """How many calls there may be of each kind."""
    _told: dict[frozenset[str], float] = field(default_factory=dict)
    _places: dict[str, str] = field(default_factory=dict)

    def caller(self, context: Context) -> Caller:
        """Who calls."""
        return Caller.of(context.peer(), context.auth_context() if self.mutual else None)

    def admitted(self, request: Q, caller: Caller) -> Q:
        """The message, once it is clear that its caller may send it.

        Raises:
            Refused: it speaks for a client that the caller's certificate is not of.
        """
        client = client_of(request)
        if client is None or caller.names is None or client in caller.names:
            return request
        if self.now() - self._told.get(caller.names, float("-inf")) >= QUIET_SECONDS:
            self._told[caller.names] = self.now()
            fields = about(event="caller_refused", client=client, reason=Reason.OTHER_IDENTITY.value)
            log.warning("refused: %s speaks for client '%s'", caller, client, extra=fields)
        remedy = "name the client that it was made for with --client_id"
        raise Refused(Reason.OTHER_IDENTITY, f"this certificate is not that of client '{client}'; {remedy}")

    def note(self, request: object, caller: Caller) -> None:
        """Note what was done for a caller: who joins in a place that somebody holds is told of."""
        match request:
            case JoinRequest(client_id=client):
                before = self._places.get(client)
                self._places[client] = caller.address
                if before not in (None, caller.address):
                    fields, text = about(event="place_taken", client=client), "client %s joined from %s, in place of %s"
                    log.warning(text, client, caller, before, extra=fields)
            case Session(client_id=client):  # it leaves
                self._places.pop(client, None)
