"""One task's section, and the task definition that it resolves to."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from common.class_weights import LEAST_WEIGHT, MOST_WEIGHT, ClassWeights
from common.config.values import Count, CountOrZero, Location, Section, Text, closeness, short, visible
from common.errors import ConfigError
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition, TaskKind
from common.wire.limits import LABEL_CHARS, MAX_LABELS


def _label_names(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_LABELS:
            raise ValueError(f"{value} is not a number of labels; write 1 to {MAX_LABELS}, or the names")
        return [str(i) for i in range(value)]
    return _written(value)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    repeated = [value for value, times in Counter(values).items() if times > 1]
    if repeated:
        raise ValueError(f"'{repeated[0]}' is given twice; keep one")
    return values


def _written(value: Any) -> Any:
    """Numbers in a list of names as text: whoever writes [1, 2] for names means '1' and '2'."""
    if not isinstance(value, list | tuple):
        return value
    return [str(item) if isinstance(item, int | float) and not isinstance(item, bool) else item for item in value]


def _thousandths(value: float) -> float:
    if value != round(value, 3):
        raise ValueError(f"{value} has more than 3 decimals; write whole thousandths, e.g. {max(value, 0.001):.3f}")
    return value


def _kind(value: str) -> str:
    if value not in TASK_KINDS:
        *others, last = TASK_KINDS
        raise ValueError(f"'{value}' is not a choice; write {', '.join(others)} or {last}")
    return value


def _class_weights(value: Any) -> Any:
    if value in ("none", "balanced"):
        return value
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"'{value}' is not none, balanced or a list of numbers; write e.g. balanced or [1, 5]")
    for weight in value:
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            raise ValueError(f"'{weight}' is not a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}; write e.g. 5")
    return tuple(map(float, value))


Name = Annotated[Text, AfterValidator(visible), AfterValidator(lambda value: short(value, LABEL_CHARS))]
Names = Annotated[tuple[Name, ...], Field(strict=False, min_length=1), AfterValidator(_distinct)]


class ColumnsSection(Section):
    """Names of the columns that hold a task's text, its second text (if it reads pairs) and its label.

    Tables of numbers have no texts, but `features`: the columns that are read, in this order; all but the label if left
    out. What is left out besides is found by its usual names.
    """

    text: Text | None = None
    """column of the text"""
    label: Text | None = None
    """column of the label"""
    text_pair: Text | None = None
    """only for tasks that read two texts"""
    features: Annotated[Names, BeforeValidator(_written)] | None = None
    """of tables of numbers: the columns that are read, in this order"""


class HubSetSection(Section):
    """A data set on the Hugging Face hub, or in a folder of the same layout; a name alone is the short form.

    Splits may be slices such as `train[:80%]`. Those left out are found by their usual names.
    """

    name: Location
    """such as org/set, or a folder with train.csv and so on"""
    config: Text | None = None
    """one of the set's configurations; null: the only one"""
    revision: Text | None = None
    """commit, tag or branch; null: the newest"""
    train: Text | None = None
    """split to train on; null: train"""
    validation: Text | None = None
    """split to score on; null: validation, valid, val or dev"""
    test: Text | None = None
    """split for --mode evaluate --split test; null: test"""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, body: Any) -> Any:
        return {"name": body} if isinstance(body, str) else body


