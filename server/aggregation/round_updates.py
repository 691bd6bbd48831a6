"""The updates of a round side by side, as robust rules need them.

Updates lie in files, one per scope, and are worked through in blocks of columns: memory does not grow with clients.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import RunFolderError
from common.methods.robust import RobustRule
from common.parameters.encodings import BLOCK
from common.parameters.scope import Scope
from server.aggregation.streaming import Delta

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_SUFFIX = ".rows"
BLOCK_ELEMENTS = 1 << 21
"""Elements of all updates together that are worked on at a time."""


class RoundUpdates:
    """The updates of a round on disk, one file of float32 rows per scope in `folder`, or in a temporary one.

    What a dead coordinator left there is of no use, since clients hand in again, and is deleted.
    """

    def __init__(self, rule: RobustRule, folder: Path | None) -> None:
        self._rule = rule
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="fedmtl-updates-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._orders: dict[str, list[str]] = {}
        self.clear()

    def fold(self, order_id: str, deltas: Sequence[tuple[str, Delta]]) -> None:
        """Keep one client's update.

        Raises:
            RunFolderError: the disk does not take it.
        """
        try:
            for scope, delta in deltas:
                orders = self._orders.setdefault(scope, [])
                start = 4 * delta.size * len(orders)
                with self._path(scope).open("r+b" if orders else "w+b") as file:
                    file.truncate(start + 4 * delta.size)  # what is not written stays a hole, which reads as zeros
                    for at, block in delta.blocks():
                        file.seek(start + 4 * at)
                        file.write(block.data)
                orders.append(order_id)
        except OSError as error:
            text = f"{self._folder} cannot be written ({error.strerror}); free space, then go on with --resume"
            raise RunFolderError(text) from None

    def steps(self, scope: str, size: int) -> Iterator[tuple[int, Float64]]:
        """Start and float64 elements of the scope's step, block by block in order."""
        orders = self._orders[scope]
        rows = np.memmap(self._path(scope), dtype=np.float32, mode="r", shape=(len(orders), size))
        index = np.argsort(np.array(orders), kind="stable")
        width = max(1, min(BLOCK, BLOCK_ELEMENTS // len(orders)))
        if self._rule.chooses:
            gram = np.zeros((len(orders), len(orders)))
            for start in range(0, size, width):
                block = rows[index, start : start + width].astype(np.float64)
                gram += block @ block.T
            index = index[self._rule.choose(gram)]
        for start in range(0, size, width):
            yield start, self._rule.reduce(rows[index, start : start + width].astype(np.float64))

    def clear(self) -> None:
        """Forget all updates."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            path.unlink()
        self._orders.clear()

    def _path(self, scope: str) -> Path:
        return self._folder / f"{Scope.parse(scope).file_name}{_SUFFIX}"
