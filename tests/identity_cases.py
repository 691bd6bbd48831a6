"""Certificates as --mode provision makes them, for clients of a federation on loopback."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from common.config.consortium import Consortium
from common.credentials.authority import Authority, Pair
from common.credentials.files import CA, Folder, authority_of, provision
from common.tls import TlsFiles
from tests.grpc_cases import HOST

CLIENTS = ("clinic-a", "clinic-b")


def consortium(*clients: str) -> Consortium:
    body = {"tasks": ["sst2"]}
    place = {"hosts": [HOST, "localhost"], "port": 50051}
    return Consortium.model_validate({"name": "demo", "coordinator": place, "clients": dict.fromkeys(clients, body)})


def provisioned(folder: Path, *clients: str, kits: bool = True) -> Path:
    provision(consortium(*(clients or CLIENTS)), Folder(folder), kits, datetime.now(UTC))
    return folder


def of_coordinator(folder: Path) -> TlsFiles:
    return TlsFiles(folder / "coordinator.pem", folder / "coordinator.key", folder / CA)


def of_client(folder: Path, client_id: str) -> TlsFiles:
    kit = folder / "clients" / client_id
    return TlsFiles(kit / "client.pem", kit / "client.key", kit / CA)


def written(folder: Path, name: str, pair: Pair) -> TlsFiles:
    """A key and certificate that no kit has, in files."""
    (folder / f"{name}.pem").write_bytes(pair.certificate)
    (folder / f"{name}.key").write_bytes(pair.key)
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / CA)


def expired(folder: Path, client_id: str) -> TlsFiles:
    then = datetime.now(UTC) - timedelta(days=100)
    return written(folder, "expired", authority_of(Folder(folder)).client(client_id, then))


def foreign(folder: Path, client_id: str) -> TlsFiles:
    now = datetime.now(UTC)
    return written(folder, "foreign", Authority.create("strangers", now).client(client_id, now))
