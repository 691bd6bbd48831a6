"""The connection to the coordinator."""

from __future__ import annotations

import logging

import grpc

from client.transport.target import Target
from common.tls import TlsFiles, read_tls

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


def open_channel(target: Target, tls: TlsFiles | None) -> grpc.aio.Channel:
    """A channel to a coordinator; it connects with the first call. Without `tls` the connection is plain text.

    Raises:
        ConfigError: a TLS file is not what it should be.
    """
    options = (*_OPTIONS, ("grpc.enable_http_proxy", int(target.proxy is not None)))
    if tls is None:
        return grpc.aio.insecure_channel(target.address, options=options)
    material = read_tls(tls)
    credentials = grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)
    return grpc.aio.secure_channel(target.address, credentials, options=options)
