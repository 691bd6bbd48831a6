"""Generated rows as files, as a person's own would be: something to start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.array_examples import ArrayExamples
from client.data.builtin import generate
from client.data.example import Example
from client.data.synthetic import generate_rows
from client.data.writing import write_columns
from common.encoders.row import ArrayEncoder
from common.encoders.tabular import NAMED, Column, TabularEncoder
from common.tasks import TaskDefinition

SEED = 42
VALIDATION_SHARE = 4
"""One of so many texts is written to a file of its own to score on."""


def write_rows(
    folder: Path, task: TaskDefinition, encoder: ArrayEncoder | None, count: int, number: int, sites: int
) -> None:
    """Write the rows of a task that one of several sites has: `count` of an endless row of rows, which all sites share.

    Args:
        folder: of the site; made where it is not there.
        task: what rows are labelled for.
        encoder: what reads rows of numbers; None for texts.
        count: how many.
        number: which site, from 0.
        sites: how many there are.

    Raises:
        DataError: the folder cannot be written.
    """
    if encoder is None:
        for split, rows in (("train", count), ("validation", count // VALIDATION_SHARE)):
            texts = generate(task.name, "train" if split == "train" else "validation", rows * sites, SEED)
            (folder / task.name).mkdir(parents=True, exist_ok=True)
            write_columns(folder / task.name / f"{split}.csv", _texts(texts[number::sites]))
        return
    folder.mkdir(parents=True, exist_ok=True)
    found = generate_rows(task, encoder, "train", count * sites, SEED).take(np.arange(number, count * sites, sites))
    if isinstance(encoder, TabularEncoder):
        table = {column.name: _cells(column, found.values[:, at]) for at, column in enumerate(encoder.layout)}
        write_columns(folder / f"{task.name}.csv", {**table, "label": _labels(task, found)})
    else:
        arrays: dict[str, Any] = {"x": found.values, "y": found.labels}
        write_columns(folder / f"{task.name}.npz", arrays)


def _texts(rows: Sequence[Example]) -> Mapping[str, Sequence[object]]:
    labels = [row.label for row in rows]
    if rows[0].text_pair is None:
        return {"sentence": [row.text for row in rows], "label": labels}
    return {"sentence1": [row.text for row in rows], "sentence2": [row.text_pair for row in rows], "label": labels}


def _labels(task: TaskDefinition, rows: ArrayExamples) -> Sequence[object]:
    return [task.labels[label] for label in rows.labels] if task.labels else [round(y, 4) for y in rows.labels.tolist()]


def _cells(column: Column, values: NDArray[np.generic]) -> Sequence[object]:
    """A column as a table has it: empty where nothing is known."""
    numbers = [float(value) for value in values.tolist()]
    if column.categories:
        return [column.categories[int(n) - NAMED] if n >= NAMED else "" for n in numbers]
    plain = [float(np.copysign(np.expm1(abs(n)), n)) if column.log else n for n in numbers]
    return ["" if np.isnan(n) else f"{n:.4g}" for n in plain]
