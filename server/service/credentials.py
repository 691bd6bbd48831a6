"""The coordinator's side of TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import grpc

from common.errors import ConfigError
from common.tls import CurrentTls, TlsFiles, TlsMaterial, lapses

WATCH_SECONDS = 60.0

log = logging.getLogger("fedmtl.server")


class ServerCertificates:
    """Key, certificate and authority of a server, read again for every new connection.

    Raises:
        ConfigError: a file is missing or not what it should be.
    """

    def __init__(self, files: TlsFiles) -> None:
        if files.certificate is None and files.key is None:
            raise ConfigError("tls: a server needs a certificate and its key")
        self.mutual = files.authority is not None
        """Whether clients must show a certificate that the authority signed."""
        self._files = files
        self._current = CurrentTls(files, log)
        self._given = self._current.material

    def credentials(self) -> grpc.ServerCredentials:
        """For a port; its next connections see what the files hold then, those that are open stay."""
        # The stubs of gRPC do not know that None stands for no change.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._fetch)
        return grpc.dynamic_ssl_server_credentials(_configuration(self._given), fetch, self.mutual)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called in a thread of gRPC before each handshake; None stands for no change."""
        material = self._current.read_again()
        if material == self._given:
            return None
        self._given = material
        return _configuration(material)

    async def watch(self) -> None:
        """Tell of files that changed, and of certificates that have lapsed or will soon, until cancelled."""
        told: set[str] = set()
        while True:
            lines = lapses(self._files, datetime.now(UTC))
            for line in lines:
                if line not in told:
                    log.warning("%s", line)
            told = set(lines)
            await asyncio.sleep(WATCH_SECONDS)
            self._current.read_again()


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    assert material.key is not None and material.certificate is not None
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.authority)
