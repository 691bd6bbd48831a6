"""When certificates are valid: enough of X.509 to tell an expired one from one that nobody vouches for."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

CLIENT_URI = "fedmtl:client/"
"""Begins the name, a URI, of a certificate that is for a client; its id follows."""
WARNING = timedelta(days=14)
"""So long before the end of a certificate somebody should hear of it."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0


def certificates_in(pem: bytes) -> list[bytes]:
    """The certificates of a PEM file in DER, in their order; those that are no base64 are left out."""
    found = []
    for block in _PEM.findall(pem):
        try:
            found.append(ssl.PEM_cert_to_DER_cert(block.decode("ascii")))
        except ValueError:
            continue
    return found


def validity(der: bytes) -> tuple[datetime, datetime]:
    """From when until when a certificate is valid. Source: RFC 5280, section 4.1.

    Raises:
        ValueError: the bytes are no certificate.
    """
    try:
        _, certificate = next(_elements(der))
        _, body = next(_elements(certificate))
        fields = [content for tag, content in _elements(body) if tag != _VERSION]
        first, last = (
            _moment(tag, content) for tag, content in _elements(fields[3])
        )  # after serial, algorithm, issuer
    except (StopIteration, IndexError) as error:
        raise ValueError("no certificate") from error
    return first, last


def lapse(der: bytes, now: datetime) -> str | None:
    """Why a certificate does not count at a moment, in a few words; None where it does, or cannot be read."""
    try:
        first, last = validity(der)
    except ValueError:
        return None
    if now > last:
        return f"expired on {last:%Y-%m-%d %H:%M} UTC"
    return f"is not valid before {first:%Y-%m-%d %H:%M} UTC" if now < first else None


def ends_soon(der: bytes, now: datetime) -> str | None:
    """How soon a certificate ends, if that is within `WARNING`."""
    try:
        first, last = validity(der)
    except ValueError:
        return None
    left = last - now
    return (
        f"expires on {last:%Y-%m-%d %H:%M} UTC, in {left.days} days" if first <= now <= last < now + WARNING else None
    )


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of DER one after the other: tag and content."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("an element is longer than what holds it")
        yield tag, data[at : at + length]
        at += length


def _moment(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
