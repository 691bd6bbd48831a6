"""The disk under a client: what its failures mean, and files that tell when they are damaged."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.errors import StateError

_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another --state_dir",
    errno.EDQUOT: "free some space, or choose another --state_dir",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another --state_dir",
    errno.ENOENT: "bring the folder back and start the client again",
}
_ANY_REMEDY = "let this user write there, or choose another --state_dir"


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Give what the disk under `folder` raises as a `StateError`."""
    try:
        yield
    except OSError as error:
        number, what = error.errno or 0, error.strerror or str(error)
        raise StateError(
            f"client.state_dir: '{folder}' cannot be used ({what}); {_REMEDIES.get(number, _ANY_REMEDY)}",
            what,
            number in _PASSING,
        ) from None


class Damaged(Exception):
    """A file does not hold what was written to it."""


Flush = Callable[[int], None]

_TYPES = {torch.float32: "F32", torch.float64: "F64"}
"""What safetensors calls the types of vectors."""


def write_tensors(path: Path, values: Mapping[str, Tensor], note: str, flush: Flush) -> None:
    """Write float32 and float64 vectors as a safetensors file whose metadata hold `note` and a checksum of everything.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    wide_first = sorted(
        values.items(), key=lambda item: (item[1].dtype is torch.float32, item[0])
    )  # so all are aligned
    vectors = {name: v.detach().to("cpu").contiguous() for name, v in wide_first}
    at, entries = 0, {}
    for name, vector in vectors.items():
        entries[name] = {
            "dtype": _TYPES[vector.dtype],
            "shape": list(vector.shape),
            "data_offsets": [at, at + vector.nbytes],
        }
        at += vector.nbytes
    metadata = {"note": note, "digest": _digest(vectors, note)}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for vector in vectors.values():
            file.write(vector.numpy().data.cast("B"))
        file.flush()
        flush(file.fileno())


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """What `write_tensors` was given: the vectors and the note.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        Damaged: it holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            vectors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise Damaged(type(error).__name__) from None
    note = metadata.get("note", "")
    plain = all(vector.dtype in _TYPES for vector in vectors.values())
    if not plain or metadata.get("digest") != _digest(vectors, note):
        raise Damaged("its checksum does not fit")
    return vectors, note


def _digest(vectors: Mapping[str, Tensor], note: str) -> str:
    shapes = [[name, list(vector.shape)] for name, vector in sorted(vectors.items())]
    checksum = xxhash.xxh3_128(json.dumps([note, shapes]).encode())
    for _, vector in sorted(vectors.items()):
        checksum.update(vector.numpy().data.cast("B"))
    return checksum.hexdigest()
