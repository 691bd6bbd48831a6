"""Validation errors in a person's words: `path: what is wrong with the value; remedy`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from common.config.places import field_at, is_choice, keys_at
from common.config.schema import Config
from common.config.values import closeness

_WANTED = {
    "int_type": ("a whole number", "10"),
    "float_type": ("a number", "0.5"),
    "string_type": ("text", "'abc'"),
    "bool_type": ("true or false", "true"),
    "tuple_type": ("a list", "[a, b]"),
    "dict_type": ("a section", "key: value lines"),
    "model_type": ("a section", "key: value lines"),
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def explain(error: ValidationError, root: type[BaseModel] = Config) -> list[str]:
    """One line per problem, in the order of the schema `root`."""
    return [f"{_path(details)}: {_problem(details, root)}" for details in error.errors(include_url=False)]


def _path(details: ErrorDetails) -> str:
    return ".".join(str(part) for part in details["loc"] if part != "[key]") or "configuration"


def _problem(details: ErrorDetails, root: type[BaseModel]) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return f"unknown key; {_suggestion(details['loc'], root)}"
    if kind == "missing":
        return "missing; add it"
    if value is None:
        return f"no value given; {_example(details, root)} or leave the key out"
    if kind in ("literal_error", "enum"):
        return f"{_shown(value)} is not a choice; write {context['expected'].replace(chr(39), '')}"
    if kind == "finite_number":
        return f"{_shown(value)} is not a finite number; {_example(details, root)}"
    if kind in _WANTED:
        return f"{_shown(value)} is not {_WANTED[kind][0]}{_got(value)}; {_example(details, root)}"
    bounds = [f"{words} {_plain(context[key])}" for key, words in _BOUNDS.items() if key in context]
    if bounds:
        return f"{_shown(value)} is out of range; write {bounds[0]}"
    if kind in ("string_too_short", "too_short"):
        return "is empty; write a value or leave the key out"
    return f"{_shown(value)}: {details['msg']}"


def _suggestion(place: Sequence[int | str], root: type[BaseModel]) -> str:
    """The key that was probably meant: nearly the same here, what this shortens, or the same in another section."""
    key, known = str(place[-1]), keys_at(place[:-1], root)
    short = key.lower()
    beside = [(*place[:-1], one) for one in known]
    elsewhere = [f"{one[-1]}.{key}" for one in beside if is_choice(one, root) and key in keys_at(one, root)]
    elsewhere += [f"{section}.{key}" for section in root.model_fields if key in keys_at((section,), root)]
    longer = [name for name in known if name.startswith(short) or {*short.split("_")} <= {*name.split("_")}]
    meant = get_close_matches(short, known, 1, cutoff=closeness(short)) or longer or elsewhere
    return f"did you mean '{meant[0]}'?" if meant else f"known here are {', '.join(known)}"


def _example(details: ErrorDetails, root: type[BaseModel]) -> str:
    """How to write it: the same value in the right form where that is clear, else the default."""
    kind, value = details["type"], details["input"]
    meant = _number(value)
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"write it in quotes: '{_plain(value)}'"
    if kind == "float_type" and meant is not None:
        return f"write {_plain(meant)}"
    if kind == "int_type" and meant is not None and meant.is_integer():
        return f"write {int(meant)}"
    field = field_at(details["loc"], root)
    if field is not None and isinstance(field.default, bool | int | float | str):
        return f"write e.g. {_plain(field.default)}"
    return f"write e.g. {_WANTED.get(kind, ('', '0.5'))[1]}"


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _got(value: object) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return f" (got {kinds[type(value)]})" if type(value) in kinds else ""


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return f"'{_plain(value)}'" if isinstance(value, str) else _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:g}" if isinstance(value, float) and value.is_integer() else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
