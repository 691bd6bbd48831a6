"""TLS files of either side, read and checked before any connection, so that a wrong one is told in one line."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.certificates import certificates_in, ends_soon, lapse, validity
from common.errors import ConfigError


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. `certificate` and `key` show who this side is, `authority` vouches for the other side.

    A server needs certificate and key; with an authority it demands client certificates (mutual TLS). A client
    without an authority trusts the certificate authorities of its system; it needs certificate and key only for a
    server that demands them.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None


@dataclass(frozen=True)
class TlsMaterial:
    """The content of `TlsFiles`."""

    certificate: bytes | None
    key: bytes | None
    authority: bytes | None


def read_tls(files: TlsFiles) -> TlsMaterial:
    """Read the files and check that they are what they should be.

    Raises:
        ConfigError: a file is missing, unreadable or no PEM, or certificate and key do not belong together.
    """
    if (files.certificate is None) != (files.key is None):
        raise ConfigError("tls: certificate and key go together; name both files or neither")
    material = TlsMaterial(
        _read(files.certificate, "certificate"), _read(files.key, "key"), _read(files.authority, "CA certificate")
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if files.authority is not None:
        try:
            context.load_verify_locations(files.authority)
        except ssl.SSLError:
            raise ConfigError(f"tls: CA certificate {files.authority} holds no PEM certificate") from None
    if files.certificate is not None and files.key is not None:
        try:
            # An encrypted key would otherwise ask for its password on the terminal.
            context.load_cert_chain(files.certificate, files.key, password=lambda: "")
        except ssl.SSLError as error:
            raise ConfigError(_pair_problem(files, error)) from None
    return material


class CurrentTls:
    """TLS files that may be replaced at any time; those that are not in order change nothing. Threads may share it.

    Args:
        files: where they are.
        log: hears of files that were replaced, once each time.

    Raises:
        ConfigError: a file is not what it should be at the beginning.
    """

    def __init__(self, files: TlsFiles, log: logging.Logger) -> None:
        self.material = read_tls(files)
        """What was in order last."""
        self._files = files
        self._log = log
        self._seen: TlsMaterial | None = self.material
        self._lock = threading.Lock()

    def read_again(self) -> TlsMaterial:
        """The material, of the files as they are now if these are in order."""
        with self._lock:
            seen = self._on_disk()
            if seen is None or seen != self._seen:
                self._take(seen)
            return self.material

    def _on_disk(self) -> TlsMaterial | None:
        files = self._files
        try:
            certificate, key, authority = (
                None if path is None else path.read_bytes() for path in (files.certificate, files.key, files.authority)
            )
        except OSError:
            return None
        return TlsMaterial(certificate, key, authority)

    def _take(self, seen: TlsMaterial | None) -> None:
        if seen is None and self._seen is None:  # told already
            return
        try:
            found = read_tls(self._files)
        except ConfigError as error:
            self._seen = seen
            self._log.warning("%s; the files from before stay in use", error.message)
            return
        if found != seen:  # it is being written; the next look finds it whole
            return
        self._seen = seen
        if found != self.material:
            self.material = found
            self._log.info("tls: read again: %s", self._until(found))

    def _until(self, material: TlsMaterial) -> str:
        what = self._files.certificate or self._files.authority
        for der in certificates_in(material.certificate or material.authority or b"")[:1]:
            try:
                return f"{what}, valid until {validity(der)[1]:%Y-%m-%d %H:%M} UTC"
            except ValueError:
                break
        return str(what)


def lapses(files: TlsFiles, now: datetime) -> list[str]:
    """One line for each certificate that does not count now, or will not in two weeks; files that are gone have none.

    Of several certificates in a file the first one is that of this side, and any of an authority's may vouch.
    """
    found = []
    for path, what in ((files.certificate, "certificate"), (files.authority, "CA certificate")):
        held = certificates_in(path.read_bytes()) if path is not None and path.is_file() else []
        told = [lapse(der, now) or ends_soon(der, now) for der in held]
        words = next(iter(told), None) if what == "certificate" else told[0] if told and all(told) else None
        if words is not None:
            found.append(f"tls: {what} {path} {words}; renew it, or check the clock of this machine")
    return found


def _read(path: Path | None, what: str) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"tls: cannot read {what} {path}: {error.strerror}; check the path and its rights") from None


def _pair_problem(files: TlsFiles, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"tls: key {files.key} does not belong to certificate {files.certificate}"
    return f"tls: certificate {files.certificate} or key {files.key} is no PEM file without password"
