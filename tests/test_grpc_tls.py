"""TLS between service and transport: who trusts whom, and what is said where it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from common.errors import ConfigError, UnreachableError
from common.tls import TlsFiles
from tests.grpc_cases import HOST, JOIN, Memory, client, run, served


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA, certificates of a server, a client and another host, and a CA of strangers."""
    folder = tmp_path_factory.mktemp("pem")
    ours, strangers = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    strangers.cert_pem.write_to_path(str(folder / "strangers.pem"))
    for name, authority, host in (
        ("server", ours, HOST),
        ("client", ours, "clinic-a"),
        ("elsewhere", ours, "elsewhere.example"),
        ("stranger", strangers, "clinic-a"),
    ):
        issued = authority.issue_cert(host)
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    return folder


def pair(pem: Path, name: str, authority: str | None = "ca") -> TlsFiles:
    return TlsFiles(pem / f"{name}.pem", pem / f"{name}.key", pem / f"{authority}.pem" if authority else None)


async def join_over_tls(server_files: TlsFiles | None, client_files: TlsFiles | None) -> None:
    async with (
        served(Memory(), tls=server_files) as server,
        client(server.port_number, 0.3, client_files) as coordinator,
    ):
        await coordinator.join(JOIN)


def test_tls_with_and_without_client_certificates(pem: Path) -> None:
    only_ca = TlsFiles(authority=pem / "ca.pem")
    run(join_over_tls(pair(pem, "server", None), only_ca))
    run(join_over_tls(pair(pem, "server"), pair(pem, "client")))


@pytest.mark.parametrize(
    ("server_name", "demands", "client_name", "authority", "said"),
    [
        (
            "server",
            None,
            None,
            "strangers",
            "not reachable: its certificate is not signed by the given CA; check the CA",
        ),
        ("elsewhere", None, None, "ca", "not reachable: its certificate is for another host name; check the host name"),
        (None, None, None, "ca", "not reachable: it speaks plain text, not TLS; check that both"),
        ("server", None, None, None, "for 0.3 s: the connection was closed; check that both sides use TLS"),
        ("server", "ca", None, "ca", "for 0.3 s: the connection was closed; check .* client certificate"),
        ("server", "ca", "stranger", "ca", "for 0.3 s: the connection was closed; check .* client certificate"),
    ],
)
def test_tls_that_does_not_fit_is_explained(
    pem: Path, server_name: str, demands: str, client_name: str, authority: str, said: str
) -> None:
    server_files = pair(pem, server_name, demands) if server_name else None
    client_files = TlsFiles(authority=pem / f"{authority}.pem") if authority else None
    if client_name:
        client_files = pair(pem, client_name, authority)
    with pytest.raises(UnreachableError, match=said):
        run(join_over_tls(server_files, client_files))


def test_tls_files_that_are_wrong_are_named(pem: Path) -> None:
    async def started(files: TlsFiles) -> None:
        async with served(Memory(), tls=files):
            pass

    server = pair(pem, "server", None)
    for files, said in (
        (replace(server, key=None), "certificate and key go together"),
        (TlsFiles(authority=pem / "ca.pem"), "a server needs a certificate"),
        (replace(server, key=pem / "client.key"), "client.key does not belong to certificate"),
        (replace(server, key=pem / "gone.key"), "cannot read key .*gone.key: No such file"),
        (replace(server, certificate=pem / "server.key"), "is no PEM file"),
        (replace(server, authority=pem / "server.key"), "CA certificate .*server.key holds no PEM certificate"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(started(files))
