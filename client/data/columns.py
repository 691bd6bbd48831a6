"""From a table of any origin to examples: which columns hold what, and the check of every cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from client.data.example import Example
from common.errors import DataError
from common.tasks import TaskDefinition
from common.tasks.labels import QUOTED_CHARACTERS, CellError

TEXTS = ("sentence", "text")
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("#1 String", "#2 String"),
    ("text", "text_pair"),
)
LABELS = ("label", "labels", "score", "is_duplicate", "gold_label", "Quality", "target", "class", "y")

_COPY = re.compile(r"\.[0-9]+$")
"""What programs append to a name that they find twice."""
_NAMELESS = re.compile(r"|Unnamed: [0-9]+.*|__index_level_[0-9]+__")
"""How a column without a name, such as an index that was saved too, is called in files and by pandas."""


@dataclass(frozen=True)
class ColumnNames:
    """Which column is what. Where a person says it, None and () mean: look for the usual names, take all others."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    features: tuple[str, ...] = ()
    group: str | None = None
    """By its values rows are kept together (`data.split.by`); it is no feature."""


@dataclass(frozen=True)
class Table:
    """Cells as they were read, by column; all columns are equally long.

    `origin` opens every message. `published` marks an unchanged public data set: rows without text, of which
    QQP has a few that no user can mend, are then left out instead of refused. `notes` say what may not be meant.
    `parts` are the files behind a table of several, each with its number of rows.
    """

    origin: str
    columns: dict[str, list[object]]
    published: bool = False
    notes: tuple[str, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def extended(self, other: Table) -> Table:
        """This table with the rows of another below, whose columns are matched by name.

        Raises:
            DataError: the two have other columns.
        """
        if set(self.columns) != set(other.columns):
            theirs, ours = ", ".join(other.columns), ", ".join(self.columns)
            raise DataError(f"{other.origin}: its columns are {theirs}, those of {self.origin} {ours}; mend one")
        parts = (*(self.parts or ((self.origin, len(self)),)), (other.origin, len(other)))
        columns = {name: cells + other.columns[name] for name, cells in self.columns.items()}
        return Table(self.origin, columns, self.published, self.notes + other.notes, parts)

    def without(self, names: Container[str]) -> Table:
        """This table without the columns of these names."""
        return replace(self, columns={name: cells for name, cells in self.columns.items() if name not in names})

    def groups(self, column: str | None) -> list[str] | None:
        """The groups of the rows that a column names; None where there is no such column.

        Raises:
            DataError: a cell names none.
        """
        return group_names(self.columns[column], self.place) if column in self.columns else None

    def place(self, row: int) -> str:
        """Where a row is, counted from 1: its file, and its number in there."""
        for origin, rows in self.parts:
            if row <= rows:
                return f"{origin}, row {row}"
            row -= rows
        return f"{self.origin}, row {row}"


def to_examples(table: Table, task: TaskDefinition, names: ColumnNames | None) -> list[Example]:
    """The table's rows in order, checked.

    Raises:
        DataError: A column is missing or could be another, a cell cannot be used, or there is no row.
    """
    return examples_in(table, task, text_columns(table, task, names))


def examples_in(table: Table, task: TaskDefinition, chosen: ColumnNames) -> list[Example]:
    """The table's rows in order, checked; `chosen` comes from `text_columns`, and without a label none is read."""
    text, text_pair = chosen.text or "", chosen.text_pair
    label = chosen.label or text
    unlabelled = task.type.reads_labels and chosen.label is None
    parse = (lambda _: task.type.no_label) if unlabelled else task.type.label_parser(task)
    examples = []
    column = text
    cells = zip(table.columns[text], table.columns[text_pair or text], table.columns[label], strict=True)
    for row, (first, second, value) in enumerate(cells, start=1):
        if table.published and (_blank(first) or _blank(second)):
            continue
        try:
            column = text
            checked = read_text(task, first)
            column = text_pair or text
            checked_pair = _checked(second) if text_pair else None
            column = label
            examples.append(Example(checked, checked_pair, parse(value)))
            require_labels(task, examples[-1])
        except CellError as problem:
            raise DataError(f"{table.place(row)}, column {column!r}: {problem}") from None
    if not examples:
        raise DataError(f"{table.origin} has no complete rows; give at least one example")
    return examples


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def read_text(task: TaskDefinition, cell: object) -> str:
    """The text in a cell; where each word has a label, the words with a space between each two.

    Raises:
        CellError: it cannot be used.
    """
    if task.type.asks != "words":
        return _checked(cell)
    words = _checked(cell).split() if isinstance(cell, str) else cell
    if not isinstance(words, list | tuple):
        raise CellError(f"words are of type {type(cell).__name__}; give a list of words")
    for number, word in enumerate(words, start=1):
        if not isinstance(word, str) or not word.strip() or " " in word:
            raise CellError(f"word {number} is no text, empty or holds a space; mend it, or split it into words")
    return _checked(" ".join(words))


def require_labels(task: TaskDefinition, example: Example) -> None:
    """Check that each word has a label, where words have some and they are known.

    Raises:
        CellError: there are more words or more labels.
    """
    if task.type.asks == "words" and isinstance(example.label, tuple):
        words, labels = len(example.text.split(" ")), len(example.label)
        if words != labels:
            raise CellError(f"{words} words and {labels} labels; give one label for each word")


def _checked(value: object) -> str:
    if _blank(value):
        raise CellError("the text is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise CellError(f"the text is of type {type(value).__name__}; give it as a string")
    if not encodable(value):
        raise CellError("the text holds bytes that are not UTF-8; convert the file to UTF-8")
    return value


def text_columns(
    table: Table, task: TaskDefinition, names: ColumnNames | None, *, labelled: bool = True
) -> ColumnNames:
    """The columns of the text, of the second text (None for single texts) and of the label (None if none is read).

    Raises:
        DataError: one is missing, or several bear a usual name.
    """
    names = names or ColumnNames()
    if task.pair and (names.text is None) != (names.text_pair is None):
        raise DataError(f"{table.origin}: task {task.name} reads pairs; name both text and text_pair, or neither")
    if names.text_pair is not None and not task.pair:
        raise DataError(f"{table.origin}: task {task.name} reads single texts; remove text_pair {names.text_pair!r}")
    given = (names.text, names.text_pair) if names.text_pair else (names.text,)
    single = task.type.text_names or TEXTS
    usual: Sequence[tuple[str, ...]] = TEXT_PAIRS if task.pair else [(text,) for text in single]
    key = "text and text_pair" if task.pair else "text"
    text, *second = _find(table, task, key, [name for name in given if name], usual, (names.label,))
    chosen = ColumnNames(text, second[0] if second else None)
    if not (task.type.reads_labels and labelled):
        return chosen
    return replace(chosen, label=label_column(table, task, names.label, (text, *second)))


def number_columns(table: Table, task: TaskDefinition, names: ColumnNames | None) -> ColumnNames:
    """The columns of the features, in their order, and of the label.

    Features are those that are named, in this order; else all columns but the label, in the table's order.

    Raises:
        DataError: one is missing, has no name, is a copy of the label, or several bear a usual name of labels.
    """
    names = names or ColumnNames()
    label = label_column(table, task, names.label, (*names.features, *filter(None, [names.group])))
    if names.features:
        require_columns(table, names.features, f"tasks.{task.name}.columns.features")
        return replace(names, label=label)
    remedy = f"name those that are in tasks.{task.name}.columns.features"
    features = tuple(name for name in table.columns if name not in (label, names.group))
    for number, name in enumerate(table.columns, start=1):
        if name not in features:
            continue
        if _NAMELESS.fullmatch(name):
            called = f"is called {name!r}" if name else "has no name"
            raise DataError(
                f"{table.origin}: column {number} {called}, as an index has that was saved too, and is no feature; "
                f"remove it, or {remedy}"
            )
        if _plain(name) == _plain(label):
            raise DataError(
                f"{table.origin}: column {name!r} looks like a copy of the label {label!r} and is no feature; "
                f"remove it, or {remedy}"
            )
    return replace(names, label=label, features=features)


def feature_columns(table: Table, task: TaskDefinition, wanted: Sequence[str]) -> tuple[str, ...]:
    """The columns of the features of a table without labels: those that are wanted, else all but a usual label."""
    if wanted:
        require_columns(table, wanted, f"tasks.{task.name}.columns.features")
        return tuple(wanted)
    usual = {_plain(name) for name in LABELS}
    return tuple(name for name in table.columns if _plain(name) not in usual)


def label_column(table: Table, task: TaskDefinition, named: str | None, taken: Sequence[str]) -> str:
    """The column of the label: the one that is named, else the only one with a usual name that is nothing else."""
    usual = [(name,) for name in task.type.label_names or LABELS]
    (label,) = _find(table, task, "label", [named] if named else [], usual, taken)
    if label in taken:
        raise DataError(
            f"{table.origin}: column {label!r} is named both as the label and as something else in "
            f"tasks.{task.name}.columns; keep one"
        )
    return label


def _find(
    table: Table,
    task: TaskDefinition,
    role: str,
    named: Sequence[str],
    usual: Sequence[tuple[str, ...]],
    taken: Iterable[str | None],
) -> tuple[str, ...]:
    """The columns for a role: those that a person named, else the only ones with usual names, whatever their case."""
    key = f"tasks.{task.name}.columns.{role}"
    if named:
        require_columns(table, named, key)
        return tuple(named)
    free: dict[str, list[str]] = {}
    for name in table.columns:
        if name not in {*taken}:
            free.setdefault(_plain(name), []).append(name)
    found = [names for choice in usual for names in product(*(free.get(_plain(name), ()) for name in choice))]
    if len(found) > 1:
        several = " or ".join("+".join(map(repr, names)) for names in found)
        what = "the label" if role == "label" else "the texts" if task.pair else "the text"
        raise DataError(f"{table.origin}: {what} could be in {several}; name the right one in {key}")
    if not found:
        raise _missing(table, " or ".join("+".join(choice) for choice in usual), key)
    return found[0]


def _plain(name: str) -> str:
    """A name as it is compared: without case, and without the number that marks it as a copy."""
    return _COPY.sub("", name).casefold()


def require_columns(table: Table, names: Sequence[str], key: str) -> None:
    """Check that a table has these columns, which `key` of the configuration names.

    Raises:
        DataError: the first one that is missing.
    """
    missing = next((name for name in names if name not in table.columns), None)
    if missing is not None:
        raise _missing(table, missing, key)


def _missing(table: Table, wanted: str, key: str) -> DataError:
    return DataError(f"{table.origin}: column missing, needed {wanted}; {_present(table)}; rename it or set {key}")


def _present(table: Table) -> str:
    """The columns there are; a file without a header has a row of data in their place, which stays unsaid."""
    names = [*table.columns]
    if any(len(name) > QUOTED_CHARACTERS or len(name.split()) > 2 or not encodable(name) for name in names):
        return f"the first line ({len(names)} cells) does not look like a header in UTF-8"
    quotes = ", where the quotes are part of the names" if any(name.startswith('"') for name in names) else ""
    return f"present are {', '.join(names)}{quotes}"


def encodable(text: str) -> bool:
    """Whether `text` is free of lone surrogates, as which readers keep bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def group_names(cells: Sequence[object], place: Callable[[int], str]) -> list[str]:
    """The groups that cells name, one per row; a whole number is the same group however it is written in a file.

    Args:
        cells: texts or numbers.
        place: where a row is, counted from 1.

    Raises:
        DataError: a cell is empty, or neither a text nor a number.
    """
    found = []
    for row, cell in enumerate(cells, start=1):
        if isinstance(cell, float) and cell.is_integer():
            cell = int(cell)
        if isinstance(cell, bytes):
            cell = cell.decode(errors="replace")
        name = str(cell).strip() if isinstance(cell, str | int | float) and cell == cell else ""
        if not name:
            raise DataError(f"{place(row)}: no text or number in the column of data.split.by; fill it in")
        found.append(name)
    return found
