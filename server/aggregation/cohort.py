"""Robust rules: they need every update of a round side by side, and count each one once.

Updates lie in files, one per scope, and are worked through in blocks of columns: memory does not grow with clients.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config.schema import Config
from common.errors import RunFolderError
from common.parameters.encodings import BLOCK
from common.parameters.scope import Scope
from server.aggregation.streaming import Delta

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_SUFFIX = ".rows"
BLOCK_ELEMENTS = 1 << 21
"""Elements of all updates together that are worked on at a time."""


@dataclass(frozen=True)
class CohortRule:
    """A rule over the updates of a scope, (clients, columns) float64, in the order of their order ids.

    `reduce` makes one step of a block of columns. `choose`, if there is one, says from the inner products of all
    updates, (clients, clients), which of them `reduce` gets to see.
    """

    reduce: Callable[[Float64], Float64]
    choose: Callable[[Float64], Sequence[int]] | None = None


def median() -> CohortRule:
    """The middle of every coordinate, of an even number the mean of the two (Yin et al., ICML 2018, definition 1)."""
    return CohortRule(lambda updates: np.asarray(np.median(updates, axis=0), dtype=np.float64))


def trimmed_mean(share: float) -> CohortRule:
    """The mean of every coordinate without its floor(share * clients) largest and smallest values (Yin et al. 2018)."""

    def reduce(updates: Float64) -> Float64:
        cut = faulty(share, len(updates), (len(updates) - 1) // 2)
        return np.asarray(np.sort(updates, axis=0)[cut : len(updates) - cut].mean(axis=0), dtype=np.float64)

    return CohortRule(reduce)


def multi_krum(share: float) -> CohortRule:
    """Multi-Krum (Blanchard et al., NeurIPS 2017, section 4): the mean of the clients - f best updates.

    An update is as good as it is close to its clients - f - 2 nearest others, in squared distances; of equal ones the
    first by order id is taken. f = floor(share * clients), at most what the rule can bear, (clients - 3) / 2.
    """

    def choose(gram: Float64) -> Sequence[int]:
        count = len(gram)
        bad = faulty(share, count, max(0, (count - 3) // 2))
        square = np.diag(gram)
        distances = np.maximum(square[:, np.newaxis] + square - 2.0 * gram, 0.0)
        np.fill_diagonal(distances, np.inf)
        near = np.sort(distances, axis=1)[:, : max(0, min(count - 1, count - bad - 2))]
        best = np.argsort(near.sum(axis=1), kind="stable")[: count - bad]
        return sorted(best.tolist())

    return CohortRule(lambda updates: np.asarray(updates.mean(axis=0), dtype=np.float64), choose)


def faulty(share: float, clients: int, most: int) -> int:
    """How many of the clients may be faulty: a share of them rounded down, 20 % of 5 are 1 whatever floats say."""
    return min(int(share * clients + 1e-9), most)


def cohort_rule_of(config: Config) -> CohortRule | None:
    """The rule that `aggregation.robust` names, or None."""
    section = config.aggregation
    match section.robust:
        case "median":
            return median()
        case "trimmed_mean":
            return trimmed_mean(section.faulty_share)
        case "multi_krum":
            return multi_krum(section.faulty_share)
    return None


class Cohort:
    """The updates of a round on disk, one file of float32 rows per scope in `folder`, or in a temporary one.

    What a dead coordinator left there is of no use, since clients hand in again, and is deleted.
    """

    def __init__(self, rule: CohortRule, folder: Path | None) -> None:
        self._rule = rule
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="fedmtl-cohort-"))
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
        if self._rule.choose is not None:
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
