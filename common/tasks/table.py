"""Every kind of task, and the tasks that everybody knows."""

from __future__ import annotations

from collections.abc import Sequence

from common.tasks.classification import Classification
from common.tasks.definition import TaskDefinition
from common.tasks.dense import DenseClassification, DenseRegression
from common.tasks.kind import TaskKind
from common.tasks.masked_lm import MaskedLM
from common.tasks.multilabel import Multilabel
from common.tasks.next_word import NextWord
from common.tasks.regression import Regression
from common.tasks.tokens import Tokens

TASK_KINDS: dict[str, TaskKind] = {
    "classification": Classification(),
    "multilabel": Multilabel(),
    "regression": Regression(),
    "masked_lm": MaskedLM(),
    "next_word": NextWord(),
    "tokens": Tokens(),
    "dense_classification": DenseClassification(),
    "dense_regression": DenseRegression(),
}
"""By what `tasks.<name>.type` says."""


def lower_is_better(metric: str) -> bool:
    """Whether a metric, or the loss, improves by becoming smaller."""
    return metric == "loss" or any(metric in kind.lower_is_better for kind in TASK_KINDS.values())


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether `value` beats `than` for a metric."""
    return value < than if lower_is_better(metric) else value > than


def _known(name: str, labels: Sequence[str], pair: bool, *metrics: str) -> TaskDefinition:
    kind = TASK_KINDS["classification" if labels else "regression"]
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
