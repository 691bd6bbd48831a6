"""The coordinator that a configuration names."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from client.transport.grpc_port import GrpcCoordinator
from common.config import Config
from common.tls import TlsFiles, lapses

log = logging.getLogger("fedmtl.client")


def open_port(config: Config, client_id: str, patience_seconds: float) -> GrpcCoordinator:
    """The coordinator that the configuration names, over gRPC; call it inside a running event loop.

    Raises:
        ConfigError: a TLS file is not what it should be.
    """
    section = config.client
    files = TlsFiles(
        *(Path(name) if name else None for name in (section.tls.certificate, section.tls.key, section.tls.ca))
    )
    host, _, number = section.server.rpartition(":")
    plain = section.tls.ca is None
    for line in lapses(files, datetime.now(UTC)):
        log.warning("%s", line)
    return GrpcCoordinator(host.strip("[]"), int(number), None if plain else files, client_id, patience_seconds)
