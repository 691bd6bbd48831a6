"""Gaussian noise that is a keyed function of what it hides.

Who closes a round again with the same sum draws the same noise; another sum of the same round gets independent noise,
else two versions of it would differ by exactly what changed. Nobody without the key can guess it, and no generator has
a state that a crash could lose.

The stream is AES-256 in counter mode, two normals per block of the cipher, so that any part of it can be computed
alone. `cryptography` is an optional package: it is imported where noise is drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ConfigError
from common.parameters.vector import Float64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

PACKAGE = "cryptography"
KEY_BYTES = 32
DIGEST_BYTES = 32
GRID_BITS = 16
"""The grid is so many powers of two finer than the noise's standard deviation."""
LEAST_STD, MOST_STD = 1e-200, 1e200
BLOCK = 16_384
"""Values that are drawn at once: their arrays stay in the cache of a core."""

_PREFIX = b"fedmtl noise|"
_CIPHER_BYTES = 16
_PER_CIPHER_BLOCK = 2
_UNIT = 2.0**-53


def require_package() -> None:
    """Check that the package is there which noise is made with.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import cryptography.hazmat.primitives.ciphers  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError(
            f"privacy.noise needs the package '{PACKAGE}'; run pip install 'fedmtl[secure]', or write none"
        ) from None


def label_of(run: str, round_number: int, scope: str, row: str | int = "") -> str:
    """The label of one cell of one round, for `derive`; no two cells share one.

    Raises:
        ValueError: a part has the sign that parts them.
    """
    parts = [run, str(round_number), scope, str(row)]
    if any("|" in part for part in parts):
        raise ValueError(f"a part of {parts} has a |")
    return "|".join(parts)


def digest_of(blocks: Iterable[Float64]) -> bytes:
    """SHA-256 of a sum's bytes, float64 and little-endian; it does not matter where blocks begin, only their order."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(np.ascontiguousarray(block, dtype="<f8").data)
    return digest.digest()


def derive(key: bytes, label: str, digest: bytes) -> bytes:
    """The key of one stream of noise: HKDF-SHA256 without salt (RFC 5869).

    Its info is "fedmtl noise|", the label, "|" and the digest. Since a digest has a fixed length, no two pairs of label
    and digest give the same info.

    Args:
        key: The secret, 32 bytes of the operating system's randomness.
        label: Where the noise goes, from `label_of`.
        digest: SHA-256 of the sum that it hides, from `digest_of`.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: key or digest have another length.
    """
    require_package()
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    _check_key(key)
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
    info = _PREFIX + label.encode() + b"|" + digest
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


def normals(key: bytes, count: int) -> Float64:
    """The first `count` standard normals of a key's stream, (count,): the first of more are the same.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: the key has another length, or the count is negative.
    """
    found = np.empty(count)
    for at, block in _stream(key, 0, count):
        found[at : at + len(block)] = block
    return found


def grid_of(std: float) -> float:
    """The distance of the values that a noised sum can have: 2^floor(log2(std)) 2^-16.

    It is far finer than the noise, and far coarser than the last bits of floats, which would tell what was added to
    what (Mironov 2012).

    Raises:
        ValueError: `std` is not between `LEAST_STD` and `MOST_STD`.
    """
    if not LEAST_STD <= std <= MOST_STD:
        raise ValueError(f"standard deviation: {std} is not between {LEAST_STD} and {MOST_STD}")
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - GRID_BITS)


def rounded(values: Float64, grid: float) -> Float64:
    """The nearest multiples of `grid`, a power of two, so that they are exact; halves go to the even one."""
    return np.rint(values / grid) * grid


class CellNoise:
    """The noise of one cell: adds it to the cell's sum block by block, in any order, and twice the same.

    The standard deviation is part of the stream's label: if one sum were released with two of them, equal normals would
    give it away.
    """

    def __init__(self, key: bytes, label: str, digest: bytes, std: float) -> None:
        """Derive the stream.

        Args:
            key: See `derive`.
            label: See `derive`.
            digest: See `derive`.
            std: Of the noise in every coordinate; 0 leaves sums as they are.

        Raises:
            ConfigError: `cryptography` is missing.
            ValueError: a length is wrong, or `std` is neither 0 nor between `LEAST_STD` and `MOST_STD`.
        """
        self._std = std
        self._grid = grid_of(std) if std else 0.0
        self._key = derive(key, f"{label}|{float(std).hex()}", digest) if std else b""

    def add(self, start: int, block: Float64) -> Float64:
        """The sum's elements from `start` on with their noise, rounded to the grid; a new array, (n,).

        Raises:
            ValueError: `start` is negative.
        """
        noised = np.array(block, dtype=np.float64)
        if not self._std:
            return noised
        for at, noise in _stream(self._key, start, len(noised)):
            part = noised[at : at + len(noise)]
            noise *= self._std
            part += noise
            part[:] = rounded(part, self._grid)
        return noised


def _stream(key: bytes, start: int, count: int) -> Iterator[tuple[int, Float64]]:
    """Normals `start` to `start + count` of a key's stream: places from 0 on, and blocks that the caller may change."""
    if start < 0 or count < 0:
        raise ValueError(f"start {start} and count {count} must be at least 0")
    pair, skip = divmod(start, _PER_CIPHER_BLOCK)
    cipher = _cipher(key, pair)
    at = 0
    while at < count:
        size = min(BLOCK, count - at + skip)
        pairs = -(-size // _PER_CIPHER_BLOCK)
        block = _normals_of(cipher.update(bytes(_CIPHER_BYTES * pairs)))[skip:size]
        yield at, block
        at += len(block)
        skip = 0


def _cipher(key: bytes, block: int) -> CipherContext:
    """AES-256-CTR from a block of the cipher on; the counter of the first block is 0."""
    require_package()
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    _check_key(key)
    return Cipher(AES(key), CTR(block.to_bytes(_CIPHER_BYTES, "big"))).encryptor()


def _normals_of(stream: bytes) -> Float64:
    """Two normals of each 16 bytes (Box and Muller 1958), from uniforms of 53 bits: tails reach to 8.57 deviations.

    Every step works element by element on whole arrays, so a value does not depend on where its block begins.
    """
    bits = np.frombuffer(stream, dtype="<u8") >> 11
    # In (0, 1], so that the logarithm is finite.
    radius = (bits[0::2] + 1) * _UNIT
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle = bits[1::2] * (2.0 * math.pi * _UNIT)
    found = np.empty(len(bits))
    np.multiply(radius, np.cos(angle), out=found[0::2])
    np.multiply(radius, np.sin(angle), out=found[1::2])
    return found


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
