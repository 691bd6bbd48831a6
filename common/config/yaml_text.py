"""YAML read and written without guessing: the core scalars of YAML 1.2, decimal numbers only.

PyYAML alone follows YAML 1.1, which reads `2e-5` as text, `no` as false, `1:30` as 90 and `010` as 8.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Keeps the resolvers of YAML 1.1 too, so that its text means the same to readers of either version."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        # Only the double-quoted style escapes what a reader would fold or drop.
        return self.represent_scalar(_TAG + "str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


_NUMBER = r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
_PLAIN: tuple[tuple[str, str, str | None], ...] = (
    ("null", r"~|null|Null|NULL|", None),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
)
for _name, _pattern, _first in _PLAIN:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None if _first is None else list(_first)
        )

_SCALARS: dict[str, Callable[[str], object]] = {
    _TAG + "str": str,
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: bool(("false", "true").index(text.lower())),
    _TAG + "int": int,
    _TAG + "float": lambda text: float(re.sub(r"\.(?=[in])", "", text.lower())),
}


def parse(text: str) -> tuple[Any, list[str]]:
    """Read one document of plain mappings, lists and scalars.

    Keys are always text. A repeated key is a problem, not an exception, to be reported with all others.

    Returns:
        The value (None for an empty document) and the problems, one line each.

    Raises:
        ValueError: not YAML, or YAML beyond mappings, lists and scalars; the message names line and column.
    """
    problems: list[str] = []
    try:
        node = yaml.compose(text, Loader=_Loader)
        return (None if node is None else _value(node, "", problems)), problems
    except yaml.MarkedYAMLError as error:
        place = f"{_place(error.problem_mark)}: " if error.problem_mark else ""
        raise ValueError(f"{place}{error.problem}") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"character {error.position + 1}: {error.reason}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump(value: object) -> str:
    """`value` as block-style YAML that `parse` reads back to the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110)


def _value(node: yaml.Node, path: str, problems: list[str]) -> object:
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(item, f"{path}.{i}", problems) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, path, problems)
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
        raise ValueError(f"{_place(node.start_mark)}: the tag {node.tag.replace(_TAG, '!!')} is not supported")
    try:
        return _SCALARS[node.tag](node.value)
    except ValueError:
        raise ValueError(f"{_place(node.start_mark)}: '{node.value[:40]}' does not fit its type") from None


def _mapping(node: yaml.MappingNode, path: str, problems: list[str]) -> dict[str, object]:
    result: dict[str, object] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"{_place(key_node.start_mark)}: a key must be plain text")
        key, line = key_node.value, key_node.start_mark.line + 1
        place = f"{path}.{key}" if path else key
        if key in lines:
            problems.append(f"{place}: given twice, in line {lines[key]} and in line {line}; keep one")
        lines[key] = line
        result[key] = _value(value_node, place, problems)
    return result


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
