"""Rows of numbers standardised alike at all clients: what each says of its own, and what everybody's are scaled by.

By column, or by channel of images and sequences, numbers are scaled to about mean 0 and deviation 1. As for training
targets, means and deviations are the federation's, fixed once, and coarse, because all clients of the task hear them.
A client says nothing of a column with values in fewer than `LEAST_ROWS` of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from common.targets import TargetSums, coarse, pooled

Standardising: TypeAlias = Literal["none", "site", "federation"]
"""Numbers as they are, by each client's own rows, or by those of all clients."""

LEAST_ROWS = 5
MOST_COLUMNS = 1 << 14
"""Of all tasks together, so that their sums fit into one message beside everything else."""
LARGEST = 3.5e38
"""No float32 is larger."""
_LEAST_SCALE, _MOST_SCALE = 2.0**-100, 2.0**129


@dataclass(frozen=True)
class InputSums:
    """Of a client's training rows of a task, by column; zeros where there is nothing to say."""

    counts: tuple[int, ...]
    """Rows that have a value."""
    means: tuple[float, ...]
    squares: tuple[float, ...]
    """Squared deviations from the mean, their mean over the places of a channel, summed over rows."""

    def problem(self, columns: int, rows: int) -> str | None:
        """Why so many rows cannot have these sums, or None."""
        if {len(self.counts), len(self.means), len(self.squares)} != {columns}:
            return f"sums of {len(self.counts)} columns are not those of {columns}"
        for count, mean, square in zip(self.counts, self.means, self.squares, strict=True):
            few = count < LEAST_ROWS and (count, mean, square) != (0, 0.0, 0.0)
            if few or count > rows or not abs(mean) <= LARGEST or not 0.0 <= square <= count * LARGEST**2:
                return f"{count} of {rows} rows cannot have the mean {mean:g} and squared deviations of {square:g}"
        return None


@dataclass(frozen=True)
class InputScale:
    """By column: a number x is trained on as (x - mean) / scale."""

    means: tuple[float, ...]
    scales: tuple[float, ...]

    def problem(self) -> str | None:
        """What is wrong with these numbers, or None."""
        if len(self.means) != len(self.scales):
            return f"{len(self.means)} means and {len(self.scales)} scales"
        for mean, scale in zip(self.means, self.scales, strict=True):
            if not abs(mean) <= 2.0 * LARGEST or not _LEAST_SCALE <= scale <= _MOST_SCALE:
                return f"mean {mean:g} or scale {scale:g} is out of range"
        return None


def pooled_scale(parts: Sequence[tuple[InputSums, float]]) -> tuple[InputScale, list[int]]:
    """The scale by all rows together, coarse, and the columns of which nobody says anything; these stay as they are.

    Args:
        parts: sums of every client with the share of its rows that counts.
    """
    means, scales, silent = [], [], []
    for column in range(len(parts[0][0].counts)):
        said = [
            (sums.counts[column] * share, TargetSums(sums.means[column], sums.squares[column] * share))
            for sums, share in parts
            if sums.counts[column]
        ]
        units = coarse(*pooled(said))
        silent += [] if said else [column]
        means.append(units.mean)
        scales.append(units.scale)
    return InputScale(tuple(means), tuple(scales)), silent
