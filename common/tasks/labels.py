"""From a cell of a table to a label. Problems are worded for a person and never quote more than a label."""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal

from common.targets import LARGEST_TARGET

SEPARATOR = "|"
LISTED_NAMES = 10
LISTED_LABELS = 12
QUOTED_CHARACTERS = 24
LARGEST_LITERAL = 1 << 16
"""Characters of a list as Python writes it; JSON may be longer."""

_NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,3})?")
_NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_TRUTH = {"true": 1, "false": 0}
_YES = frozenset({"true", "t", "yes", "y", "on", "positive", "pos"})
_NO = frozenset({"false", "f", "no", "n", "off", "negative", "neg"})
_NEGATIONS = ("not_", "not-", "not ", "no_", "no-", "no ", "non_", "non-", "non", "un")


class CellError(ValueError):
    """A cell cannot be used: the text says what is wrong and what to do; whoever catches it adds where."""


def quoted(value: object) -> str:
    """`value` for a message, or only its size where it could be a sentence rather than a label."""
    text = str(value)
    if len(text) > QUOTED_CHARACTERS or len(text.split()) > 2:
        return f"(a value of {len(text)} characters)"
    return repr(text)


class LabelNames:
    """What a cell may call the labels of a task: names first, then whole numbers, then booleans for two labels.

    A name counts as it is written; else where it is equal but for case, or the same number (1, 1.0, +1), if it is the
    only such name. A number that is no name is an index from 0, and true and false are 1 and 0. Where names speak
    against that, as in (1, 2, 3) or (yes, no), the cell is refused: nobody else can say what was meant.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._exact = {name: index for index, name in enumerate(labels)}
        self._folded: defaultdict[str, list[int]] = defaultdict(list)
        self._numbers: defaultdict[Decimal, list[int]] = defaultdict(list)
        for index, name in enumerate(labels):
            self._folded[name.casefold()].append(index)
            if (number := _number(name)) is not None:
                self._numbers[number].append(index)
        self._known: dict[tuple[type, object], int] = {}

    def index(self, value: object) -> int:
        """The index of the label that a cell names."""
        key = (type(value), value)
        if not isinstance(value, str | int | float):
            return self._read(value, booleans=True)
        if key not in self._known:
            self._known[key] = self._read(value, booleans=True)
        return self._known[key]

    def indices(self, value: object) -> tuple[int, ...]:
        """The indices of the labels in a cell, ascending.

        A cell is a list, a list as text (JSON, or as Python and numpy write it), or items separated by `|`; an empty
        text means none. Zeros and ones, one for each label, say which apply; other lists hold each label once.
        """
        items = self._items(value)
        chosen = self._one_hot(items)
        try:
            listed = self._listed(items)
        except CellError:
            if chosen is None:
                raise
            return chosen
        if chosen is None or chosen == listed:
            return listed
        raise CellError(
            f"the list {quoted(value)} could name labels, or say no (0) and yes (1) to each; "
            "write the labels' names, or true and false for each label"
        )

    def _read(self, value: object, *, booleans: bool) -> int:
        text = _text(None if isinstance(value, float) and math.isnan(value) else value)
        if text in self._exact:
            return self._exact[text]
        found = self._folded.get(text.casefold(), [])
        number = _number(text)
        if not found and number is not None:
            found = self._numbers.get(number, [])
        if len(found) > 1:
            raise CellError(f"label {quoted(text)} fits {self._some(found)}; write one of them exactly")
        if found:
            return found[0]
        if number is not None:
            return self._counted(text, number)
        if booleans and len(self._labels) == 2 and text.casefold() in _TRUTH:
            return self._boolean(text, _TRUTH[text.casefold()])
        raise self._unknown(text)

    def _counted(self, text: str, number: Decimal) -> int:
        """A number that is no name, as an index."""
        if number != number.to_integral_value():
            raise self._unknown(text)
        other = next((name for name, places in self._numbers.items() if places != [name]), None)
        if other is not None:
            raise CellError(
                f"label {quoted(text)} is no name, and no index either, since the names are numbers themselves; "
                f"write one of {self._some(range(len(self._labels)))}"
            )
        if not 0 <= number < len(self._labels):
            raise CellError(f"label {quoted(text)} is out of range; the task has labels 0..{len(self._labels) - 1}")
        if [name.casefold() for name in self._labels] == ["true", "false"]:
            raise self._unclear(text, int(number))
        return int(number)

    def _boolean(self, text: str, truth: int) -> int:
        first, second = (name.casefold() for name in self._labels)
        turned = first in _YES or second in _NO or second in {negation + first for negation in _NEGATIONS}
        if turned or self._numbers.get(Decimal(truth), [truth]) != [truth]:
            raise self._unclear(text, truth)
        return truth

    def _unclear(self, text: str, index: int) -> CellError:
        return CellError(
            f"label {quoted(text)} could be index {index}, '{self._labels[index]}', or its contrary; write the name"
        )

    def _unknown(self, text: str) -> CellError:
        some = self._some(range(len(self._labels)))
        return CellError(f"unknown label {quoted(text)}; use one of {some} or an index 0..{len(self._labels) - 1}")

    def _some(self, places: Sequence[int]) -> str:
        names = [self._labels[place] for place in places[:LISTED_NAMES]]
        return ", ".join(names + ["..."] * (len(places) > LISTED_NAMES))

    def _items(self, value: object) -> Sequence[object]:
        if callable(plain := getattr(value, "tolist", None)):  # an array
            value = plain()
        if isinstance(value, str):
            text = value.strip()
            if text in self._exact or not text.startswith("["):
                return text.split(SEPARATOR) if text else []
            value = _list_in(text)
        if value is None:
            raise CellError("the label is missing; fill it in, with [] for none, or remove the row")
        if not isinstance(value, list | tuple):
            raise CellError(f"label {quoted(value)} is not a list; give a list or names separated by {SEPARATOR}")
        return value

    def _one_hot(self, items: Sequence[object]) -> tuple[int, ...] | None:
        """The labels that apply where a list says so for each, else None."""
        if len(items) != len(self._labels):
            return None
        said = [_zero_or_one(item) for item in items]
        return None if None in said else tuple(index for index, applies in enumerate(said) if applies)

    def _listed(self, items: Sequence[object]) -> tuple[int, ...]:
        found: set[int] = set()
        for item in items:
            index = self._read(item, booleans=False)
            if index in found:
                raise CellError(f"label {quoted(self._labels[index])} is in the list twice; keep one")
            found.add(index)
        return tuple(sorted(found))


def _list_in(text: str) -> object:
    """A list as JSON, as Python writes it, or numbers between blanks as numpy does."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if not text.endswith("]") or len(text) > LARGEST_LITERAL:
        raise CellError("the label starts with [ but is not a JSON list; mend the list")
    words = text[1:-1].replace(",", " ").split()
    if all(map(_NUMBER.fullmatch, words)):
        return words
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise CellError("the label starts with [ but is not a JSON list; mend the list") from None


