"""What a client keeps on its disk for one run: private scopes and its last update until that is settled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import WireError
from common.orders import UpdateHeader
from common.wire.messages import UPDATE_HEADER

_PRIVATE = "private.safetensors"
_NEXT_PRIVATE = "private.next.safetensors"
_PENDING = "update.bin"
_SPARE = ".update.bin.spare"


@dataclass(frozen=True)
class PendingUpdate:
    """An update that was made but is not known to be settled. `payload` is all scopes' bytes, in header order."""

    header: UpdateHeader
    payload: memoryview


class RunStore:
    """One client's files for one run. Every change is whole or absent, whenever the process dies.

    The file of a forgotten update is kept for the next one: writing over it costs a third of writing a new one.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.pending = self._load_pending()
        if self.pending is None:  # private values whose update was never kept, or rolled back
            (folder / _NEXT_PRIVATE).unlink(missing_ok=True)

    def private(self) -> dict[str, Tensor] | None:
        """The committed values of the private scopes, or None before the first commit."""
        path = self._folder / _PRIVATE
        return load_file(path) if path.is_file() else None

    def start_private(self, values: Mapping[str, Tensor]) -> None:
        """Commit the values that the private scopes start from."""
        self._save_tensors(_PRIVATE, values)

    def save(self, update: PendingUpdate, private: Mapping[str, Tensor]) -> None:
        """Keep an update, and the private values that belong to it, before it is handed in."""
        if private:
            self._save_tensors(_NEXT_PRIVATE, private)
        else:
            (self._folder / _NEXT_PRIVATE).unlink(missing_ok=True)
        header = UPDATE_HEADER.encode(update.header)
        spare = self._folder / _SPARE
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.write(update.payload)
            file.truncate()
            file.flush()
            self._flush(file.fileno())
        spare.rename(self._folder / _PENDING)
        self.pending = update

    def settle(self) -> None:
        """The update is durable at the coordinator: its private values become the committed ones."""
        upcoming = self._folder / _NEXT_PRIVATE
        if upcoming.is_file():
            upcoming.replace(self._folder / _PRIVATE)
        self._forget()

    def roll_back(self) -> None:
        """The update will never count: go back to the committed private values."""
        # The update goes first: it must never be handed in again without its private values.
        self._forget()
        (self._folder / _NEXT_PRIVATE).unlink(missing_ok=True)

    def _flush(self, descriptor: int) -> None:
        """Bring a file to the disk itself, so that it outlives the machine's power."""
        os.fsync(descriptor)

    def close(self) -> None:
        """The run is over: leave nothing behind that nobody needs."""
        (self._folder / _SPARE).unlink(missing_ok=True)

    def _forget(self) -> None:
        pending = self._folder / _PENDING
        if pending.is_file():
            pending.replace(self._folder / _SPARE)
        self.pending = None

    def _load_pending(self) -> PendingUpdate | None:
        path = self._folder / _PENDING
        if not path.is_file():
            return None
        data = memoryview(path.read_bytes())
        size = int.from_bytes(data[:8], "little")
        try:
            header = UPDATE_HEADER.decode(bytes(data[8 : 8 + size]))
        except WireError:  # written by another version of the protocol: the coordinator will ask again
            path.unlink()
            return None
        return PendingUpdate(header, data[8 + size :])

    def _save_tensors(self, name: str, values: Mapping[str, Tensor]) -> None:
        temporary = self._folder / f".{name}.partial"
        save_file({scope: tensor.to("cpu", torch.float32).contiguous() for scope, tensor in values.items()}, temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        self._flush(descriptor)
        os.close(descriptor)
        temporary.rename(self._folder / name)
