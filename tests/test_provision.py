"""Keys and certificates of a federation: what is written, for whom it can be read, and who signs what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.config import load_config
from common.tls import read_tls
from federated_main import main
from tests.grpc_cases import JOIN, Memory, client, run, served
from tests.identity_cases import of_client, of_coordinator
from tests.processes import log_given_back

CONSORTIUM = """name: demo
coordinator: {hosts: [127.0.0.1, localhost]}
clients:
  clinic-a: {tasks: [sst2, qqp]}
  clinic-b: {tasks: [sst2]}
"""


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with log_given_back():
        yield


@pytest.fixture
def who(tmp_path: Path) -> str:
    path = tmp_path / "consortium.yaml"
    path.write_text(CONSORTIUM)
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    assert main(["--mode", *arguments]) == code
    out, err = capsys.readouterr()
    return [line for line in (err if code else out).splitlines() if code == 0 or line.startswith("error: ")]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


KIT = ("ca.pem", "client.key", "client.pem", "client.yaml")
OF_AUTHORITY = {"ca.key", "ca.pem", "coordinator.key", "coordinator.pem"}


def test_kits_are_whole_and_their_keys_are_nobody_elses(
    tmp_path: Path, who: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tls"
    lines = said(capsys, "provision", "--out", str(out), "--kits", who)
    expected = {f"clients/{name}/{file}" for name in ("clinic-a", "clinic-b") for file in KIT}
    assert files(out) == OF_AUTHORITY | expected
    written = {re.sub(r"^written: |, for this account alone$", "", line) for line in lines if "written: " in line}
    assert written == {str(out / name) for name in files(out)}
    for path in out.rglob("*.*"):
        if path.is_file():
            assert path.stat().st_mode & 0o777 == (0o600 if path.suffix == ".key" else 0o644), path
    for found in (of_coordinator(out), of_client(out, "clinic-a")):
        read_tls(found)
    kit = out / "clients" / "clinic-a" / "client.yaml"
    section = load_config(kit, ["tasks={sst2: {}}"], "client").client
    assert (section.server, section.tls.certificate) == ("127.0.0.1:50051", "client.pem")
    assert "--client_id clinic-a --tasks sst2,qqp" in kit.read_text()
    (tmp_path / "server.yaml").write_text("\n".join([*lines[lines.index("server:") :], "tasks: {sst2: {}, qqp: {}}"]))
    assert load_config(tmp_path / "server.yaml", role="server").server.tls.client_ca == str(out / "ca.pem")
    listed = load_config(tmp_path / "server.yaml").server.clients
    assert listed is not None and {name: one.tasks for name, one in listed.items()} == {
        "clinic-a": ("sst2", "qqp"),
        "clinic-b": ("sst2",),
    }


def test_certificates_serve_one_end_for_ninety_days(
    tmp_path: Path, who: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tls"
    said(capsys, "provision", "--out", str(out), "--kits", who)
    for path, purpose in (
        (out / "coordinator.pem", ExtendedKeyUsageOID.SERVER_AUTH),
        (out / "clients" / "clinic-a" / "client.pem", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        found = certificate(path)
        assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        left = found.not_valid_after_utc - datetime.now(UTC)
        assert timedelta(days=89) < left <= timedelta(days=90)
        found.verify_directly_issued_by(certificate(out / "ca.pem"))
    names = certificate(out / "coordinator.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(found) for found in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_what_is_there_stays_until_somebody_says_otherwise(
    tmp_path: Path, who: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tls"
    again = ("provision", "--out", str(out), "--kits", who)
    said(capsys, *again)
    before = {name: (out / name).read_bytes() for name in files(out)}
    Path(who).write_text(CONSORTIUM + "  clinic-c: {tasks: [sst2]}\n")
    lines = said(capsys, *again)
    assert f"kept: {out / 'coordinator.key'}" in lines
    assert {name: (out / name).read_bytes() for name in before} == before
    assert files(out) - set(before) == {f"clients/clinic-c/{file}" for file in KIT}
    said(capsys, *again, "--renew")
    changed = {name for name in before if (out / name).read_bytes() != before[name]}
    assert {"coordinator.pem", "coordinator.key", "clients/clinic-a/client.pem"} <= changed
    assert not {"ca.pem", "ca.key"} & changed


def test_a_site_makes_its_key_and_gets_a_certificate(
    tmp_path: Path, who: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, site = tmp_path / "tls", tmp_path / "site"
    said(capsys, "provision", "--out", str(out), who)
    assert files(out) == OF_AUTHORITY | {"invitations/clinic-a.yaml", "invitations/clinic-b.yaml"}
    asked = said(capsys, "enrol", "--out", str(site), str(out / "invitations" / "clinic-a.yaml"))
    assert files(site) == {"ca.pem", "client.key", "client.csr", "client.yaml"}
    assert (site / "client.key").stat().st_mode & 0o777 == 0o600
    signed = said(capsys, "provision", "--out", str(out), "--sign", str(site / "client.csr"), who)
    (key,) = [line for line in asked if line.startswith("key of clinic-a: SHA-256 ")]
    assert key in signed
    (again,) = said(capsys, "provision", "--out", str(out), "--sign", str(site / "client.csr"), who, code=2)
    assert "clinic-a.pem' exists; add --renew" in again
    (twice,) = said(capsys, "enrol", "--out", str(site), str(out / "invitations" / "clinic-b.yaml"), code=2)
    assert "client.key' exists; name another folder" in twice
    (site / "client.pem").write_bytes((out / "signed" / "clinic-a.pem").read_bytes())

    async def joined() -> None:
        paths = of_client(out, "clinic-a")
        paths = type(paths)(site / "client.pem", site / "client.key", site / "ca.pem")
        async with (
            served(Memory(), tls=of_coordinator(out)) as server,
            client(server.port_number, 0.3, paths) as coordinator,
        ):
            assert (await coordinator.join(JOIN)).session.client_id == "clinic-a"

    run(joined())


def request_of(name: str, path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    path.write_bytes(made.public_bytes(Encoding.PEM))
    return str(path)


def test_requests_that_are_wrong_are_not_signed(tmp_path: Path, who: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, key = tmp_path / "tls", ec.generate_private_key(ec.SECP256R1())
    sign = ("provision", "--out", str(out), who, "--sign")
    (none,) = said(capsys, *sign, request_of("clinic-a", tmp_path / "good.csr", key), code=2)
    assert "holds no authority" in none
    said(capsys, "provision", "--out", str(out), who)
    flipped = bytearray(x509.load_pem_x509_csr((tmp_path / "good.csr").read_bytes()).public_bytes(Encoding.DER))
    flipped[-1] ^= 1
    forged = tmp_path / "forged.csr"
    forged.write_bytes(x509.load_der_x509_csr(bytes(flipped)).public_bytes(Encoding.PEM))
    large = rsa.generate_private_key(65537, 2048)
    for request, words in (
        (who, "no request for a certificate"),
        (str(tmp_path / "gone.csr"), "cannot be read"),
        (str(forged), "not signed with its own key"),
        (request_of("clinic-z", tmp_path / "z.csr", key), "'clinic-z' is no client of this consortium"),
        (request_of("clinic-a", tmp_path / "rsa.csr", large), "another key than ECDSA on P-256"),
    ):
        (line,) = said(capsys, *sign, request, code=2)
        assert words in line
    assert not (out / "signed").exists()


def test_every_problem_of_a_consortium_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "who.yaml"
    path.write_text("nam: demo\ncoordinator: {host: [a]}\nclients: {../a: {tasks: []}}\n")
    lines = said(capsys, "provision", "--out", str(tmp_path / "tls"), str(path), code=2)
    for words in (
        "name: missing; add it",
        "nam: unknown key; did you mean 'name'?",
        "coordinator.host: unknown key; did you mean 'hosts'?",
        "clients.../a: '../a' is not a client id",
    ):
        assert any(f"{path}: {words}" in line for line in lines), (words, lines)
    assert not (tmp_path / "tls").exists()
    for text, words in (("- a", "not a mapping"), ("a: [", "name the file of")):
        path.write_text(text)
        (line,) = said(capsys, "enrol", "--out", str(tmp_path / "site"), str(path), code=2)
        assert words in line
