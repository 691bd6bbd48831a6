"""The coordinator's gRPC server: options, port and lifecycle."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import grpc

from common.errors import ConfigError
from common.ports import CoordinatorPort
from common.tls import TlsFiles
from server.service.connections import MOST_CONNECTIONS, connection_options
from server.service.credentials import ServerCertificates
from server.service.handlers import Router

_OPTIONS = (
    # Without this a second coordinator on the same port would share its calls instead of failing.
    ("grpc.so_reuseport", 0),
    # Find clients that vanished without a word, and keep the entries of address translators alive.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Of one connection; further calls wait at the caller.
    ("grpc.max_concurrent_streams", 100),
)


@dataclass(frozen=True)
class RunningServer:
    """A server that answers. `port_number` is the one really used."""

    server: grpc.aio.Server
    port_number: int
    watch: asyncio.Task[None] | None = None

    async def stop(self, grace: float) -> None:
        """Take no more calls, give running ones `grace` seconds, then cancel them."""
        if self.watch is not None:
            self.watch.cancel()
        await self.server.stop(grace)


def require_free(host: str, number: int) -> None:
    """Check that a server could listen here, before anything is written for it.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
    except OSError as error:
        raise _unusable(host, number) from error


def _unusable(host: str, number: int) -> ConfigError:
    return ConfigError(
        f"cannot listen on {host}:{number}: another program uses the port, or the host is not this machine; "
        "stop that program or choose another port"
    )


async def start_server(
    port: CoordinatorPort, host: str, number: int, tls: TlsFiles | None, connections: int = MOST_CONNECTIONS
) -> RunningServer:
    """Serve `port` on `host`:`number`; number 0 takes any free one. Without `tls` the connection is plain text.

    With `tls.authority` clients show certificates, and each may speak for itself alone. New connections see files that
    were replaced. More than `connections` at a time are closed as soon as they come.

    Raises:
        ConfigError: the address cannot be used, or a TLS file is not what it should be.
    """
    shown, options = None if tls is None else ServerCertificates(tls), _OPTIONS + connection_options(host, connections)
    server = grpc.aio.server(handlers=[Router(port, shown is not None and shown.mutual)], options=options)
    address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
    try:
        if shown is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, shown.credentials())
    except RuntimeError:
        bound = 0
    if not bound:
        raise _unusable(host, number)
    await server.start()
    return RunningServer(server, bound, None if shown is None else asyncio.create_task(shown.watch()))
