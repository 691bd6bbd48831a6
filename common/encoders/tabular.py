"""A table's columns, some of them categories, and layers over them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from common.encoders.mlp import Dropout
from common.encoders.row import MOST_ENTRIES, MOST_LAYERS, ArrayEncoder, sizes_problems
from common.methods.choice import Bounds
from common.wire.limits import CONFIG_CHARS, LABEL_CHARS

if TYPE_CHECKING:
    from common.inputs.kind import Encoder

NUMBER, LOG = "number", "log"
MISSING, UNKNOWN, NAMED = 0, 1, 2
"""Where a category's row is among those of its column: no value, a value that is not named, the first that is."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    categories: tuple[str, ...] = ()
    """In their order; none of a number."""
    log: bool = False
    """Whether a number x is read as sign(x) log(1 + |x|)."""


@dataclass(frozen=True)
class TabularEncoder(ArrayEncoder):
    """Layers over numbers, each with a mark where it is missing, and embeddings of categories (Guo and Berkhahn 2016).

    Columns and categories have no order of their own: they are sorted here, so that whoever names the same ones
    describes the same encoder.
    """

    name = "tabular"
    kind = "tables"
    example = "columns: {age: number, income: log, city: [north, south]}"

    columns: Mapping[str, Any]
    """each with number, log (a number x read as log(1 + x)), or the list of its categories: {age: number, income: log,
    city: [north, south]}"""
    hidden: tuple[int, ...] = (64,)
    """widths of its layers; heads read the last one; []: heads read numbers, marks and embeddings themselves"""
    embedding: Annotated[int, Bounds(least=1, most=1000)] = 8
    """width of what stands for a category"""
    dropout: Dropout = 0.0
    """after each layer and before the head"""

    def __post_init__(self) -> None:
        columns = {name: _in_order(kind) for name, kind in sorted(self.columns.items())}
        object.__setattr__(self, "columns", columns)

    @property
    def layout(self) -> tuple[Column, ...]:
        """The columns in the order in which a row has them."""
        return tuple(
            Column(name, tuple(kind)) if isinstance(kind, list) else Column(name, log=kind == LOG)
            for name, kind in self.columns.items()
        )

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `ArrayEncoder`."""
        return (len(self.columns),)

    @property
    def row_names(self) -> tuple[str, ...]:
        """See `ArrayEncoder`."""
        return tuple(_said(name, kind) for name, kind in self.columns.items())

    @property
    def categories(self) -> tuple[int, ...]:
        """See `ArrayEncoder`."""
        return tuple(place for place, column in enumerate(self.layout) if column.categories)

    def build(self) -> Encoder:
        """See `ArrayEncoder`."""
        from common.models.tabular import TabularNetwork

        return TabularNetwork(self)

    def problems(self) -> list[str]:
        """See `Row`."""
        if not 1 <= len(self.columns) <= MOST_ENTRIES:
            return [f"columns: {len(self.columns)} of them; write 1 to {MOST_ENTRIES}, e.g. {{age: number}}"]
        wrong = [f"columns.{name}: {text}" for name, kind in self.columns.items() if (text := _problem(name, kind))]
        if not wrong and len(self.describe()) > CONFIG_CHARS:
            wrong = [f"columns: their names and categories take more than {CONFIG_CHARS} characters; merge rare ones"]
        return wrong + sizes_problems("hidden", self.hidden)


def category_text(value: object) -> str:
    """A category as text: what pandas makes 1.0 of, for a gap in the column, is 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _in_order(kind: Any) -> Any:
    if not isinstance(kind, list | tuple):
        return kind
    named = [category_text(item) if type(item) in (int, float) else item for item in kind]
    return sorted(named) if all(isinstance(item, str) for item in named) else named


def _problem(name: str, kind: Any) -> str | None:
    if not name.strip() or len(name) > LABEL_CHARS:
        return f"a column's name has 1 to {LABEL_CHARS} characters"
    if not isinstance(kind, list):
        return None if kind in (NUMBER, LOG) else f"{kind!r:.80} is no kind; write number, log or a list of categories"
    if not 1 <= len(kind) <= MOST_LAYERS:
        return f"{len(kind)} categories; write 1 to {MOST_LAYERS}, and leave rare ones out: they count as unknown"
    for at, item in enumerate(kind):
        if not isinstance(item, str) or not item.strip() or item != item.strip():
            return f"{item!r:.80} is no category; write a text without blanks around it, in quotes if need be"
        if item in kind[:at]:
            return f"'{item:.80}' is there twice; keep one"
    return None


def _said(name: str, kind: Any) -> str:
    """What a column is, in so few characters that it travels whole; another one is said differently."""
    text = f"{name}: {kind if isinstance(kind, str) else json.dumps(kind, ensure_ascii=False)}"
    if len(text) <= LABEL_CHARS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{name[: LABEL_CHARS // 2]}: {len(kind)} categories with digest {digest}"
