"""A class or a number for every pixel of an image; pixels without one do not count."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.class_weights import balanced_classes
from common.encoders.row import MOST_VALUES
from common.errors import ModelError
from common.statistics import TaskStatistics, merge, ratio
from common.targets import LARGEST_TARGET, OWN_UNITS, TargetSums, TargetUnits, sums_of
from common.tasks.classification import Classification
from common.tasks.definition import TaskDefinition
from common.tasks.kind import TEMPERATURES, Float64, Label, Labels, Reduction, TaskKind, not_finite
from common.tasks.labels import CellError
from common.tasks.metric_sums import AbsoluteErrors
from common.tasks.regression import Regression

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from common.inputs.kind import Encoder
    from common.models.heads import Head

UNLABELLED = 255
"""Stands for the class of a pixel that does not count, as usual in files of segmentation; of numbers, NaN does."""
MOST_CLASSES = UNLABELLED


class Dense(TaskKind):
    """An output for every pixel of an image. Statistics and losses are those of labelled pixels, weights of rows."""

    per_pixel = True
    one_label = False
    only_input = "images"

    @abstractmethod
    def labelled(self, targets: NDArray[Any]) -> NDArray[np.bool_]:
        """Which pixels have a label, in the shape of the targets."""

    @abstractmethod
    def cell_problem(self, task: TaskDefinition, cells: NDArray[Any]) -> tuple[NDArray[np.bool_], str] | None:
        """Which cells of an array of numbers cannot be labels, and what they must be; None if all can."""

    def label_parser(self, task: TaskDefinition) -> Callable[[object], Label]:
        """There is no cell for a map."""

        def refuse(_: object) -> Label:
            raise CellError(f"a {self} has a label per pixel; give an array y (rows, height, width) in a .npz file")

        return refuse

    def read_array(self, task: TaskDefinition, cells: NDArray[Any]) -> Labels | None:
        """Targets from an array (rows, height, width); each row must have a labelled pixel."""
        if cells.ndim != 3 or cells.dtype.kind not in "fiub":
            raise CellError(f"y is {cells.dtype} {cells.shape}; give numbers, one per pixel: (rows, height, width)")
        if found := self.cell_problem(task, cells):
            wrong, wanted = found
            row = int(wrong.any(axis=(1, 2)).argmax())
            raise CellError(f"row {row + 1}: {cells[row][wrong[row]][0]} is no label of a pixel; write {wanted}")
        targets = self.targets(task, cells)
        empty = ~self.labelled(targets).any(axis=(1, 2))
        if empty.any():
            raise CellError(f"row {int(empty.argmax()) + 1}: no pixel has a label; label some or remove the row")
        return targets

    def most_scored(self, examples: int, parts: int) -> int:
        """Every pixel of every image."""
        return examples * parts

    def head(self, task: TaskDefinition, pair_mode: str, encoder: Encoder) -> Head:
        """A head over the map that the encoder makes of an image."""
        from common.models.heads import DenseHead

        channels = getattr(encoder.config, "map_channels", None)
        if channels is None:
            needed = "needs a map of the image, and this encoder keeps none"
            raise ModelError(f"tasks.{task.name}.type: a {self} {needed}; use conv2d, or a module with a method maps")
        return DenseHead(task.outputs, channels, encoder.config.area)

    def score(
        self,
        task: TaskDefinition,
        answers: Iterable[tuple[Tensor, Tensor]],
        order: NDArray[np.int64],
        units: TargetUnits = OWN_UNITS,
    ) -> TaskStatistics:
        """Sums batch by batch: there are too many outputs to keep."""
        import numpy as np

        found = []
        for outputs, targets in answers:
            said = outputs.double().cpu().numpy()
            if not np.isfinite(said).all():
                raise not_finite(task)
            loss_sum = self.loss(outputs, targets, "sum", units).item()
            found.append(self.measure(task, units.targets(said), targets.cpu().numpy(), loss_sum))
        empty = np.empty((0, task.outputs, 0, 0)), np.empty((0, 0, 0))
        return merge(found or [self.measure(task, *empty, 0.0)])


class DenseClassification(Dense):
    """The largest of a pixel's outputs says its class: semantic segmentation. Targets are bytes."""

    name = "dense_classification"
    metrics = ("iou", "pixel_accuracy")
    has_labels = True
    has_class_weights = True
    temperatures = TEMPERATURES
    answer = "outputs.argmax(0).tolist()"
    gives = "numbers (labels, height, width), whose softmax over labels gives probabilities"

    def label_problem(self, labels: Sequence[str]) -> str | None:
        """At least two, and so few that a byte holds them."""
        if len(labels) > MOST_CLASSES:
            return f"{len(labels)} classes of pixels, {MOST_CLASSES} are the most; merge some"
        return Classification().label_problem(labels)

    def labelled(self, targets: NDArray[Any]) -> NDArray[np.bool_]:
        """All but 255."""
        known: NDArray[np.bool_] = targets != UNLABELLED
        return known

    def cell_problem(self, task: TaskDefinition, cells: NDArray[Any]) -> tuple[NDArray[np.bool_], str] | None:
        """Whole numbers up to the last class, or 255."""
        good = ((cells >= 0) & (cells < task.outputs) & (cells == cells.round())) | (cells == UNLABELLED)
        return None if good.all() else (~good, f"0 to {task.outputs - 1}, or {UNLABELLED} where nothing is known")

    def targets(self, task: TaskDefinition, labels: Sequence[Any] | NDArray[Any]) -> Labels:
        """Class indices and 255, uint8 (examples, height, width)."""
        import numpy as np

        return np.asarray(labels, dtype=np.uint8)

    def answers(self, task: TaskDefinition, outputs: Float64) -> Mapping[str, Sequence[object]]:
        """The class of every pixel, uint8 (examples, height, width)."""
        return {"label": outputs.argmax(axis=1).astype("uint8")}

    def target_sums(self, task: TaskDefinition, targets: Labels) -> TargetSums:
        """How many pixels are of each class."""
        return TargetSums(counts=tuple(_counts(task, targets).tolist()))

    def sums_fit(self, task: TaskDefinition, sums: TargetSums, rows: int) -> bool:
        """At least one pixel in every row."""
        counts = sums.counts
        return len(counts) == task.outputs and min(counts) >= 0 and rows <= sum(counts) <= rows * MOST_VALUES

    def balanced_weights(self, counts: Sequence[float], rows: float) -> tuple[float, ...]:
        """Of the labelled pixels."""
        return balanced_classes(counts, sum(counts))

    def balance(self, task: TaskDefinition, labels: Sequence[Label]) -> str:
        """Each class's share of the labelled pixels, and how many pixels have no label."""
        maps = self.targets(task, labels)
        counts = _counts(task, maps)
        shares = (f"{name} {count / counts.sum():.1%}" for name, count in zip(task.labels, counts, strict=True))
        return f"labelled pixels: {', '.join(shares)}; without label: {1 - counts.sum() / maps.size:.1%} of all"

    def loss(
        self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean", units: TargetUnits = OWN_UNITS
    ) -> Tensor:
        """Cross entropy, times the weight of the pixel's class; the mean is over labelled pixels.

        Args:
            outputs: logits (rows, classes, height, width).
            targets: uint8 (rows, height, width).
            reduction: `none` gives the mean of each row's pixels.
            units: weights of the classes.
        """
        import torch
        from torch.nn import functional

        weight = None if units.weights is None else torch.tensor(units.weights, device=outputs.device)
        cells = functional.cross_entropy(outputs, targets.long(), weight, ignore_index=UNLABELLED, reduction="none")
        return _reduced(cells, targets != UNLABELLED, reduction)

    def measure(self, task: TaskDefinition, outputs: Float64, targets: NDArray[Any], loss_sum: float) -> TaskStatistics:
        """Counts of labelled pixels per class."""
        import numpy as np

        from common.tasks.formulas import label_counts

        known = self.labelled(targets)
        true, said = targets[known].astype(np.int64), outputs.argmax(axis=1)[known]
        hits = true[true == said]
        found = [np.bincount(classes, minlength=task.outputs) for classes in (hits, true, said)]
        return TaskStatistics(len(true), loss_sum, len(hits), label_counts(found))

    def fits(self, task: TaskDefinition, statistics: TaskStatistics) -> bool:
        """Counts of a confusion matrix."""
        return Classification().fits(task, statistics) and not statistics.means

    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """Intersection over union, averaged over the classes that are true or predicted anywhere; the share right.

        As jaccard_score(average="macro") and accuracy_score of scikit-learn, over labelled pixels.
        """
        rows = zip(*total.by_label, strict=True)
        found = [hits / (true + said - hits) for hits, true, said in rows if true + said]
        iou = sum(found) / len(found) if found else None
        return {"iou": iou, "pixel_accuracy": ratio(total.right, total.examples)}


