"""One class of many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

from common.statistics import TaskStatistics, mean_of, ratio
from common.targets import OWN_UNITS, TargetSums, TargetUnits
from common.tasks.definition import TaskDefinition
from common.tasks.kind import TEMPERATURES, Float64, Label, Labels, LinearTargets, Reduction, TaskKind
from common.tasks.labels import LabelNames, balance_of
from common.tasks.metric_sums import RECALL, Calibration, ScoreHistogram, TopThree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Classification(TaskKind):
    """The largest of the outputs says the class."""

    name = "classification"
    metrics = ("accuracy", "f1", "matthews", "auc_mean", "auc", "pr_auc", RECALL, "top3_accuracy", "ece")
    lower_is_better = frozenset({"ece"})
    sums = (ScoreHistogram(), TopThree(), Calibration())
    rank_metric = "auc_mean"
    has_labels = True
    one_class = True
    has_class_weights = True
    temperatures = TEMPERATURES
    has_linear_problems = True
    problem_type = "single_label_classification"
    answer = "dict(zip(labels, outputs.softmax(-1).tolist()))"

    def label_problem(self, labels: Sequence[str]) -> str | None:
        """There must be at least two."""
        return "a classification needs at least 2; add one" if len(labels) == 1 else super().label_problem(labels)

    def defined_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """There is an area under the ROC curve for two classes only."""
        defined = super().defined_metrics(labels)
        return tuple(metric for metric in defined if metric != "auc_mean" or len(labels) == 2)

    def label_parser(self, task: TaskDefinition) -> Callable[[object], Label]:
        """See `LabelNames.index`."""
        return LabelNames(task.labels).index

    def answers(self, task: TaskDefinition, outputs: Float64) -> Mapping[str, Sequence[object]]:
        """The label, and the probability of each label: the softmax of the outputs."""
        import numpy as np

        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares = (shifted / shifted.sum(axis=1, keepdims=True)).T.tolist()
        chosen = [task.labels[index] for index in outputs.argmax(axis=1)]
        return {"label": chosen, **{f"p_{name}": cells for name, cells in zip(task.labels, shares, strict=True)}}

    def balance(self, task: TaskDefinition, labels: Sequence[Label]) -> str:
        """Each label's examples and their share."""
        return balance_of(task.labels, labels)

    def linear_targets(self, task: TaskDefinition, targets: Labels, units: TargetUnits) -> LinearTargets:
        """1 for a row of the class and -1 for others: of class 1 where there are two, else of each class."""
        import numpy as np

        classes = range(1, 2) if task.outputs == 2 else range(task.outputs)
        signs = np.stack([np.where(targets == label, 1.0, -1.0) for label in classes], axis=1)
        weights = np.ones(len(targets)) if units.weights is None else np.array(units.weights)[targets]
        return signs, weights

    def target_sums(self, task: TaskDefinition, targets: Labels) -> TargetSums:
        """How many rows are of each class."""
        import numpy as np

        return TargetSums(counts=tuple(np.bincount(targets.astype(np.int64), minlength=task.outputs).tolist()))

    def sums_fit(self, task: TaskDefinition, sums: TargetSums, rows: int) -> bool:
        """Every row is of one class."""
        return len(sums.counts) == task.outputs and min(sums.counts) >= 0 and sum(sums.counts) == rows

    def loss(
        self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean", units: TargetUnits = OWN_UNITS
    ) -> Tensor:
        """Cross entropy, times the weight of the row's class; the mean is over rows (`common.class_weights`)."""
        import torch
        from torch.nn import functional

        if units.weights is None:
            return super().loss(outputs, targets, reduction)
        weight = torch.tensor(units.weights, device=outputs.device)
        if reduction == "none":
            return functional.cross_entropy(outputs, targets, weight, reduction="none")
        total = functional.cross_entropy(outputs, targets, weight, reduction="sum")
        return total / len(targets) if reduction == "mean" else total

    def measure(self, task: TaskDefinition, outputs: Float64, targets: Float64, loss_sum: float) -> TaskStatistics:
        """Counts per class; the area under the ROC curve where there are two."""
        import numpy as np

        from common.tasks.formulas import area, label_counts

        labels, chosen, count = targets.astype(np.int64), outputs.argmax(axis=1), len(targets)
        hits = labels[labels == chosen]
        found = [np.bincount(indices, minlength=task.outputs) for indices in (hits, labels, chosen)]
        auc = area(outputs[:, 1] - outputs[:, 0], labels) if task.outputs == 2 else None
        return TaskStatistics(
            count,
            loss_sum,
            len(hits),
            label_counts(found),
            means=mean_of("auc_mean", auc, count),
            sums=self.measure_sums(task, outputs, targets),
        )

    def rank_scores(self, outputs: Float64, targets: Float64, counts: NDArray[np.int64]) -> Float64:
        """The area under the ROC curve of two classes."""
        import numpy as np

        from common.tasks.formulas import drawn_area

        return drawn_area(outputs[:, 1] - outputs[:, 0], targets.astype(np.int64), counts)

    def fits(self, task: TaskDefinition, statistics: TaskStatistics) -> bool:
        """Counts of a confusion matrix: what is missed of a class goes to others, which must have the room."""
        if not statistics.has_counts_of(task.outputs):
            return False
        hits, true, said = statistics.by_label
        n, missed = statistics.examples, statistics.examples - statistics.right
        if sum(hits) != statistics.right or sum(true) != n or sum(said) != n:
            return False
        if any(t - h + p - h > missed for h, t, p in zip(hits, true, said, strict=True)):
            return False
        defined = task.outputs == 2 and min(true) > 0  # an area needs examples of both classes
        return statistics.has_at_most("auc_mean", 0.0, 1.0) if defined else not statistics.means

    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """Accuracy, F1 (of class 1 if there are two classes, else the mean over classes), Matthews.

        As f1_score(average="macro") of scikit-learn, the mean is over the classes that are true or predicted anywhere.
        Matthews for several classes is that of Gorodkin (2004); 0 where it is not defined, as matthews_corrcoef.
        """
        import numpy as np

        hits, true, said = np.array(total.by_label, dtype=np.float64)
        n = float(total.examples)
        f1 = [ratio(2 * h, t + p) for h, t, p in zip(hits, true, said, strict=True)]
        present = [value for value, t, p in zip(f1, true, said, strict=True) if t + p > 0]
        covariance = total.right * n - float(true @ said)
        spread = (n * n - float(said @ said)) * (n * n - float(true @ true))
        return {
            "accuracy": ratio(total.right, n),
            "f1": f1[1] if len(f1) == 2 else float(np.mean(present or [0.0])),
            "matthews": covariance / sqrt(spread) if spread > 0 else 0.0,
        }
