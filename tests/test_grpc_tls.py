"""TLS between service and transport: who trusts whom, and what is said where it does not fit."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import certificates_in, lapse, validity
from common.errors import ConfigError, UnreachableError
from common.tls import TlsFiles, lapses
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


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("days", "said_there", "said_here"),
    [
        (
            (-60, -30),
            "certificate .* expired on",
            "its certificate expired on .* UTC; check the cert",
        ),
        ((30, 60), "certificate .* is not valid before", "its certificate is not valid before .* UTC; check the cert"),
        ((-60, 10), r"certificate .* expires on .* UTC, in \d+ days; renew it", None),
        ((-60, 30), None, None),
    ],
)
def test_certificates_out_of_their_time_are_called_that(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    days: tuple[int, int],
    said_there: str | None,
    said_here: str | None,
) -> None:
    now = datetime.now(UTC)
    ours = trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = ours.issue_cert(HOST, not_before=now + days[0] * DAY, not_after=now + days[1] * DAY)
    issued.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    with caplog.at_level(logging.WARNING, "fedmtl"):
        if said_here is None:
            run(join_over_tls(pair(tmp_path, "server", None), TlsFiles(authority=tmp_path / "ca.pem")))
        else:
            with pytest.raises(UnreachableError, match=said_here):
                run(join_over_tls(pair(tmp_path, "server", None), TlsFiles(authority=tmp_path / "ca.pem")))
    warned = [record.getMessage() for record in caplog.records if record.getMessage().startswith("tls:")]
    assert len(warned) == (said_there is not None), warned
    assert said_there is None or re.search(said_there, warned[0])


def test_an_authority_out_of_its_time_is_called_that(tmp_path: Path, pem: Path) -> None:
    now = datetime.now(UTC)
    old = trustme.CA()
    issued = old.issue_cert("elsewhere.example", not_before=now - 60 * DAY, not_after=now - 30 * DAY)
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "old.pem"))
    files = TlsFiles(authority=tmp_path / "old.pem")
    assert "CA certificate" in lapses(files, now)[0]
    with pytest.raises(UnreachableError, match=r"the given CA certificate expired on .*; check the CA file"):
        run(join_over_tls(pair(pem, "server", None), files))
    both = (tmp_path / "old.pem").read_bytes() + (pem / "ca.pem").read_bytes()
    (tmp_path / "both.pem").write_bytes(both)
    assert lapses(TlsFiles(authority=tmp_path / "both.pem"), now) == []


def test_dates_are_read_as_the_library_reads_them(pem: Path) -> None:
    for name in ("ca", "server", "strangers"):
        path = pem / f"{name}.pem"
        expected = x509.load_pem_x509_certificate(path.read_bytes())
        (der,) = certificates_in(path.read_bytes())
        assert validity(der) == (expected.not_valid_before_utc, expected.not_valid_after_utc)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_give_dates_or_none(pem: Path, data: st.DataObject) -> None:
    (der,) = certificates_in((pem / "server.pem").read_bytes())
    at = data.draw(st.integers(0, 200))
    damaged = der[:at] + data.draw(st.binary(max_size=8)) + der[at + data.draw(st.integers(0, 8)) :]
    try:
        first, last = validity(damaged)
    except ValueError:
        assert lapse(damaged, datetime.now(UTC)) is None
    else:
        assert first.tzinfo is last.tzinfo is UTC
