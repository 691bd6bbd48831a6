"""One name for a model's exact values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def model_digest(scopes: Iterable[tuple[str, str, Iterable[bytes | memoryview]]]) -> str:
    """SHA-256 over (scope name, schema digest, bytes of the vector) of every scope that travels, sorted by name."""
    digest = hashlib.sha256()
    for scope, schema_digest, chunks in sorted(scopes, key=lambda item: item[0]):
        digest.update(f"{scope}\n{schema_digest}\n".encode())
        for chunk in chunks:
            digest.update(chunk)
    return digest.hexdigest()
