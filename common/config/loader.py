"""From a file and overrides to a checked configuration, with every problem at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from common.config import checks
from common.config.checks import Role
from common.config.messages import explain
from common.config.places import is_choice, wants_text
from common.config.schema import Config
from common.config.yaml_text import parse
from common.errors import ConfigError


def load_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    role: Role = "any",
    given: Mapping[str, object] = MappingProxyType({}),
) -> Config:
    """Read, override and check a configuration.

    Args:
        path: a YAML file; None starts from the defaults alone.
        overrides: `a.b.c=value` each, applied in order; a missing section is made. The value is YAML, except that what
            looks like a number is taken as it is written where the key wants a text.
        role: what this process acts as; `server` and `client` must protect connections to other machines.
        given: key -> value, applied last and as it is.

    Raises:
        ConfigError: with one line for each problem.
    """
    raw, problems = _read(path) if path else ({}, [])
    for override in overrides:
        problems += _apply(raw, override)
    for key, value in given.items():
        problems += _put(raw, key.split("."), value, f"{key}={value}")
    return _checked(raw, problems, role)


def vary(config: Config, changes: Mapping[str, object], forget: Sequence[str] = (), role: Role = "any") -> Config:
    """The configuration with other values at some paths, checked as a whole.

    Args:
        config: what to start from.
        changes: path -> value, such as `training.mu`; a missing section is made.
        forget: paths of keys or sections that go back to their defaults before.
        role: see `load_config`.

    Raises:
        ConfigError: with one line for each problem.
    """
    raw = config.model_dump(mode="json", exclude_unset=True)
    for path in forget:
        *sections, key = path.split(".")
        body: Any = raw
        for name in sections:
            body = body.get(name, {})
        body.pop(key, None)
    problems = [line for path, value in changes.items() for line in _put(raw, path.split("."), value, path)]
    return _checked(raw, problems, role)


def values_in_list(text: str, where: str) -> list[object]:
    """Values with commas between them, as an override reads each; `where` begins a message.

    Raises:
        ConfigError: they are no YAML.
    """
    try:
        found, problems = parse(f"[{text}]")
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; write values with commas between them, such as 1e-4,2e-4") from None
    if problems:
        raise ConfigError(*(f"{where}: {problem}" for problem in problems))
    return list(found)


def _checked(raw: dict[str, Any], problems: list[str], role: Role) -> Config:
    config, refused, broken = _validate(raw)
    problems = problems + refused + checks.problems(config, role, broken)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return config


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        value, problems = parse(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check --config") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{path}: not a mapping of sections; write e.g. tasks: {{sst2: {{}}}}")
    return value or {}, problems


def _apply(raw: dict[str, Any], override: str) -> list[str]:
    """Set one value in place; an unknown path is left for the schema to refuse."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return [f"override '{override}': not of the form path=value; write e.g. training.num_rounds=3"]
    try:
        value, problems = parse(text)
    except ValueError as error:
        return [f"override '{override}': {error}; put the value in quotes of its own"]
    if isinstance(value, bool | int | float) and wants_text(keys):
        value = text.strip()
    return [f"override '{override}': {problem}" for problem in problems] + _put(raw, keys, value, override)


def _put(raw: dict[str, Any], keys: Sequence[str], value: object, override: str) -> list[str]:
    section = raw
    for depth, key in enumerate(keys[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
        if isinstance(section[key], str) and is_choice(keys[:depth]):
            section[key] = {"name": section[key]}
        section = section[key]
        if not isinstance(section, dict):
            return [f"override '{override}': {'.'.join(keys[:depth])} is not a section; set it as a whole"]
    section[keys[-1]] = value
    return []


def _validate(raw: dict[str, Any]) -> tuple[Config, list[str], set[str]]:
    """The configuration without what the schema refuses, the problems, and the sections that were refused.

    What is left is good enough for the rules that span sections, so that a person sees their problems too.
    """
    try:
        return Config.model_validate(raw), [], set()
    except ValidationError as error:
        lines, places = explain(error), [tuple(map(str, e["loc"])) for e in error.errors()]
    broken = {place[0] for place in places}
    refused_tasks = {place[1] for place in places if place[0] == "tasks" and len(place) > 1}
    rest = {name: body for name, body in raw.items() if name not in broken}
    if refused_tasks:
        rest["tasks"] = {name: body for name, body in raw["tasks"].items() if name not in refused_tasks}
    return Config.model_validate(rest), lines, broken