class TaskSection(Section):
    """One task. A known task needs nothing here; others state `type` and, if it has any, `labels`.

    `train_samples` and `val_samples` cap the rows of one client (None: all; without rows to score on there are no
    scores). `labels` are names in the order of their indices; a number N stands for '0' to 'N-1'. The first of
    `metrics` is the primary one; `weight` has at most 3 decimals. An `auxiliary` task is there for
    the others.
    """

    train_samples: Count | None = None
    """most rows of one client to train on; null: all"""
    val_samples: CountOrZero | None = None
    """most rows of one client to score on; null: all, 0: none"""
    type: Annotated[Text, AfterValidator(_kind)] | None = None
    """classification | multilabel | regression | masked_lm (hidden words of the texts; needs no labels; usually
    auxiliary) | next_word (of texts, by a decoder; needs no labels) | tokens (a label per word) |
    dense_classification (a class per pixel) | dense_regression (a number per pixel); known of the tasks of GLUE"""
    labels: Annotated[Names, BeforeValidator(_label_names)] | None = None
    """names in the order of their indices, or their number; none for regressions"""
    columns: ColumnsSection | None = None
    """null: found by their usual names, if no two columns have one"""
    dataset: HubSetSection | None = None
    """read by data.source hub; dataset: org/set is the short form"""
    metrics: Names | None = None
    """the first is the primary one; null: all that are defined, but auc, pr_auc, recall_at_fpr_0.01, top3_accuracy, ece
    and mae, which need further sums of clients"""
    weight: Annotated[float, Field(gt=0, le=1000), AfterValidator(_thousandths)] = 1.0
    """of this task among the others, more than 0, at most 3 decimals"""
    auxiliary: bool = False
    """true: moves what is shared only where that helps the other tasks"""

    class_weights: Annotated[ClassWeights, BeforeValidator(_class_weights)] = "none"
    """how often the loss of a row counts: none (alike) | balanced (by how many rows of all clients have its label;
    clients tell the coordinator their counts) | [..], a number by label"""

    def problems(self, name: str) -> list[str]:
        """What keeps this section from defining the task `name`, one `path: problem; remedy` line each."""
        known = KNOWN_TASKS.get(name)
        kind = self.kind_of(name)
        if kind is None:
            return [f"tasks.{name}: {_unknown_task(name)}"]
        if known and kind is not known.type:
            return [f"tasks.{name}.type: {name} is known as {known.type}; name a task of your own differently"]
        labels = self._labels(known)
        found = _column_problems(known, self.columns) if known and self.columns else []
        found += _role_problems(kind, self.columns) if self.columns else []
        found += [f"labels: {problem}"] if (problem := kind.label_problem(labels)) else []
        found += _metric_problems(kind, labels, self.metrics or ())
        found += _weight_problems(kind, labels, self.class_weights)
        return [f"tasks.{name}.{line}" for line in found]

    def definition(self, name: str) -> TaskDefinition:
        """The task `name` as all sites must understand it.

        Raises:
            ConfigError: the section does not define a task; see `problems`.
        """
        known, kind = KNOWN_TASKS.get(name), self.kind_of(name)
        if kind is None or self.problems(name):
            raise ConfigError(*self.problems(name))
        labels = self._labels(known)
        pair = known.pair if known else self.columns is not None and self.columns.text_pair is not None
        metrics = self.metrics or (known.metrics if known else kind.default_metrics(labels))
        return TaskDefinition(name, kind, labels, pair, metrics, self.weight, self.auxiliary, self.class_weights)

    def kind_of(self, name: str) -> TaskKind | None:
        """The kind of the task `name`, where that is said or known."""
        if self.type is not None:
            return TASK_KINDS[self.type]
        return KNOWN_TASKS[name].type if name in KNOWN_TASKS else None

    def _labels(self, known: TaskDefinition | None) -> tuple[str, ...]:
        return self.labels or (known.labels if known else ())


def _unknown_task(name: str) -> str:
    close = get_close_matches(name.lower(), KNOWN_TASKS, n=1, cutoff=closeness(name))
    known = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(KNOWN_TASKS)}."
    bare = " or ".join(name for name, kind in TASK_KINDS.items() if not kind.has_labels)
    needed = f"type ({', '.join(TASK_KINDS)}) and, unless it is a {bare}, labels"
    return f"not a known task; {known} A task of your own needs {needed}"


def _column_problems(known: TaskDefinition, columns: ColumnsSection) -> list[str]:
    if columns.text_pair is None and (columns.text is None or not known.pair):
        return []
    if known.pair and columns.text_pair is not None:
        return []
    remedy = "name the column of the second text" if known.pair else "remove it"
    return [f"columns.text_pair: {known.name} reads {'two texts' if known.pair else 'one text'}; {remedy}"]


def _role_problems(kind: TaskKind, columns: ColumnsSection) -> list[str]:
    if not kind.reads_labels:
        others = columns.label or columns.text_pair
        return [f"columns: a {kind} reads one text and no label; name text alone"] if others else []
    if kind.per_token and columns.text_pair:
        return [f"columns.text_pair: a {kind} reads one text; remove it"]
    if columns.text_pair and not columns.text:
        return ["columns.text: missing, where text_pair is named; name both"]
    given = [name for name in (columns.text, columns.text_pair, columns.label, *(columns.features or ())) if name]
    twice = next((name for name, times in Counter(given).items() if times > 1), None)
    return [f"columns: '{twice}' is named for two things; keep one"] if twice is not None else []


def _metric_problems(kind: TaskKind, labels: tuple[str, ...], metrics: tuple[str, ...]) -> list[str]:
    allowed = kind.defined_metrics(labels)
    remedy = f"is not a metric of this {kind}; choose from {', '.join(allowed)}"
    return [f"metrics: '{metric}' {remedy}" for metric in metrics if metric not in allowed]


def _weight_problems(kind: TaskKind, labels: tuple[str, ...], weights: ClassWeights) -> list[str]:
    if weights == "none":
        return []
    if not kind.has_class_weights:
        return [f"class_weights: a {kind} has no classes; remove them"]
    if isinstance(weights, tuple) and len(weights) != len(labels):
        return [f"class_weights: {len(weights)} numbers for {len(labels)} labels; write one for each, in their order"]
    return []
