"""One task's rows dealt out to many clients at once: in equal shares, or so that each sees labels of its own mix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.data.examples import RawExamples, TaskData
from client.data.request import DataRequest
from client.data.sources import load, standardised
from common.errors import DataError
from common.seeds import derive_seed

Deal = list[NDArray[np.int64]]
"""Places of the rows of every part."""


def deal(request: DataRequest, parts: int, alpha: float | None = None) -> list[TaskData]:
    """The rows of each of `parts` clients; the request's own partition does not matter.

    Args:
        request: what to read; `train_samples` and `val_samples` cap the rows of one client, except that `alpha` with
            built-in rows deals out so many times `parts` unevenly.
        parts: clients that share the rows.
        alpha: None for equal shares: part i is what `load` gives for partition (i, parts). Else the concentration of a
            Dirichlet distribution over the parts, drawn for each label (Yurochkin et al., 2019): the smaller, the more
            different. Training and validation rows of a part have the same mix.

    Raises:
        DataError: see `load`; or there are fewer rows than parts.
    """
    train_samples, val_samples = request.train_samples, request.scored_samples
    if request.source == "builtin":
        train_samples, val_samples = request.builtin_samples
        wanted = replace(request, train_samples=train_samples * parts, val_samples=val_samples * parts)
    else:
        wanted = replace(request, train_samples=None, val_samples=0 if val_samples == 0 else None)
    whole = load(replace(wanted, partition=(1, 1), statistics="none"))
    train, validation = (
        _deal_split(rows, request, split, parts, alpha)
        for rows, split in ((whole.train, "train"), (whole.validation, request.scored))
    )
    uneven = alpha is not None and request.source == "builtin"
    dealt = []
    for part in range(parts):
        mine = whole.train.take(train[part][: None if uneven else train_samples])
        scored = whole.validation.take(validation[part][: None if uneven and val_samples else val_samples])
        dealt.append(standardised(replace(whole, train=mine, validation=scored), request))
    return dealt


def _deal_split(rows: RawExamples, request: DataRequest, split: str, parts: int, alpha: float | None) -> Deal:
    if not len(rows):
        return [np.empty(0, dtype=np.int64)] * parts
    if len(rows) < parts:
        raise DataError(
            f"task {request.task.name}: {len(rows)} {split} rows are too few for {parts} clients; "
            "lower simulation.clients"
        )
    if alpha is None:
        return [np.arange(part, len(rows), parts) for part in range(parts)]
    return by_label(
        request.task.type.classes(np.asarray(rows.labels)), parts, alpha, request.seed, request.task.name, split
    )


def by_label(classes: NDArray[np.int64], parts: int, alpha: float, seed: int, task: str, split: str) -> Deal:
    """Deal rows with these classes, int64 (rows,), to `parts` by shares from a Dirichlet distribution per class.

    The shares depend on seed and task, which rows it hits on the split too. A part that gets none takes one from the
    largest part.
    """
    number = int(classes.max()) + 1
    draw = np.random.Generator(np.random.PCG64(derive_seed(seed, task, "dirichlet")))
    order = np.random.Generator(np.random.PCG64(derive_seed(seed, task, split, "dirichlet"))).permutation(len(classes))
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for label in range(number):
        shares = draw.dirichlet(np.full(parts, alpha))
        mine = order[classes[order] == label]
        cuts = np.rint(np.cumsum(shares)[:-1] * len(mine)).astype(np.int64)
        for part, rows in zip(dealt, np.split(mine, cuts), strict=True):
            part.extend(rows.tolist())
    for part in dealt:
        if not part:
            part.append(max(dealt, key=len).pop())
    return [np.array(sorted(part), dtype=np.int64) for part in dealt]
