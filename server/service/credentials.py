"""The coordinator's side of TLS."""

from __future__ import annotations

import grpc

from common.errors import ConfigError
from common.tls import TlsFiles, read_tls


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
