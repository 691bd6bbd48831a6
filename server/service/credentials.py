"""The coordinator's side of TLS."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import grpc

from common.errors import ConfigError
from common.tls import TlsFiles, lapses, read_tls

WATCH_SECONDS = 3600.0

log = logging.getLogger("fedmtl.server")


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials from PEM files; with `files.authority`, clients must show a certificate that it signed.

    Raises:
        ConfigError: a file is missing or not what it should be.
    """
    material = read_tls(files)
    if material.certificate is None or material.key is None:
        raise ConfigError("tls: a server needs a certificate and its key")
    return grpc.ssl_server_credentials(
        [(material.key, material.certificate)], material.authority, material.authority is not None
    )


async def watch_certificates(files: TlsFiles) -> None:
    """Warn of certificates that have lapsed or will soon, at once and whenever that changes, until cancelled."""
    told: set[str] = set()
    while True:
        lines = lapses(files, datetime.now(UTC))
        for line in lines:
            if line not in told:
                log.warning("%s", line)
        told = set(lines)
        await asyncio.sleep(WATCH_SECONDS)
