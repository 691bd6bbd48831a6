"""The model card of an export: what it is, how it was made, what it scored, how it is used. Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.models.trained import TrainedTask
from common.plain_text import plain

_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|<>~&])")


@dataclass(frozen=True)
class CardScore:
    """What the exported model scored."""

    metric: str
    value: float | None
    version: int
    """The round whose model it was."""
    on: str
    """Which rows."""


@dataclass(frozen=True)
class CardFacts:
    """What a side knows of a model's making."""

    rows: Sequence[tuple[str, str]] = ()
    """What and its value, for a person."""
    scores: Sequence[CardScore] = ()


def escaped(text: str) -> str:
    """Text from outside that shows as it is in Markdown."""
    return _MARKS.sub(r"\\\1", plain(text))


def card(trained: TrainedTask, facts: CardFacts, use: str) -> str:
    """The text of `README.md`; `use` says how a user reads the files."""
    task, reads = trained.task, "two texts" if trained.task.pair else trained.model.inputs.name
    labels = f" Labels, in order of their outputs: {', '.join(map(escaped, task.labels))}." if task.labels else ""
    lines = [
        f"# {escaped(task.name)}",
        f"A {task.type} model over {reads}, trained by FedMTL, a federation in which rows stay where they are.{labels}",
        f"It gives {task.type.gives}.",
        "## How to use it",
        use,
        "## How it was trained",
        _table(("what", "value"), [("model", trained.origin), *facts.rows]),
    ]
    if trained.row_scale is not None:
        lines.append("Rows are given without any scaling: the model scales them by what its training rows showed.")
    if facts.scores:
        scores = [(s.metric, "-" if s.value is None else f"{s.value:.4f}", str(s.version), s.on) for s in facts.scores]
        lines += ["## Scores", _table(("metric", "value", "after round", "on"), scores)]
    return "\n\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    written = [" | ".join(map(escaped, row)) for row in rows]
    return "\n".join(f"| {row} |" for row in (" | ".join(head), " | ".join("---" for _ in head), *written))