class DenseRegression(Dense):
    """A pixel's output is its number, such as a depth. Targets are float32."""

    name = "dense_regression"
    metrics = ("rmse", "mse", "pearson", "mae")
    lower_is_better = frozenset({"rmse", "mse", "mae"})
    sums = (AbsoluteErrors(),)
    has_units = True
    answer = "outputs[0].tolist()"
    gives = "numbers (1, height, width), in the units of the training data"

    def labelled(self, targets: NDArray[Any]) -> NDArray[np.bool_]:
        """All but NaN."""
        known: NDArray[np.bool_] = targets == targets
        return known

    def cell_problem(self, task: TaskDefinition, cells: NDArray[Any]) -> tuple[NDArray[np.bool_], str] | None:
        """Numbers of a size that can be trained on, or NaN."""
        good = (abs(cells.astype("float64")) <= LARGEST_TARGET) | ~self.labelled(cells)
        return None if good.all() else (~good, f"numbers up to {LARGEST_TARGET:g}, or nan where nothing is known")

    def targets(self, task: TaskDefinition, labels: Sequence[Any] | NDArray[Any]) -> Labels:
        """Numbers and NaN, float32 (examples, height, width)."""
        import numpy as np

        return np.asarray(labels, dtype=np.float32)

    def answers(self, task: TaskDefinition, outputs: Float64) -> Mapping[str, Sequence[object]]:
        """The number of every pixel, float32 (examples, height, width)."""
        return {"score": outputs[:, 0].astype("float32")}  # type: ignore[dict-item]

    def target_sums(self, task: TaskDefinition, targets: Labels) -> TargetSums:
        """Mean and variance of the labelled pixels, as if each row were one of them: clients count by rows."""
        found = sums_of(targets[self.labelled(targets)].astype("float64"))
        return TargetSums(found.mean, found.squares * len(targets) / max(int(self.labelled(targets).sum()), 1))

    def sums_fit(self, task: TaskDefinition, sums: TargetSums, rows: int) -> bool:
        """See `TargetSums.fits`; the pixels of one row may differ already."""
        return sums.fits(rows + 1) and not sums.counts

    def balance(self, task: TaskDefinition, labels: Sequence[Label]) -> str:
        """Range, mean and deviation of the labelled pixels, and how many have no label."""
        maps = self.targets(task, labels)
        known = maps[self.labelled(maps)].astype("float64")
        spread = f"mean {known.mean():.4g}, deviation {known.std():.4g}"
        missing = f"without label: {1 - len(known) / maps.size:.1%} of all"
        return f"labelled pixels: from {known.min():.4g} to {known.max():.4g}, {spread}; {missing}"

    def loss(
        self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean", units: TargetUnits = OWN_UNITS
    ) -> Tensor:
        """Squared error in the head's units; the mean is over labelled pixels.

        Args:
            outputs: (rows, 1, height, width).
            targets: float32 (rows, height, width).
            reduction: `none` gives the mean of each row's pixels.
            units: of the head.
        """
        known = targets.isfinite()
        wanted = ((targets.nan_to_num().double() - units.mean) / units.scale).float()
        return _reduced((outputs.squeeze(1) - wanted).square() * known, known, reduction)

    def averaged(self, outputs: Tensor, others: Tensor, weight: float) -> Tensor:
        """Of the numbers."""
        return Regression().averaged(outputs, others, weight)

    def log_likelihood(self, loss: float, rows: int) -> float:
        """See `Regression`; an image counts once, since its pixels err together."""
        return Regression().log_likelihood(loss, rows)

    def measure(self, task: TaskDefinition, outputs: Float64, targets: NDArray[Any], loss_sum: float) -> TaskStatistics:
        """Moments of predictions and targets of labelled pixels."""
        from common.tasks.formulas import moments

        known = self.labelled(targets)
        p, y = outputs[:, 0][known], targets[known].astype("float64")
        sums = self.measure_sums(task, p[:, None], y)
        return TaskStatistics(len(y), loss_sum, moments=moments(p, y), sums=sums)

    def fits(self, task: TaskDefinition, statistics: TaskStatistics) -> bool:
        """Moments of some predictions and targets."""
        return Regression().fits(task, statistics) and not statistics.means

    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """The mean squared error and its root, in the targets' units, and Pearson."""
        found = Regression().summary(task, total)
        return {**found, "mse": total.moments[-1] / total.examples if total.examples else None}


def _counts(task: TaskDefinition, targets: Labels) -> NDArray[np.int64]:
    """How many pixels are of each class."""
    import numpy as np

    return np.bincount(targets.ravel(), minlength=UNLABELLED + 1)[: task.outputs]


def _reduced(cells: Tensor, known: Tensor, reduction: Reduction) -> Tensor:
    """Losses of pixels (rows, height, width), 0 where nothing is known, over those that are; 0 if none is."""
    if reduction == "none":
        return cells.sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)
    return cells.sum() if reduction == "sum" else cells.sum() / known.sum().clamp(min=1)
