"""What a learning task is: type, labels and metrics. Both sides compare these before any data moves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import zip_longest

MOST_SHOWN = 20
"""Longer lists of names are told by where they differ."""


class TaskType(StrEnum):
    """How a head's outputs are read: one class of many, any subset of labels, one number, or hidden words."""

    CLASSIFICATION = "classification"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"
    MASKED_LM = "masked_lm"

    @property
    def has_labels(self) -> bool:
        """Whether such a task names labels."""
        return self in (TaskType.CLASSIFICATION, TaskType.MULTILABEL)


METRICS: dict[TaskType, tuple[str, ...]] = {
    TaskType.CLASSIFICATION: ("accuracy", "f1", "matthews", "auc_mean"),
    TaskType.MULTILABEL: ("f1_micro", "f1_macro", "accuracy", "label_accuracy"),
    TaskType.REGRESSION: ("spearman_mean", "pearson", "rmse"),
    TaskType.MASKED_LM: ("masked_accuracy", "perplexity"),
}
"""Every metric of a task type; the first one is the type's default primary metric."""

LOWER_IS_BETTER = frozenset({"rmse", "perplexity", "loss"})


@dataclass(frozen=True)
class TaskDefinition:
    """One task as all sites must understand it.

    `labels` are names in the order of the class indices (empty for regression and masked_lm); `pair` says whether an
    example is two texts; `metrics` are reported in this order, the first one is the task's primary metric; `weight`
    multiplies the task's loss in a client that holds several tasks and its examples in the mean of the shared encoder.
    An `auxiliary` task moves the shared encoder only where that helps the others.
    """

    name: str
    type: TaskType
    labels: tuple[str, ...]
    pair: bool
    metrics: tuple[str, ...]
    weight: float = 1.0
    auxiliary: bool = False

    @property
    def outputs(self) -> int:
        """Size of the head's last layer: one per label, one for a regression."""
        return max(len(self.labels), 1)

    def differences(self, other: TaskDefinition) -> list[str]:
        """One `field: here X, there Y` line for every field in which `other` differs; weight and role may."""
        return [
            f"{field.name}: {_shown(mine, theirs)} against {_shown(theirs, mine)}"
            for field in fields(self)
            for mine, theirs in [(getattr(self, field.name), getattr(other, field.name))]
            if field.name not in ("weight", "auxiliary") and mine != theirs
        ]


SHOWN_NAMES = 10


@dataclass(frozen=True)
class Header:
    """What the numbers of a task's rows are, in their order: part of the task for whoever trains on tables.

    `count` is how many a row has. `digest` stands for their names and order; it is empty where rows have no names.
    `names` are for people: all of them, or only the first where they have travelled.
    """

    count: int
    digest: str = ""
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str]) -> Header:
        """The header of columns with these names."""
        written = json.dumps([*names], separators=(",", ":"))
        return cls(len(names), hashlib.sha256(written.encode()).hexdigest()[:32], tuple(names))

    def fits(self, other: Header) -> bool:
        """Whether rows with these two headers are rows of the same numbers, as far as names tell."""
        named = bool(self.digest and other.digest)
        return self.count == other.count and not (named and self.digest != other.digest)

    def beside(self, other: Header) -> tuple[str, str]:
        """Both headers in words, from the first name on in which they differ."""
        pairs = zip(self.names, other.names, strict=False)
        start = next((place for place, (a, b) in enumerate(pairs) if a != b), 0)
        start = start if start >= SHOWN_NAMES else 0
        return self._described(start), other._described(start)

    def _described(self, start: int) -> str:
        if not self.names:
            return f"{self.count} without names"
        last = start + SHOWN_NAMES
        shown = ["..."] * bool(start) + [*self.names[start:last]] + ["..."] * (last < self.count)
        return f"[{', '.join(shown)}]"


def _shown(value: object, other: object) -> str:
    """A field's value; of a long list the first entry in which another one differs."""
    if not isinstance(value, tuple) or not isinstance(other, tuple):
        return str(value)
    if max(len(value), len(other)) <= MOST_SHOWN:
        return f"[{', '.join(map(str, value))}]"
    pairs = enumerate(zip_longest(value, other))
    at = next((at for at, (mine, theirs) in pairs if mine != theirs), 0)
    return f"[{len(value)} names, number {at + 1} {value[at] if at < len(value) else 'missing'}]"


def _known(name: str, labels: Sequence[str], pair: bool, *metrics: str) -> TaskDefinition:
    kind = TaskType.CLASSIFICATION if labels else TaskType.REGRESSION
    return TaskDefinition(name, kind, tuple(labels), pair, metrics)


KNOWN_TASKS: dict[str, TaskDefinition] = {
    task.name: task
    for task in (
        _known("sst2", ("negative", "positive"), False, "accuracy", "f1"),
        _known("qqp", ("not_duplicate", "duplicate"), True, "f1", "accuracy"),
        _known("stsb", (), True, "spearman_mean", "pearson", "rmse"),
        _known("mrpc", ("not_equivalent", "equivalent"), True, "f1", "accuracy"),
        _known("rte", ("entailment", "not_entailment"), True, "accuracy"),
        _known("cola", ("unacceptable", "acceptable"), False, "matthews", "accuracy"),
        _known("qnli", ("entailment", "not_entailment"), True, "accuracy"),
        _known("mnli", ("entailment", "neutral", "contradiction"), True, "accuracy"),
        _known("wnli", ("not_entailment", "entailment"), True, "accuracy"),
    )
}
"""The GLUE tasks that need no definition of their own; label order is that of the Hugging Face hub's `glue`."""
