"""Rows of tables as messages: the row's name and its parameters, checked by the bounds of its dataclass."""

from __future__ import annotations

from typing import Any, TypeVar

from common.errors import WireError
from common.methods.choice import Row, Table, parameters_of
from common.wire import checks
from common.wire.gen import federation_pb2 as pb

R = TypeVar("R", bound=Row)

_KINDS: dict[type, str] = {float: "number", int: "count", bool: "flag", str: "text"}
"""Where in `Parameter` a value of a type lies."""


def pack_choice(row: Row) -> pb.Choice:
    """Value to message."""
    found = pb.Choice(name=row.name)
    for key, parameter in parameters_of(type(row)).items():
        setattr(found.parameters.add(name=key), _KINDS[parameter.kind], getattr(row, key))
    return found


def unpack_choice(message: pb.Choice, rows: Table[R], field: str) -> R:
    """Message to value: a row of `rows` with all of its parameters and no others."""
    row = rows.get(message.name)
    if row is None:
        raise WireError(f"{field}: {message.name[:80]!r} is not one of {', '.join(rows)}")
    parameters = parameters_of(row)
    names = checks.distinct((item.name for item in message.parameters), field)
    if set(names) != set(parameters):
        raise WireError(f"{field}: {row.name} has the parameters {', '.join(parameters) or 'none'}, not {names}")
    values: dict[str, Any] = {}
    for item in message.parameters:
        parameter = parameters[item.name]
        if item.WhichOneof("value") != _KINDS[parameter.kind]:
            raise WireError(f"{field}.{item.name}: not a {_KINDS[parameter.kind]}")
        values[item.name] = getattr(item, _KINDS[parameter.kind])
        if parameter.bounds is not None and (problem := parameter.bounds.problem(values[item.name])):
            raise WireError(f"{field}.{item.name}: {problem}")
    made = row(**values)
    if problems := made.problems():
        raise WireError(f"{field}.{problems[0]}")
    return made
