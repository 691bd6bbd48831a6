"""From a table of any origin to examples: which columns hold what, and the check of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.data.example import Example
from client.data.labels import QUOTED_CHARACTERS, CellError, label_parser
from common.errors import DataError
from common.tasks import TaskDefinition, TaskType

TEXTS = ("sentence", "text")
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("#1 String", "#2 String"),
    ("text", "text_pair"),
)
LABELS = ("label", "score", "is_duplicate", "gold_label", "Quality")


@dataclass(frozen=True)
class ColumnNames:
    """Where a person says the texts and the label are; None means: look for the usual names."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Table:
    """Cells as they were read, by column; all columns are equally long.

    `origin` opens every message. `published` marks an unchanged public data set: rows without text, of which
    QQP has a few that no user can mend, are then left out instead of refused.
    """

    origin: str
    columns: dict[str, list[object]]
    published: bool = False


def to_examples(table: Table, task: TaskDefinition, names: ColumnNames | None) -> list[Example]:
    """The table's rows in order, checked.

    Raises:
        DataError: A column is missing, a cell cannot be used, or there is no row.
    """
    text, text_pair, label = _choose(table, task, names or ColumnNames())
    parse = label_parser(task) if task.type is not TaskType.MASKED_LM else lambda _: 0
    examples = []
    column = text
    cells = zip(table.columns[text], table.columns[text_pair or text], table.columns[label], strict=True)
    for row, (first, second, value) in enumerate(cells, start=1):
        if table.published and (_blank(first) or _blank(second)):
            continue
        try:
            column = text
            checked = _checked(first)
            column = text_pair or text
            checked_pair = _checked(second) if text_pair else None
            column = label
            examples.append(Example(checked, checked_pair, parse(value)))
        except CellError as problem:
            raise DataError(f"{table.origin}, row {row}, column {column!r}: {problem}") from None
    if not examples:
        raise DataError(f"{table.origin} has no complete rows; give at least one example")
    return examples


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _checked(value: object) -> str:
    if _blank(value):
        raise CellError("the text is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise CellError(f"the text is of type {type(value).__name__}; give it as a string")
    if not encodable(value):
        raise CellError("the text holds bytes that are not UTF-8; convert the file to UTF-8")
    return value


def _choose(table: Table, task: TaskDefinition, names: ColumnNames) -> tuple[str, str | None, str]:
    """The columns of the text, the second text (None for single texts) and the label."""
    if task.pair and (names.text is None) != (names.text_pair is None):
        raise DataError(f"{table.origin}: task {task.name} reads pairs; name both text and text_pair, or neither")
    if names.text_pair is not None and not task.pair:
        raise DataError(f"{table.origin}: task {task.name} reads single texts; remove text_pair {names.text_pair!r}")
    if names.text is not None:
        texts: Sequence[tuple[str, ...]] = [(names.text, names.text_pair)] if names.text_pair else [(names.text,)]
    else:
        texts = TEXT_PAIRS if task.pair else [(text,) for text in TEXTS]
    text, *second = _first_present(table, texts)
    if task.type is TaskType.MASKED_LM:
        return text, None, text
    (label,) = _first_present(table, [(name,) for name in ((names.label,) if names.label else LABELS)])
    return text, second[0] if second else None, label


def _first_present(table: Table, choices: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    for choice in choices:
        if all(name in table.columns for name in choice):
            return choice
    wanted = " or ".join("+".join(choice) for choice in choices)
    raise DataError(f"{table.origin}: column missing, needed {wanted}; {_present(table)}; rename it or set the columns")


def _present(table: Table) -> str:
    """The columns there are; a file without a header has a row of data in their place, which stays unsaid."""
    names = [*table.columns]
    if any(len(name) > QUOTED_CHARACTERS or len(name.split()) > 2 or not encodable(name) for name in names):
        return f"the first line ({len(names)} cells) does not look like a header in UTF-8"
    return f"present are {', '.join(names)}"


def encodable(text: str) -> bool:
    """Whether `text` is free of lone surrogates, as which readers keep bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
