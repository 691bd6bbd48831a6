"""Rows of the tables from which a configuration chooses by name.

A row is a frozen dataclass: its fields are the parameters that it reads, annotated with their `Bounds`. Configuration,
messages and documents are made from it, so that nothing about a row stands anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast, get_args, get_origin, get_type_hints

LARGEST = 1e6
"""Of rates and strengths: no method wants more, and products of a few of them stay finite in float32."""


@dataclass(frozen=True)
class Bounds:
    """What a number may be, besides finite; None: no bound on that side."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: float) -> str | None:
        """What is wrong with a value, or None."""
        if not math.isfinite(value):
            return f"{value} is not a finite number"
        for words, limit, wrong in (
            ("at least", self.least, self.least is not None and value < self.least),
            ("at most", self.most, self.most is not None and value > self.most),
            ("more than", self.above, self.above is not None and value <= self.above),
            ("less than", self.below, self.below is not None and value >= self.below),
        ):
            if wrong:
                return f"{value:g} is out of range; write {words} {limit:g}"
        return None


Strength = Annotated[float, Bounds(least=0, most=LARGEST)]
Rate = Annotated[float, Bounds(above=0, most=LARGEST)]
Share = Annotated[float, Bounds(least=0, most=1)]
Epochs = Annotated[int, Bounds(least=0, most=2**31 - 1)]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a row: its type, what a number may be, and its default."""

    attribute: str
    """Of the row; its name, unless that is a word of Python."""
    kind: Any
    bounds: Bounds | None
    default: object
    """`...` where there is none, so that it must be written."""


class Row:
    """Base of all rows. `name` is what a configuration and a message call it."""

    name: ClassVar[str]

    def values(self) -> dict[str, Any]:
        """Its parameters by the names that a configuration has for them."""
        return {key: getattr(self, parameter.attribute) for key, parameter in parameters_of(type(self)).items()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The row with these parameters, by the same names."""
        known = parameters_of(cls)
        return cls(**{known[key].attribute: value for key, value in values.items()})

    def resolved(self) -> Self:
        """The same, with what it reads of files filled in.

        Raises:
            ModelError: they cannot be read, or say something impossible.
        """
        return self

    def problems(self) -> list[str]:
        """What contradicts what among the parameters, one `parameter: problem; remedy` line each."""
        return []


R = TypeVar("R", bound=Row)
Table = Mapping[str, type[R]]


def table(*rows: type[R]) -> dict[str, type[R]]:
    """Rows by name."""
    return {row.name: row for row in rows}


_PARAMETERS: dict[object, dict[str, Parameter]] = {}


def parameters_of(row: type[Row]) -> dict[str, Parameter]:
    """The parameters of a row, in its order; worked out once per row."""
    if row not in _PARAMETERS:
        hints = get_type_hints(row, include_extras=True)
        found = (_parameter(hints[field.name], field) for field in fields(cast(Any, row)))
        _PARAMETERS[row] = {parameter.attribute.removesuffix("_"): parameter for parameter in found}
    return _PARAMETERS[row]


def _parameter(hint: Any, field: Field[Any]) -> Parameter:
    default: object = field.default if field.default_factory is MISSING else field.default_factory()
    default = ... if default is MISSING else default
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return Parameter(field.name, kind, next((note for note in notes if isinstance(note, Bounds)), None), default)


def readers(rows: Table[R], key: str) -> list[str]:
    """The rows that have a parameter of this name."""
    return [name for name, row in rows.items() if key in parameters_of(row)]


def described(row: Row | None) -> dict[str, object]:
    """A row as a configuration writes it: its name, `none` for None, and its parameters; an empty text is left out."""
    if row is None:
        return {"name": "none"}
    return {"name": row.name, **{key: value for key, value in row.values().items() if value != ""}}
