"""Which rows meet in which batch, and which tasks' batches meet in which step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

BATCHES_PER_BUCKET = 50
PIECE_COST = 96
"""Of another piece of a batch, in tokens: with less padding than that, rows stay together."""


def epoch_batches(lengths: NDArray[np.integer], batch_size: int, seed: int) -> list[NDArray[np.int64]]:
    """One epoch: every row once, in batches of similar length and random order.

    Rows are shuffled and sorted by length only within buckets of 50 batches, which saves nearly all padding
    and still brings different rows together in every epoch.

    Args:
        lengths: Tokens per row, (rows,).
        batch_size: Rows per batch; one batch may be smaller.
        seed: All that the order depends on besides the lengths.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    shuffled = rng.permutation(len(lengths))
    buckets = np.arange(len(lengths)) // (batch_size * BATCHES_PER_BUCKET)
    ordered = shuffled[np.lexsort((lengths[shuffled], buckets))]
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def interleave(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The steps of an epoch over several tasks: each names the tasks that put their next batch into it.

    There are as many steps as the largest task has batches; batch j of a task with `count` batches falls on
    step `floor(j * steps / count)`, so that every task is spread evenly and used up exactly once.

    Args:
        counts: Batches per task; the tasks of a step keep this order.
    """
    steps: list[list[str]] = [[] for _ in range(max(counts.values(), default=0))]
    for task, count in counts.items():
        for batch in range(count):
            steps[batch * len(steps) // count].append(task)
    return [tuple(step) for step in steps]


def length_batches(lengths: NDArray[np.integer], batch_size: int) -> list[NDArray[np.int64]]:
    """Every row once, in batches of similar length and fixed order; for scoring.

    Args:
        lengths: Tokens per row, (rows,).
        batch_size: Rows per batch; the last batch may be smaller.
    """
    ordered = np.argsort(lengths, kind="stable")
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def length_pieces(lengths: NDArray[np.integer], most: int) -> list[NDArray[np.int64]]:
    """Every row once, in pieces of similar length: for rows that meet in a batch and need not be computed at once.

    A piece is cut in two where that saves more padding than `PIECE_COST`.

    Args:
        lengths: Tokens per row, (rows,).
        most: Rows per piece at most.
    """
    ordered = np.argsort(lengths, kind="stable")
    found = []
    waiting = [part for part in np.array_split(ordered, -(-len(ordered) // most)) if len(part)] if len(ordered) else []
    while waiting:
        part = waiting.pop(0)
        sizes, before = lengths[part], np.arange(1, len(part))
        saved = before * (sizes[-1] - sizes[:-1])
        if len(part) < 2 or saved.max() <= PIECE_COST:
            found.append(part)
            continue
        cut = int(saved.argmax()) + 1
        waiting[:0] = [part[:cut], part[cut:]]
    return found
