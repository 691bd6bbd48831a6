"""The connection to the coordinator."""

from __future__ import annotations

import logging

import grpc

from client.transport.target import Target
from common.tls import CurrentTls, TlsFiles

log = logging.getLogger("fedmtl.client")

_OPTIONS = (
    # A parked poll is silent; without pings, address translators and firewalls drop the connection.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own pause between connections grows to two minutes; ours decides.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def _is_readable(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Invalid encoding")


# gRPC reads its own message of a failed connection beyond its end, and logs a traceback about what it finds there.
logging.getLogger("grpc._cython.cygrpc").addFilter(_is_readable)


class Connection:
    """A channel to a coordinator, and another one once the TLS files were replaced.

    It connects with the first call. Without `tls` the connection is plain text.

    Raises:
        ConfigError: a TLS file is not what it should be.
    """

    def __init__(self, target: Target, tls: TlsFiles | None) -> None:
        self._target = target
        self._tls = None if tls is None else CurrentTls(tls, log)
        self._shown = None if self._tls is None else self._tls.material
        self._channels = [self._open()]

    @property
    def channel(self) -> grpc.aio.Channel:
        """For the next call."""
        return self._channels[-1]

    def renew(self) -> None:
        """Look, after a call that failed, whether the TLS files changed; calls under way keep their channel."""
        if self._tls is not None and self._tls.read_again() != self._shown:
            self._shown = self._tls.material
            self._channels.append(self._open())

    async def close(self) -> None:
        """Close all channels; calls under way are cancelled."""
        for channel in self._channels:
            await channel.close()

    def _open(self) -> grpc.aio.Channel:
        options = (*_OPTIONS, ("grpc.enable_http_proxy", int(self._target.proxy is not None)))
        if self._shown is None:
            return grpc.aio.insecure_channel(self._target.address, options=options)
        shown = self._shown
        credentials = grpc.ssl_channel_credentials(shown.authority, shown.key, shown.certificate)
        return grpc.aio.secure_channel(self._target.address, credentials, options=options)
