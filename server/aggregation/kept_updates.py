"""The updates of a round side by side on disk, for robust rules.

They lie in files, one per scope, and are worked through in blocks of columns: memory does not grow with clients.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from common.errors import RunFolderError
from common.methods.robust import RobustRule
from common.parameters.encodings import BLOCK
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope
from common.parameters.vector import Float64, Vector
from server.aggregation.accumulator import NOT_BY_TASK, ByTask, Delta, Piece
from server.core.open_round import client_in

_SUFFIX = ".updates"
BLOCK_ELEMENTS = 1 << 21
"""Elements of all updates together that are worked on at a time."""


class KeptUpdates:
    """One file per scope in `folder`, or in a temporary one, with an update after the other.

    What a dead coordinator left there is of no use, since clients hand in again, and is deleted.
    """

    def __init__(self, rule: RobustRule, folder: Path | None) -> None:
        rule.require_usable()
        self._rule = rule
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="fedmtl-updates-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._orders: dict[str, list[str]] = {}
        self._weights: dict[str, list[int]] = {}
        self._schemas: dict[str, ParameterSchema] = {}
        self.clear()

    def add(
        self,
        order_id: str,
        deltas: Sequence[tuple[str, Delta]],
        weights: Mapping[str, int],
        by_task: ByTask = NOT_BY_TASK,
    ) -> None:
        """See `Accumulator.add`; deltas with a weight count once each, unless the rule reads weights."""
        try:
            for scope, delta in deltas:
                if weights[scope]:
                    self._append(scope, order_id, delta)
                    self._weights.setdefault(scope, []).append(weights[scope])
        except OSError as error:
            text = f"{self._folder} cannot be written ({error.strerror}); free space, then go on with --resume"
            raise RunFolderError(text) from None

    def _append(self, scope: str, order_id: str, delta: Delta) -> None:
        orders, schema = self._orders.setdefault(scope, []), self._schemas.setdefault(scope, delta.schema)
        start = schema.nbytes * len(orders)
        with self._path(scope).open("r+b" if orders else "w+b") as file:
            file.truncate(start + schema.nbytes)  # what is not written stays a hole, which reads as zeros
            for at, block in delta.blocks():
                file.seek(start + schema.dtype.nbytes * at)
                file.write(block.data)
        orders.append(order_id)

    def merge(self, other: Self) -> None:
        """See `Accumulator.merge`."""
        for scope, names in other._orders.items():
            orders = self._orders.setdefault(scope, [])
            self._schemas.setdefault(scope, other._schemas[scope])
            with other._path(scope).open("rb") as theirs, self._path(scope).open("ab" if orders else "wb") as file:
                shutil.copyfileobj(theirs, file)
            orders += names
            self._weights.setdefault(scope, []).extend(other._weights[scope])
        other.clear()

    def report(self, scope: str, pieces: Sequence[Piece]) -> Iterator[tuple[int, Float64]]:
        """See `Accumulator.report`: what the rule makes of the updates; pieces say nothing to it."""
        orders, schema = self._orders[scope], self._schemas[scope]
        kept: Vector = np.memmap(
            self._path(scope), dtype=schema.dtype.value, mode="r", shape=(len(orders), schema.size)
        )
        index = np.argsort(np.array(orders), kind="stable")
        if self._rule.named:
            yield 0, self._combined(scope, kept, index.tolist())
            return
        width = max(1, min(BLOCK, BLOCK_ELEMENTS // len(orders)))
        if self._rule.chooses:
            gram = np.zeros((len(orders), len(orders)))
            for start in range(0, schema.size, width):
                block = kept[index, start : start + width].astype(np.float64)
                gram += block @ block.T
            index = index[self._rule.choose(gram)]
        for start in range(0, schema.size, width):
            yield start, self._rule.reduce(kept[index, start : start + width].astype(np.float64))

    def _combined(self, scope: str, kept: Vector, order: Sequence[int]) -> Float64:
        """What the rule makes of whole updates, by client and parameter; they are not copied."""
        entries = self._schemas[scope].entries
        clients = [client_in(self._orders[scope][place]) for place in order]
        updates = {
            client: {e.name: kept[place, e.offset : e.offset + e.count].reshape(e.shape) for e in entries}
            for client, place in zip(clients, order, strict=True)
        }
        weights = {client: self._weights[scope][place] for client, place in zip(clients, order, strict=True)}
        steps = self._rule.combine(updates, weights)
        return np.concatenate([steps[entry.name].ravel() for entry in entries], dtype=np.float64)

    def clear(self) -> None:
        """Forget all updates."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            path.unlink()
        self._orders.clear()
        self._weights.clear()
        self._schemas.clear()

    def _path(self, scope: str) -> Path:
        return self._folder / f"{Scope.parse(scope).file_name}{_SUFFIX}"
