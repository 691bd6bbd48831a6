"""Keys, certificates and what belongs to them as files: of the authority, of the coordinator, of every client."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from common.config.consortium import Consortium, ConsortiumClient, Invitation
from common.config.yaml_text import dump
from common.credentials.authority import Authority, Pair, ask, read_request
from common.errors import ConfigError

CA, CA_KEY = "ca.pem", "ca.key"
CERTIFICATE, KEY, REQUEST, SETTINGS = "client.pem", "client.key", "client.csr", "client.yaml"
COORDINATOR, COORDINATOR_KEY = "coordinator.pem", "coordinator.key"


@dataclass
class Folder:
    """Where files are written, whole or not at all, and none in place of another unless that is asked for."""

    path: Path
    renew: bool = False
    """Whether files that are there are written anew."""
    told: list[str] = field(default_factory=list)
    """One line for each file."""

    def missing(self, *names: str) -> bool:
        """Whether these files are to be written; where all of them are there and stay, each has a line."""
        if self.renew or not all((self.path / name).exists() for name in names):
            return True
        self.told += [f"kept: {self.path / name}" for name in names]
        return False

    def write(self, name: str, content: bytes, secret: bool = False) -> None:
        """Write a file; a secret one for this account alone.

        Raises:
            ConfigError: the disk does not take it.
        """
        path = self.path / name
        aside = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(aside, flags, 0o600 if secret else 0o644), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(path)
        except OSError as error:
            raise ConfigError(f"--out: '{path}' cannot be written ({error.strerror}); choose another place") from None
        self.told.append(f"written: {path}{', for this account alone' if secret else ''}")

    def read(self, name: str) -> bytes:
        """What is in a file.

        Raises:
            ConfigError: it cannot be read.
        """
        return read_file(self.path / name, f"--out: '{self.path}' holds no authority; make one with --mode provision")


def read_file(path: Path, remedy: str) -> bytes:
    """What is in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None


def provision(consortium: Consortium, folder: Folder, kits: bool, now: datetime) -> None:
    """Write the authority, the coordinator's certificate, and for each client a kit or an invitation.

    Args:
        consortium: who takes part.
        folder: where to write; what is there already stays, the authority always.
        kits: make the clients' keys here, too, for a trial. Else each site makes its own.
        now: from when certificates are valid.

    Raises:
        ConfigError: the folder cannot be written, or what is in it is no authority.
    """
    if not (folder.path / CA_KEY).exists():
        made = Authority.create(consortium.name, now).pair
        folder.write(CA, made.certificate)
        folder.write(CA_KEY, made.key, secret=True)
    authority = authority_of(folder)
    if folder.missing(COORDINATOR_KEY, COORDINATOR):
        pair = authority.coordinator(consortium.coordinator.hosts, now)
        folder.write(COORDINATOR_KEY, pair.key, secret=True)
        folder.write(COORDINATOR, pair.certificate)
    for client_id, client in consortium.clients.items():
        invitation = _invitation(consortium, client_id, client, authority)
        if kits and folder.missing(f"clients/{client_id}/{KEY}", f"clients/{client_id}/{CERTIFICATE}"):
            pair = authority.client(client_id, now)
            _write_kit(folder, f"clients/{client_id}/", invitation, pair.key)
            folder.write(f"clients/{client_id}/{CERTIFICATE}", pair.certificate)
        elif not kits and folder.missing(f"invitations/{client_id}.yaml"):
            folder.write(f"invitations/{client_id}.yaml", invitation.text().encode())


def sign(consortium: Consortium, folder: Folder, request: bytes, now: datetime) -> str:
    """Write the certificate that a site asks for; the key's fingerprint, to compare with the site's.

    Raises:
        ConfigError: the request is none, nobody knows the client, or it has a certificate.
    """
    found, authority = read_request(request), authority_of(folder)
    if found.client_id not in consortium.clients:
        known = ", ".join(consortium.clients)
        raise ConfigError(f"--sign: '{found.client_id[:80]}' is no client of this consortium; it has {known}")
    name = f"signed/{found.client_id}.pem"
    if not folder.missing(name):
        raise ConfigError(f"--sign: '{folder.path / name}' exists; add --renew to write another certificate")
    folder.write(name, authority.sign(found, now))
    return f"key of {found.client_id}: SHA-256 {found.fingerprint}"


def enrol(invitation: Invitation, folder: Folder) -> str:
    """Make a site's key and its request; the key's fingerprint, to compare with what the authority sees.

    Raises:
        ConfigError: there is a key already, or the folder cannot be written.
    """
    if not folder.missing(KEY):
        raise ConfigError(f"--out: '{folder.path / KEY}' exists; name another folder, or add --renew for another key")
    key, request, read = ask(invitation.client_id)
    _write_kit(folder, "", invitation, key)
    folder.write(REQUEST, request)
    return f"key of {invitation.client_id}: SHA-256 {read.fingerprint}"


def authority_of(folder: Folder) -> Authority:
    """The authority in a folder.

    Raises:
        ConfigError: there is none.
    """
    return Authority.read(Pair(folder.read(CA_KEY), folder.read(CA)))


def server_settings(consortium: Consortium, folder: Path) -> str:
    """What the coordinator's configuration needs, YAML."""
    files = {"certificate": COORDINATOR, "key": COORDINATOR_KEY, "client_ca": CA}
    tls = {key: str(folder / name) for key, name in files.items()}
    clients = {name: client.model_dump(mode="json") for name, client in consortium.clients.items()}
    return dump({"server": {"host": "0.0.0.0", "port": consortium.coordinator.port, "tls": tls, "clients": clients}})


def _invitation(consortium: Consortium, client_id: str, client: ConsortiumClient, authority: Authority) -> Invitation:
    return Invitation(
        name=consortium.name,
        server=consortium.address,
        client_id=client_id,
        tasks=client.tasks,
        ca=authority.pair.certificate.decode("ascii"),
    )


def _write_kit(folder: Folder, place: str, invitation: Invitation, key: bytes) -> None:
    """What a client needs besides its certificate."""
    folder.write(place + KEY, key, secret=True)
    folder.write(place + CA, invitation.ca.encode())
    files = {"ca": CA, "certificate": CERTIFICATE, "key": KEY}
    settings = {"server": invitation.server, "tls": files}
    command = f"--client_id {invitation.client_id} --tasks {','.join(invitation.tasks)}"
    text = f"# Paths start from this folder. Start the client here with {command}\n{dump({'client': settings})}"
    folder.write(place + SETTINGS, text.encode())
