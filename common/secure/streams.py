"""Masks: streams of a cipher that two members agree on, or that one member draws for itself.

The key of a stream is HKDF-SHA256 (RFC 5869) of a secret, with run, round, attempt, circle and cell in its info, so
that no two cells share one. The stream is AES-256 in counter mode from 0 on, read as little-endian integers. The secret
of two members is X25519 (RFC 7748) of one's private and the other's public key.

`cryptography` is an optional package: it is imported where it is used.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np

from common.errors import ConfigError
from common.secure.ring import Cell
from common.secure.terms import KEY_BYTES

PACKAGE = "cryptography"
BLOCK_BYTES = 128 * 1024
"""Of a stream that are made at once: they stay in the cache of a core."""

_PREFIX = b"fedmtl mask|"
_COUNTER_BYTES = 16


def require_package() -> None:
    """Check that the package is there which masks are made with.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import cryptography.hazmat.primitives.ciphers  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError(f"masked sums need the package '{PACKAGE}'; run pip install 'fedmtl[secure]'") from None


def cell_label(session: str, cell: str) -> str:
    """The label of one cell of a masked session, for `add_stream`; no two cells share one.

    Raises:
        ValueError: the cell has the sign that parts them.
    """
    if "|" in cell:
        raise ValueError(f"{cell!r} has a |")
    return f"{session}|{cell}"


def new_secret() -> bytes:
    """32 bytes of the operating system's randomness: a private key, or the seed of a member's own stream."""
    return secrets.token_bytes(KEY_BYTES)


def public_key(private: bytes) -> bytes:
    """The X25519 public key of a private one, 32 bytes.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: the key has another length.
    """
    require_package()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    _check_key(private)
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes) -> bytes:
    """The secret of two members, 32 bytes: the same from either side.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: a key has another length, or the public one is of low order, so that everybody knows the secret
            (RFC 7748, section 6.1).
    """
    require_package()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    _check_key(private)
    _check_key(public)
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ValueError("a public key is of low order") from None


def derive(secret: bytes, info: bytes) -> bytes:
    """A key of 32 bytes: HKDF-SHA256 without salt (RFC 5869).

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: the secret has another length.
    """
    require_package()
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    _check_key(secret)
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def add_stream(into: Cell, secret: bytes, label: str, *, subtract: bool = False) -> None:
    """Add the stream of a secret to a cell in place, or take it away again.

    Args:
        into: uint32 or uint64, (n,); changed.
        secret: From `agree` or `new_secret`.
        label: Of the cell, from `cell_label`.
        subtract: Take it away.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: the secret has another length, or the cell another type or shape.
    """
    _check_cell(into)
    key = derive(secret, _PREFIX + label.encode())
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    cipher = Cipher(AES(key), CTR(bytes(_COUNTER_BYTES))).encryptor()
    zeros = memoryview(bytes(BLOCK_BYTES))
    # The library asks for room for one block of the cipher more, less a byte.
    stream = bytearray(BLOCK_BYTES + _COUNTER_BYTES - 1)
    step = BLOCK_BYTES // into.itemsize
    words = np.frombuffer(stream, dtype=into.dtype.newbyteorder("<"), count=step)
    change = np.subtract if subtract else np.add
    for at in range(0, len(into), step):
        part = into[at : at + step]
        cipher.update_into(zeros[: part.nbytes], stream)
        change(part, words[: len(part)], out=part)


def check_cells(cells: Mapping[str, Cell], session: str) -> None:
    """Check all cells of a session before one of them is changed.

    Raises:
        ValueError: a cell has another type or shape than `add_stream` takes, or a name that is none.
    """
    for name, cell in cells.items():
        cell_label(session, name)
        _check_cell(cell)


def add_to_cells(cells: Mapping[str, Cell], secret: bytes, session: str, *, subtract: bool = False) -> None:
    """`add_stream` for every cell of a session by its name, each with a stream of its own.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: see `check_cells` and `add_stream`.
    """
    for name, cell in cells.items():
        add_stream(cell, secret, cell_label(session, name), subtract=subtract)


def _check_cell(cell: Cell) -> None:
    if cell.dtype not in (np.uint32, np.uint64) or cell.ndim != 1:
        raise ValueError(f"a cell is a vector of uint32 or uint64, not {cell.dtype} {cell.shape}")


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
