"""Checks of single fields. Each takes what a message holds and the field's name, and gives the value or `WireError`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

from google.protobuf.message import Message

from common.errors import WireError
from common.names import ID_CHARS, RULE, is_id
from common.parameters.scope import Scope
from common.plain_text import blanked, is_plain, is_plain_name
from common.ports import CHUNK_BYTES, LEAST_CHUNK_BYTES
from common.wire.limits import CIRCLE_NAME, LINE_CHARS, MAX_COUNT, NAME_CHARS, SCOPE_NAME, TASK_NAME

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)
E = TypeVar("E", bound=StrEnum)

_PLACE = re.compile(r"\{(task|block)\}")
_DIGEST = re.compile(r"[0-9a-f]{8,128}")


def _matching(pattern: re.Pattern[str], value: str, field: str) -> str:
    if pattern.fullmatch(value) is None:
        raise WireError(f"{field}: {value[:80]!r} does not match {pattern.pattern}")
    return value


def identifier(value: str, field: str) -> str:
    """The id of a run, an order or a session, or another short name: see `common.names`."""
    return _id(value, field, ID_CHARS)


def _id(value: str, field: str, longest: int) -> str:
    if not is_id(value, longest):
        raise WireError(f"{field}: {value[:80]!r} is not an id of 1 to {longest} characters ({RULE})")
    return value


def optional_identifier(value: str, field: str) -> str:
    """An identifier or nothing."""
    return identifier(value, field) if value else value


def client_id(value: str, field: str = "client_id") -> str:
    """A client's id."""
    return _id(value, field, NAME_CHARS)


def task_name(value: str, field: str = "task") -> str:
    """A task's name."""
    return _matching(TASK_NAME, value, field)


def circle_name(value: str, field: str = "circle") -> str:
    """A circle's name among those of its round."""
    return _matching(CIRCLE_NAME, value, field)


def scope_name(value: str, field: str = "scope") -> str:
    """A scope's name, such as `shared` or `task/sst2`."""
    try:
        Scope.parse(_matching(SCOPE_NAME, value, field))
    except ValueError as error:
        raise WireError(f"{field}: {error}") from None
    return value


def rule_scope(value: str, field: str = "scope") -> str:
    """The scope that a sharing rule gives, in which {task} and {block} stand for names."""
    scope_name(_PLACE.sub("x", value), field)
    return value


def digest(value: str, field: str = "digest") -> str:
    """A digest in hexadecimal."""
    return _matching(_DIGEST, value, field)


def exactly(value: bytes, field: str, size: int) -> bytes:
    """So many bytes."""
    count(len(value), f"bytes of {field}", size, size)
    return value


def text(value: str, field: str, limit: int) -> str:
    """Text of at most `limit` characters."""
    if len(value) > limit:
        raise WireError(f"{field}: {len(value)} characters are more than {limit}")
    return value


def label(value: str, field: str, limit: int) -> str:
    """A text of at least one character, without control, format and other characters that show nothing."""
    if not value or not is_plain_name(text(value, field, limit)):
        raise WireError(f"{field}: {value[:80]!r} is empty or holds control characters or others that show nothing")
    return value


def line(value: str, field: str) -> str:
    """A line for a person, who may read it on a terminal: plain text and nothing else."""
    if not is_plain(text(value, field, LINE_CHARS)):
        raise WireError(f"{field}: {value[:80]!r} holds control characters or others that show nothing")
    return value


def as_line(value: str) -> str:
    """The sender's half of `line`: blanks are folded and stand for what is not plain; what is too long is cut."""
    return blanked(value[: 4 * LINE_CHARS])[:LINE_CHARS].rstrip()


def count(value: int, field: str, least: int = 0, most: int = MAX_COUNT) -> int:
    """An integer from `least` to `most`."""
    if not least <= value <= most:
        raise WireError(f"{field}: {value} is not from {least} to {most}")
    return value


def chunk_bytes(value: int, field: str = "chunk_bytes") -> int:
    """The size of chunks that a receiver asks for; 0 stands for the largest."""
    return count(value, field, LEAST_CHUNK_BYTES, CHUNK_BYTES) if value else CHUNK_BYTES


def number(value: float, field: str) -> float:
    """A finite number."""
    if not math.isfinite(value):
        raise WireError(f"{field}: {value} is not a finite number")
    return value


def amount(value: float, field: str, most: float = math.inf) -> float:
    """A finite number from 0 to `most`."""
    if not 0.0 <= number(value, field) <= most:
        raise WireError(f"{field}: {value} is not from 0 to {most}")
    return value


def member(kind: type[E], value: str, field: str) -> E:
    """The member of an enumeration that is written `value`."""
    try:
        return kind(value)
    except ValueError:
        raise WireError(f"{field}: {value[:80]!r} is not one of {', '.join(kind)}") from None


def choice(choices: Collection[str], value: str, field: str) -> str:
    """One of some names."""
    if value not in choices:
        raise WireError(f"{field}: {value[:80]!r} is not one of {', '.join(choices)}")
    return value


def items(values: Sequence[T], field: str, most: int, least: int = 0) -> Sequence[T]:
    """A list of `least` to `most` entries."""
    count(len(values), f"number of {field}", least, most)
    return values


def distinct(values: Iterable[H], field: str) -> tuple[H, ...]:
    """Values of which none comes twice."""
    result = tuple(values)
    if len(set(result)) != len(result):
        raise WireError(f"{field}: the same name comes twice")
    return result


def require(message: Message, *fields: str) -> None:
    """Check that a message holds these parts."""
    for field in fields:
        if not message.HasField(field):
            raise WireError(f"{field}: missing")
