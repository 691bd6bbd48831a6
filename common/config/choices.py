"""Keys that choose a row of a table: the row's name alone, or a section with its name and what that row reads.

Nothing of a row is written here: types, bounds and defaults are those of its dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

from pydantic import Field, GetCoreSchemaHandler, ValidationError, create_model
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from common.config.values import Section, Text
from common.methods.choice import Parameter, Row, Table, described, parameters_of, readers

R = TypeVar("R", bound=Row)


class Chosen(Generic[R]):
    """Annotates a key whose value is a row of `rows`; with `none` it may also be None, written none."""

    def __init__(self, rows: Table[R], none: bool = False) -> None:
        self.rows, self.none = rows, none

    @property
    def names(self) -> list[str]:
        """What may be written; the first is meant where only parameters are given."""
        return [*(["none"] if self.none else []), *self.rows]

    def model_of(self, key: str) -> type[Section] | None:
        """The section of the first row that reads a key."""
        return next((section_of(self.rows[name]) for name in readers(self.rows, key)), None)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's way to be told what to do with a value."""
        return core_schema.no_info_plain_validator_function(
            self._row, serialization=core_schema.plain_serializer_function_ser_schema(described)
        )

    def _row(self, body: Any) -> R | None:
        if isinstance(body, Row) or (body is None and self.none):
            return body  # type: ignore[return-value]
        if not isinstance(body, Mapping):
            return self._made({"name": body}, ())
        return self._made(body, ("name",))

    def _made(self, body: Mapping[str, Any], place: tuple[str, ...]) -> R | None:
        name = body.get("name", self.names[0])
        if name not in self.names:
            choices = ", ".join(self.names[:-1]) + f" or {self.names[-1]}"
            raise _errors([_problem(place, f"'{name}' is not a choice; write {choices}", body)])
        row = self.rows.get(str(name))
        known = {} if row is None else parameters_of(row)
        found = [
            _problem((key,), self._unread(key, str(name)), value)
            for key, value in body.items()
            if key != "name" and key not in known and readers(self.rows, key)
        ]
        own = {k: v for k, v in body.items() if k != "name" and (k in known or not readers(self.rows, k))}
        section = Section if row is None else section_of(row)
        try:
            values = section.model_validate(own)
        except ValidationError as error:
            raise _errors([*found, *map(_again, error.errors())]) from None
        made = None if row is None else row.of({key: getattr(values, key) for key in known})
        found += [_problem(*_placed(line), body) for line in (made.problems() if made is not None else [])]
        if found:
            raise _errors(found)
        return None if made is None else made.resolved()

    def _unread(self, key: str, name: str) -> str:
        others = " or ".join(readers(self.rows, key))
        return f"not read by {name}; write name: {others}, or remove it"


_SECTIONS: dict[object, type[Section]] = {}


def section_of(row: type[Row]) -> type[Section]:
    """The section of a row's parameters; made once per row."""
    if row not in _SECTIONS:
        keys: dict[str, Any] = {key: (_strict(p), p.default) for key, p in parameters_of(row).items()}
        _SECTIONS[row] = create_model(row.__name__, __base__=Section, **keys)
    return _SECTIONS[row]


def _strict(parameter: Parameter) -> Any:
    kind, bounds = _written(parameter.kind), parameter.bounds
    if bounds is None:
        return kind
    return Annotated[kind, Field(ge=bounds.least, le=bounds.most, gt=bounds.above, lt=bounds.below)]


def _written(kind: Any) -> Any:
    """A type as a file writes it: lists for tuples, texts that are not empty."""
    if kind is str:
        return Text
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return Annotated[tuple[tuple(i if i is ... else _written(i) for i in inner)], Field(strict=False)]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[Text, _written(inner[1])]  # type: ignore[misc]
    return kind


def _placed(line: str) -> tuple[tuple[str, ...], str]:
    place, _, text = line.partition(": ")
    return tuple(place.split(".")), text


def _problem(place: tuple[str, ...], text: str, value: Any) -> InitErrorDetails:
    error = PydanticCustomError("value_error", "{error}", {"error": text})
    return InitErrorDetails(type=error, loc=place, input=value)


def _again(details: Any) -> InitErrorDetails:
    """What `from_exception_data` takes of one of the errors that pydantic gave."""
    if details["type"] == "value_error":
        return _problem(details["loc"], str(details["ctx"]["error"]), details["input"])
    return InitErrorDetails(
        type=details["type"], loc=details["loc"], input=details["input"], ctx=details.get("ctx", {})
    )


def _errors(problems: list[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data("choice", problems)