def _zero_or_one(item: object) -> int | None:
    text = str(item).strip()
    number = _number(text)
    if number is not None:
        return int(number) if number in (0, 1) else None
    return _TRUTH.get(text.casefold())


def _number(text: str) -> Decimal | None:
    """The number that a text writes in plain digits, exactly."""
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def read_score(value: object) -> float:
    """The number in a cell, up to 1e30 in decimal digits.

    Raises:
        CellError: there is none.
    """
    text = _text(value)
    # Python reads 1_0 as ten, which in a data file is a slip.
    if not _NUMBER.fullmatch(text) and not _NO_NUMBER.fullmatch(text):
        raise CellError(f"{quoted(text)} is not a number; give a score such as 3.5")
    score = float(text)
    if not abs(score) <= LARGEST_TARGET:
        bound = f"is not a finite number up to {LARGEST_TARGET:g}"
        raise CellError(f"score {quoted(text)} {bound}; mend or remove the row, or use another unit")
    return score


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    text = "" if value is None else str(value).strip()
    if not text:
        raise CellError("the label is missing; fill it in or remove the row")
    return text


def balance_of(names: Sequence[str], labels: Sequence[int | float | tuple[int, ...]], *more: str) -> str:
    """Each label's examples and their share, the most frequent labels first; then what `more` there is to say."""
    counts: Counter[int] = Counter()
    for label in labels:
        counts.update(label if isinstance(label, tuple) else [int(label)])
    frequent = counts.most_common(LISTED_LABELS)
    said = [f"{names[index]} {count} ({count / len(labels):.0%})" for index, count in frequent]
    said += more
    if len(counts) > len(frequent):
        said.append(f"{len(counts) - len(frequent)} more labels")
    lacking = [name for index, name in enumerate(names) if index not in counts]
    if lacking:
        shown = ", ".join(lacking[:LISTED_LABELS]) + ", ..." * (len(lacking) > LISTED_LABELS)
        said.append(f"no row of {shown}")
    return f"labels: {', '.join(said)}"
