"""Writes what people read of the configuration from its descriptions: `make docs`.

`federated_config.yaml` shows every key with its default (`SHIPPED` has what differs), `docs/use/configuration.md` also
every row of every choice.
Texts are the strings under the attributes of sections and rows; bounds and defaults are those that are checked.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.config.choices import Chosen  # noqa: E402
from common.config.schema import Config  # noqa: E402
from common.config.server_section import RosterSection  # noqa: E402
from common.config.task_section import ColumnsSection, HubSetSection, TaskSection  # noqa: E402
from common.config.values import Section  # noqa: E402
from common.config.yaml_text import dump  # noqa: E402
from common.methods.choice import Bounds, Row, parameters_of, readers  # noqa: E402

YAML, PAGE = ROOT / "federated_config.yaml", ROOT / "docs" / "use" / "configuration.md"
COLUMN, WIDTH = 40, 120
SHIPPED = {"blend.enabled": True}
"""What the shipped file says although it is not the default: nobody is worse off by it, and it costs time."""
HEAD = """\
# The complete configuration: every key with its default, but for blend, which is on here (its default is off).
# What you leave out keeps its default, `null` means "not set".
# Runs as it is, offline. Any value can be replaced on the command line by its path: training.num_rounds=3
# Made by `make docs` from the descriptions in common/config and common/methods. Keys after `#` are read by other rows.
"""
TASKS = """\
  sst2:                                 # GLUE's sst2 qqp stsb mrpc rte cola qnli mnli wnli are known: a name is enough
    train_samples: 1000
    val_samples: 200
  qqp:
    train_samples: 1000
    val_samples: 200
  stsb:
    train_samples: 1000
    val_samples: 200
  # topics:                             # a task of your own; needs data.dir
"""
EXAMPLES = {
    "train_samples": "1000",
    "val_samples": "200",
    "type": "classification",
    "labels": "[world, sport, science]",
    "text": "headline",
    "text_pair": "body",
    "label": "topic",
    "metrics": "[accuracy, f1]",
    "weight": "1.0",
    "auxiliary": "false",
    "class_weights": "none",
    "name": "org/set",
    "config": "plain",
    "revision": "main",
    "train": "train",
    "validation": "validation",
    "test": "test",
}
RULES = """\
  # rules:                              # plan hard, written as rules
  #   - heads.{task}.*: task/{task}     # short for {match: "heads.{task}.*", scope: "task/{task}"}
  #   - "*": shared
"""
METHODS = """\
  # methods:
  #   bold_cagrad: {aggregation.conflict: {name: cagrad, radius: 0.8}}
"""


@cache
def texts_of(owner: type) -> dict[str, str]:
    """The strings under the attributes of a class and of its bases."""
    found: dict[str, str] = {}
    for each in reversed(owner.__mro__):
        if not each.__module__.startswith(("builtins", "typing", "pydantic")):
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            assert isinstance(node, ast.ClassDef)
            for one, other in zip(node.body, node.body[1:], strict=False):
                if isinstance(one, ast.AnnAssign) and isinstance(other, ast.Expr):
                    assert isinstance(one.target, ast.Name) and isinstance(other.value, ast.Constant)
                    found[one.target.id] = " ".join(str(other.value.value).split())
    return found


def choice_of(field: Any) -> Chosen[Any] | None:
    """What is chosen at a field, if it is a row of a table."""
    inner = [note for kind in get_args(field.annotation) for note in getattr(kind, "__metadata__", ())]
    return next((note for note in [*field.metadata, *inner] if isinstance(note, Chosen)), None)


def written(value: object) -> str:
    """A default as YAML in one line; nothing where a value must be written."""
    if value is ...:
        return "required"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float) and value.is_integer() and value >= 10:
        return str(int(value))
    return "{}" if value == {} else "null" if value is None else dump(value).removesuffix("...\n").strip()


def row_text(row: type[Row]) -> str:
    """The first line of a row's description."""
    return str(row.__doc__).partition("\n")[0]


