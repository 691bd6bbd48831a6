"""What a learning task is: kind, labels and metrics. Both sides compare these before any data moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest

from common.class_weights import ClassWeights, rare_label
from common.statistics import TaskStatistics
from common.targets import TargetUnits
from common.tasks.kind import TaskKind
from common.tasks.metric_sums import MetricSums, sums_fit

MOST_SHOWN = 20
"""Longer lists of names are told by where they differ."""


@dataclass(frozen=True)
class TaskDefinition:
    """One task as all sites must understand it."""

    name: str
    type: TaskKind
    labels: tuple[str, ...]
    """Names in the order of the class indices; empty for kinds without labels."""
    pair: bool
    """Whether an example is two texts."""
    metrics: tuple[str, ...]
    """Reported in this order; the first one is the task's primary metric."""
    weight: float = 1.0
    """Multiplies the task's loss in a client that holds several tasks and its examples in the mean of the encoder."""
    auxiliary: bool = False
    """Whether it moves the shared encoder only where that helps the others."""
    class_weights: ClassWeights = "none"
    """How much the loss of a row counts by its label."""

    @property
    def outputs(self) -> int:
        """Size of the head's last layer."""
        return self.type.outputs(self)

    @property
    def metric_sums(self) -> list[MetricSums]:
        """What is added up for its metrics, beside what every task of its kind adds up."""
        defined = [row for row in self.type.sums if row.is_defined(self.labels)]
        return [row for row in defined if any(metric in self.metrics for metric in row.metrics)]

    @property
    def tells_sums(self) -> bool:
        """Whether clients tell sums over their training targets when they join."""
        return self.type.has_units or self.class_weights == "balanced"

    def takes(self, units: TargetUnits) -> bool:
        """Whether a loss of this task can be in these units."""
        labels = len(self.labels) if self.type.has_class_weights else 0
        return units.weights is None or len(units.weights) == labels

    def rare_label(self, counts: Sequence[float], rows: float) -> str | None:
        """What to say where `counts` of `rows` have each label and accuracy, the primary metric, hides one; or None.

        Of a task that asks for words, `counts` are of these.
        """
        if self.metrics[0] != "accuracy":
            return None
        of_words = self.type.asks == "words"
        found = rare_label(self.labels, counts, sum(counts) if of_words else rows, "words" if of_words else "rows")
        balance = ", or set class_weights: balanced" if self.class_weights == "none" else ""
        return found and f"{found}; put another metric first, such as f1{balance}"

    def differences(self, other: TaskDefinition) -> list[str]:
        """One `field: here X, there Y` line for every field in which `other` differs; weight and role may."""
        return [
            f"{field.name}: {_shown(mine, theirs)} against {_shown(theirs, mine)}"
            for field in fields(self)
            for mine, theirs in [(getattr(self, field.name), getattr(other, field.name))]
            if field.name not in ("weight", "auxiliary") and mine != theirs
        ]

    def fits(self, statistics: TaskStatistics) -> bool:
        """Whether a client can have measured these statistics on examples of this task.

        Counts must be those of some predictions, correlations and areas lie in their ranges, losses are not negative
        and no larger per example than float32 goes, and moments obey Cauchy and Schwarz.
        """
        possible = statistics.is_possible and self.type.fits(self, statistics)
        if statistics.noised:  # counts alone
            return possible and self.type.one_class and not (statistics.loss_sum or statistics.means or statistics.sums)
        return possible and sums_fit(self.metric_sums, statistics)

    def summarise(self, total: TaskStatistics) -> dict[str, float | None]:
        """The task's metrics and the mean loss; None where a metric is not defined (such as Pearson of a constant)."""
        values = {name: value for name, value, _ in total.means} | dict(self.type.summary(self, total))
        found = dict(total.sums)
        for row in self.metric_sums:
            if row.name in found:
                values |= row.summary(found[row.name], total.examples)
        chosen = {name: values.get(name) for name in self.metrics}
        return chosen | {"loss": total.loss_sum / total.examples if total.examples and not total.noised else None}


def _shown(value: object, other: object) -> str:
    """A field's value; of a long list the first entry in which another one differs."""
    if not isinstance(value, tuple) or not isinstance(other, tuple):
        return str(value)
    if max(len(value), len(other)) <= MOST_SHOWN:
        return f"[{', '.join(map(str, value))}]"
    pairs = enumerate(zip_longest(value, other))
    at = next((at for at, (mine, theirs) in pairs if mine != theirs), 0)
    return f"[{len(value)} names, number {at + 1} {value[at] if at < len(value) else 'missing'}]"
