"""Any subset of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.class_weights import balanced_labels
from common.statistics import TaskStatistics, ratio
from common.targets import OWN_UNITS, TargetSums, TargetUnits
from common.tasks.definition import TaskDefinition
from common.tasks.kind import TEMPERATURES, Float64, Label, Labels, Reduction, TaskKind, log_mean
from common.tasks.labels import CellError, LabelNames, balance_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class Multilabel(TaskKind):
    """An output above 0 says that its label applies."""

    name = "multilabel"
    metrics = ("f1_micro", "f1_macro", "accuracy", "label_accuracy")
    has_labels = True
    has_class_weights = True
    temperatures = TEMPERATURES
    one_label = False
    problem_type = "multi_label_classification"
    answer = "dict(zip(labels, outputs.sigmoid().tolist()))"
    gives = "one number per label, whose sigmoid gives its probability"
    no_label = ()

    def label_parser(self, task: TaskDefinition) -> Callable[[object], Label]:
        """See `LabelNames.indices`."""
        return LabelNames(task.labels).indices

    def targets(self, task: TaskDefinition, labels: Sequence[Any] | NDArray[Any]) -> Labels:
        """Zeros and ones, float32 (examples, labels)."""
        import numpy as np

        table = np.zeros((len(labels), len(task.labels)), dtype=np.float32)
        for row, chosen in enumerate(labels):
            table[row, np.asarray(chosen, dtype=np.int64)] = 1.0
        return table

    def answers(self, task: TaskDefinition, outputs: Float64) -> Mapping[str, Sequence[object]]:
        """The labels that apply, as in training data, and the probability of each: the sigmoid of its output."""
        import numpy as np

        shares = (0.5 * (1 + np.tanh(outputs / 2))).T.tolist()
        chosen = ["|".join(n for n, o in zip(task.labels, row, strict=True) if o > 0) for row in outputs.tolist()]
        return {"labels": chosen, **{f"p_{name}": cells for name, cells in zip(task.labels, shares, strict=True)}}

    def read_array(self, task: TaskDefinition, cells: NDArray[Any]) -> Labels:
        """Zeros and ones with a column for each label."""
        import numpy as np

        if cells.shape[1:] != (len(task.labels),) or not np.isin(cells, (0, 1)).all():
            raise CellError(f"y must be zeros and ones, one column for each of {len(task.labels)} labels")
        return cells.astype(np.float32)

    def drawn(self, scores: Float64) -> Labels:
        """The labels with scores above 0."""
        return (scores > 0).astype("float32")

    def target_sums(self, task: TaskDefinition, targets: Labels) -> TargetSums:
        """How many rows have each label."""
        return TargetSums(counts=tuple(targets.astype("int64").sum(axis=0).tolist()))

    def sums_fit(self, task: TaskDefinition, sums: TargetSums, rows: int) -> bool:
        """No label is in more rows than there are."""
        return len(sums.counts) == task.outputs and all(0 <= count <= rows for count in sums.counts)

    def balanced_weights(self, counts: Sequence[float], rows: float) -> tuple[float, ...]:
        """Of the rows that have a label."""
        return balanced_labels(counts, rows)

    def balance(self, task: TaskDefinition, labels: Sequence[Label]) -> str:
        """Each label's examples and their share, and how many examples have none."""
        return balance_of(task.labels, labels, f"none {sum(label == () for label in labels)}")

    def loss(
        self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean", units: TargetUnits = OWN_UNITS
    ) -> Tensor:
        """Binary cross entropy averaged over the labels; targets are float32 (rows, labels).

        Where a label applies, its part counts as many times as its weight says, else once.
        """
        import torch
        from torch.nn import functional

        weight = None if units.weights is None else torch.tensor(units.weights, device=outputs.device)
        cells = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none", pos_weight=weight)
        rows = cells.mean(dim=-1)
        if reduction == "none":
            return rows
        return rows.mean() if reduction == "mean" else rows.sum()

    def averaged(self, outputs: Tensor, others: Tensor, weight: float) -> Tensor:
        """Of each label's probability, which is the sigmoid of its output."""
        from torch.nn.functional import logsigmoid

        applies = log_mean(logsigmoid(outputs), logsigmoid(others), weight)
        return applies - log_mean(logsigmoid(-outputs), logsigmoid(-others), weight)

    def measure(self, task: TaskDefinition, outputs: Float64, targets: Float64, loss_sum: float) -> TaskStatistics:
        """Counts per label, and the examples of which all labels are right."""
        from common.tasks.formulas import label_counts

        predicted, true = outputs > 0, targets > 0.5
        counts = ((predicted & true).sum(axis=0), true.sum(axis=0), predicted.sum(axis=0))
        right = int((predicted == true).all(axis=1).sum())
        return TaskStatistics(len(targets), loss_sum, right, label_counts(counts))

    def fits(self, task: TaskDefinition, statistics: TaskStatistics) -> bool:
        """An example that is not right has at least one wrong label, and at most all."""
        if not statistics.has_counts_of(task.outputs) or statistics.means:
            return False
        counts = [*zip(*statistics.by_label, strict=True)]
        wrong = [t + p - 2 * h for h, t, p in counts]
        room = all(t + p - h <= statistics.examples for h, t, p in counts)
        return room and max(wrong) <= statistics.examples - statistics.right <= sum(wrong)

    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """F1 pooled over labels; F1 averaged over labels, 0 for one that is nowhere; shares of what is right.

        `f1_micro`, `f1_macro` and `accuracy` (all labels of a row) are f1_score and accuracy_score of scikit-learn;
        `label_accuracy` counts every yes or no.
        """
        import numpy as np

        hits, true, said = np.array(total.by_label, dtype=np.float64)
        per_label = [ratio(2 * h, t + p) for h, t, p in zip(hits, true, said, strict=True)]
        decisions = float(total.examples * len(hits))
        wrong = float((true + said - 2 * hits).sum())
        return {
            "f1_micro": ratio(2 * float(hits.sum()), float((true + said).sum())),
            "f1_macro": float(np.mean(per_label)),
            "accuracy": ratio(total.right, total.examples),
            "label_accuracy": ratio(decisions - wrong, decisions),
        }