def line_of(indent: int, key: str, value: str, text: str, comment: bool = False, shift: int = 0) -> str:
    """One key with its comment, wrapped; `shift` is how many characters will stand before it."""
    column = COLUMN - shift
    start = " " * indent + ("# " if comment else "") + f"{key}:" + (f" {value}" if value else "")
    if not text:
        return start + "\n"
    parts = textwrap.wrap(text, WIDTH - COLUMN - 4, break_on_hyphens=False, break_long_words=False)
    more = [" " * column + "#   " + part for part in parts[1:]]
    return "\n".join([f"{start:<{column - 1}} # {parts[0]}", *more]) + "\n"


def parameters_in(rows: Chosen[Any]) -> Iterator[tuple[str, Any, str, list[str]]]:
    """Every parameter of a choice: its name, description, text, and the rows that read it."""
    for key in dict.fromkeys(key for row in rows.rows.values() for key in parameters_of(row)):
        names = readers(rows.rows, key)
        first = rows.rows[names[0]]
        yield key, parameters_of(first)[key], texts_of(first).get(key, ""), names


def yaml_choice(indent: int, key: str, chosen: Chosen[Any], text: str) -> str:
    """A choice with its rows' names and, as comments, what they read."""
    found = line_of(indent, key, "", text) + line_of(indent + 2, "name", chosen.names[0], " | ".join(chosen.names))
    for name, parameter, note, names in parameters_in(chosen):
        found += line_of(indent + 2, name, written(parameter.default), f"{', '.join(names)}: {note}", comment=True)
    return found


def yaml_parameters(indent: int, key: str, chosen: Chosen[Any], text: str) -> str:
    """A section that is left out unless it is needed, and its keys, all as comments."""
    found = line_of(indent, key, "null", text)
    for name, parameter, note, _ in parameters_in(chosen):
        found += line_of(indent + 2, name, written(parameter.default), note, comment=True)
    return found


def yaml_section(section: type[Section], indent: int, path: str = "") -> str:
    """The keys of a section, whose own key ends its path."""
    found, texts = "", texts_of(section)
    for key, field in section.model_fields.items():
        chosen, default = choice_of(field), field.get_default(call_default_factory=True)
        if isinstance(default, Section):
            found += line_of(indent, key, "", texts.get(key, ""))
            found += yaml_section(type(default), indent + 2, f"{path}{key}.")
        elif chosen is not None and len(chosen.rows) == 1 and not chosen.none:
            found += yaml_parameters(indent, key, chosen, texts.get(key, ""))
        elif chosen is not None and not (default is None and not chosen.none):
            found += yaml_choice(indent, key, chosen, texts.get(key, ""))
        else:
            found += line_of(indent, key, written(SHIPPED.get(path + key, default)), texts.get(key, ""))
    return found


def yaml_tasks() -> str:
    """The tasks of the shipped file, and one of a person's own as an example."""
    found, texts = TASKS, texts_of(TaskSection) | texts_of(ColumnsSection) | texts_of(HubSetSection)
    for key in TaskSection.model_fields:
        if key == "columns":
            found += example_of(1, key, texts)
            found += "".join(example_of(2, inner, texts) for inner in ("text", "text_pair", "label"))
        elif key == "dataset":
            found += example_of(1, key, texts)
            found += "".join(example_of(2, inner, texts) for inner in HubSetSection.model_fields)
        elif not key.endswith("_samples"):
            found += example_of(1, key, texts)
    return found


def example_of(depth: int, key: str, texts: dict[str, str]) -> str:
    """A commented key of the example task."""
    lines = line_of(2 * depth, key, EXAMPLES.get(key, ""), texts[key], shift=4).splitlines()
    return "".join(f"  # {line}\n" for line in lines)


def yaml() -> str:
    """The text of federated_config.yaml."""
    found, texts = HEAD, texts_of(Config)
    for key, field in Config.model_fields.items():
        chosen, default = choice_of(field), field.get_default(call_default_factory=True)
        found += "\n"
        if chosen is not None:
            found += yaml_choice(0, key, chosen, texts.get(key, ""))
        elif key == "tasks":
            found += line_of(0, key, "", texts.get(key, "")) + yaml_tasks()
        else:
            found += line_of(0, key, "", texts.get(key, "")) + yaml_section(type(default), 2, f"{key}.")
        found += {"sharing": RULES, "compare": METHODS}.get(key, "")
    return found


