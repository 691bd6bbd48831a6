"""From a cell of a table to a label. Problems are worded for a person and never quote more than a label."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from common.targets import LARGEST_TARGET
from common.tasks import TaskDefinition, TaskType

Label = int | float | tuple[int, ...]
LabelParser = Callable[[object], Label]

SEPARATOR = "|"
LISTED_NAMES = 10
QUOTED_CHARACTERS = 24


class CellError(ValueError):
    """A cell cannot be used: the text says what is wrong and what to do; whoever catches it adds where."""


def label_parser(task: TaskDefinition) -> LabelParser:
    """The function that reads one label cell of `task`; it raises `CellError`.

    A class is a label's name or its index; where a number is both, the name counts. Labels of a multi-label
    task are a list, a JSON list as text, or names and indices separated by `|`; an empty text means none.
    """
    if task.type is TaskType.REGRESSION:
        return _score
    indices = {name: index for index, name in enumerate(task.labels)}
    if task.type is TaskType.CLASSIFICATION:
        return lambda value: _index(value, indices)
    return lambda value: _indices(value, indices)


def quoted(value: object) -> str:
    """`value` for a message, or only its size where it could be a sentence rather than a label."""
    text = str(value)
    if len(text) > QUOTED_CHARACTERS or len(text.split()) > 2:
        return f"(a value of {len(text)} characters)"
    return repr(text)


def _index(value: object, indices: dict[str, int]) -> int:
    text = _text(value)
    if text in indices:
        return indices[text]
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        names = [*indices][:LISTED_NAMES] + ["..."] * (len(indices) > LISTED_NAMES)
        raise CellError(
            f"unknown label {quoted(text)}; use one of {', '.join(names)} or an index 0..{len(indices) - 1}"
        )
    if not 0 <= int(text) < len(indices):
        raise CellError(f"label {quoted(text)} is out of range; the task has labels 0..{len(indices) - 1}")
    return int(text)


def _indices(value: object, indices: dict[str, int]) -> tuple[int, ...]:
    if isinstance(value, str):
        value = _listed(value.strip(), indices)
    if not isinstance(value, list | tuple):
        raise CellError(f"label {quoted(value)} is not a list; give a list or names separated by {SEPARATOR}")
    return tuple(sorted({_index(item, indices) for item in value}))


def _listed(text: str, indices: dict[str, int]) -> object:
    if text in indices or not text.startswith("["):
        return text.split(SEPARATOR) if text else []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise CellError("the label starts with [ but is not a JSON list; mend the list") from None


def _score(value: object) -> float:
    text = _text(value)
    try:
        score = float(text)
    except ValueError:
        score = None
    # Python reads 1_0 as ten, which in a data file is a slip.
    if score is None or "_" in text:
        raise CellError(f"{quoted(text)} is not a number; give a score such as 3.5")
    if not abs(score) <= LARGEST_TARGET:
        bound = f"is not a finite number up to {LARGEST_TARGET:g}"
        raise CellError(f"score {quoted(text)} {bound}; mend or remove the row, or use another unit")
    return score


def _text(value: object) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        raise CellError("the label is missing; fill it in or remove the row")
    return text