def bounds_text(bounds: Bounds | None) -> str:
    """What a number may be, in words."""
    if bounds is None:
        return ""
    pairs = (("", bounds.least, " or more"), ("more than ", bounds.above, ""), ("at most ", bounds.most, ""))
    said = [f"{a}{n:g}{b}" for a, n, b in (*pairs, ("less than ", bounds.below, "")) if n is not None]
    return ", ".join(said)


def page_rows(section: type[Section], prefix: str, choices: dict[str, Chosen[Any]]) -> Iterator[str]:
    """The table's lines of a section; choices are collected for tables of their own."""
    texts = texts_of(section)
    for key, field in section.model_fields.items():
        chosen, default, path = choice_of(field), field.get_default(call_default_factory=True), f"{prefix}{key}"
        text = texts.get(key, "").replace("|", "\\|")
        if isinstance(default, Section):
            yield from page_rows(type(default), f"{path}.", choices)
        elif path == "server.clients":
            yield f"| `{path}` | `null` | {text} |"
            yield from page_rows(RosterSection, f"{path}.<id>.", choices)
        elif path == "tasks":
            yield from page_rows(TaskSection, "tasks.<name>.", choices)
        elif chosen is not None and len(chosen.rows) == 1 and not chosen.none:
            yield f"| `{path}` | `null` | {text} |"
            for name, parameter, note, _ in parameters_in(chosen):
                said = "; ".join(filter(None, (note.replace("|", "\\|"), bounds_text(parameter.bounds))))
                yield f"| `{path}.{name}` | `{written(parameter.default)}` | {said} |"
        elif chosen is not None:
            choices[path] = chosen
            name = chosen.names[0] if default is not None or chosen.none else "null"
            yield f"| `{path}` | `{name}` | {text}; [rows](#{path.replace('.', '')}) |"
        else:
            yield f"| `{path}` | `{written(default)}` | {text} |"


def page() -> str:
    """The text of docs/use/configuration.md."""
    choices: dict[str, Chosen[Any]] = {}
    table = "\n".join(page_rows(Config, "", choices))
    found = f"""\
# Configuration reference

Made by `make docs` from the descriptions in `common/config` and `common/methods`; do not edit.

`federated_config.yaml` holds every key with its default, but for `blend`, which is on there, and runs as it is. A
short file is enough; what it leaves out keeps its default. Unknown and repeated keys are errors, and all problems are
reported at once. Any key can be set on the command line: `--set training.num_rounds=3`. What belongs to training
travels from the coordinator with each order; `data` and `client` are each client's own.

A key that chooses a row of a table takes its name (`training.procedure: fedprox`) or a section with the name and what
that row reads (`training.procedure: {{name: fedprox, mu: 0.5}}`). A parameter that the chosen row does not read is
refused.

| key | default | meaning |
| --- | --- | --- |
{table}
"""
    for path, chosen in choices.items():
        found += f"\n## {path}\n\n| name | what it does | reads |\n| --- | --- | --- |\n"
        found += "| `none` | nothing | |\n" if chosen.none else ""
        for name, row in chosen.rows.items():
            reads = ", ".join(f"`{key}`" for key in parameters_of(row))
            found += f"| `{name}` | {row_text(row)} | {reads} |\n".replace("||", "\\|\\|")
        parameters = list(parameters_in(chosen))
        if parameters:
            found += "\n| parameter | default | allowed | meaning |\n| --- | --- | --- | --- |\n"
        for key, parameter, note, names in parameters:
            meaning = f"{', '.join(names)}: {note}".replace("|", "\\|")
            found += f"| `{key}` | `{written(parameter.default)}` | {bounds_text(parameter.bounds)} | {meaning} |\n"
    return found


def documents() -> dict[Path, str]:
    """Every generated file with its text."""
    return {YAML: yaml(), PAGE: page()}


if __name__ == "__main__":
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
