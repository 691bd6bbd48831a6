"""What every kind of tasks answers: how labels are read, what a head's outputs mean, and how they are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log, log1p
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from common.class_weights import balanced_classes
from common.errors import DataError
from common.statistics import TaskStatistics
from common.targets import OWN_UNITS, TargetSums, TargetUnits
from common.tasks.metric_sums import MetricSums

# Late here and in the kinds: whoever asks for a status names kinds and computes nothing, and a coordinator at work has
# no torch.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from common.inputs.kind import Encoder
    from common.models.heads import Head
    from common.tasks.definition import TaskDefinition

Labels: TypeAlias = "NDArray[np.int64] | NDArray[np.float32] | NDArray[np.float64] | NDArray[np.uint8]"
Float64: TypeAlias = "NDArray[np.float64]"
Label = int | float | tuple[int, ...]
"""A class index, a score, or the indices of the labels that apply."""
Reduction = Literal["mean", "sum", "none"]
LinearTargets: TypeAlias = "tuple[Float64, Float64] | None"
"""Targets of linear problems (rows, problems), and how much each row's loss counts (rows,); None: there are none."""

Asked = Literal["rows", "hidden tokens", "next tokens", "words"]
"""Whole examples, tokens behind a mask, the token after each one, or the words that a text was given as."""

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
"""From twice as sure to an eighth as sure."""


class TaskKind(ABC):
    """How a head's outputs are read, and all that follows from it. A kind is one file and one row of `TASK_KINDS`.

    Kinds have no state. Methods take the task, or its labels alone where the task may not be defined yet.
    """

    name: ClassVar[str]
    """What `tasks.<name>.type` says to choose it; also its name on the wire."""
    metrics: ClassVar[tuple[str, ...]]
    """Every metric of the kind; the first one is the default primary metric."""
    sums: ClassVar[tuple[MetricSums, ...]] = ()
    """What some of its metrics need, which tasks have that name them."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    """Those of its metrics that improve by becoming smaller."""
    rank_metric: ClassVar[str] = ""
    """The one of its metrics, if any, that goes by ranks: it needs all examples at once, and no sums give it."""
    has_labels: ClassVar[bool] = False
    """Whether such a task names labels."""
    reads_labels: ClassVar[bool] = True
    """Whether an example has a label; else it is its own answer."""
    one_class: ClassVar[bool] = False
    """Whether an example is of one class and said to be of one, so that it is in one place of a confusion matrix."""
    one_label: ClassVar[bool] = True
    """Whether an example has one label at most, by which examples can be dealt out."""
    has_units: ClassVar[bool] = False
    """Whether targets are numbers, whose units the federation finds out (`common.targets`)."""
    has_class_weights: ClassVar[bool] = False
    """Whether the loss of a row can count by its label."""
    has_linear_problems: ClassVar[bool] = False
    """Whether a head over one vector is a linear problem, or several: see `linear_targets`."""
    per_pixel: ClassVar[bool] = False
    """Whether an example has a label for each pixel, and so has what a head says: maps, which tables cannot hold."""
    asks: ClassVar[Asked] = "rows"
    """What has an output of its own: all but rows are tokens of texts."""
    text_names: ClassVar[tuple[str, ...]] = ()
    """Usual names of the column of texts, where they are others than those of most kinds."""
    label_names: ClassVar[tuple[str, ...]] = ()
    """The same of labels."""
    temperatures: ClassVar[tuple[float, ...]] = (1.0,)
    """By which outputs that are logits are divided, to find out how sure of itself a model should be."""
    only_input: ClassVar[str | None] = None
    """The one kind of inputs that it reads; None: every kind."""
    cosine_start: ClassVar[float] = 0.0
    """Where above 0, a siamese head starts as so many times (cosine(u, v) - 1/2)."""
    problem_type: ClassVar[str] = ""
    """What Hugging Face calls it; empty where a head has nothing to say to a user, so that there is no export."""
    answer: ClassVar[str] = ""
    """What an exported model says: a Python expression over `outputs`, float32 (outputs,), and the list `labels`."""

    gives: ClassVar[str] = "one number per label, whose softmax gives probabilities"
    """What the outputs of an exported model are, for a person."""

    no_label: ClassVar[Label] = 0
    """Stands for the label of an example that has none."""

    def __str__(self) -> str:
        return self.name

    def answers(self, task: TaskDefinition, outputs: Float64) -> Mapping[str, Sequence[object]]:
        """What a head's outputs (examples, outputs) say to a person, by column; nothing where `answer` is empty."""
        return {}

    @property
    def per_token(self) -> bool:
        """Whether outputs are those of tokens, of which a row has several."""
        return self.asks != "rows"

    def kept(self, outputs: Tensor) -> Tensor:
        """What of a batch's outputs for tokens `word_answers` reads, (tokens, ...)."""
        return outputs

    def word_answers(
        self, task: TaskDefinition, said: Sequence[Float64], spelled: Callable[[int], str]
    ) -> Mapping[str, Sequence[object]]:
        """What outputs for tokens say to a person, by column, a cell per row.

        Args:
            task: names the labels.
            said: `kept` of each row's tokens, (tokens, ...).
            spelled: a token as text, from its id.
        """
        return {}

    def label_problem(self, labels: Sequence[str]) -> str | None:
        """What is wrong with a task's label names, or None."""
        if self.has_labels:
            return None if labels else f"a {self} task needs them; write e.g. [negative, positive], or their number"
        return f"a {self} has none; remove them" if labels else None

    def defined_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The metrics that are defined with these labels."""
        undefined = [metric for row in self.sums if not row.is_defined(labels) for metric in row.metrics]
        return tuple(metric for metric in self.metrics if metric not in undefined)

    def default_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Those of a task that names none: all that are defined and need no sums of their own."""
        asked = [metric for row in self.sums for metric in row.metrics]
        return tuple(metric for metric in self.defined_metrics(labels) if metric not in asked)

    def measure_sums(
        self, task: TaskDefinition, outputs: Float64, targets: Float64
    ) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """The sums that the task's metrics need, by name; shapes as of `measure`."""
        return tuple(sorted((row.name, row.measure(outputs, targets)) for row in task.metric_sums))

    def outputs(self, task: TaskDefinition) -> int:
        """Size of the head's last layer."""
        return max(len(task.labels), 1)

    @abstractmethod
    def label_parser(self, task: TaskDefinition) -> Callable[[object], Label]:
        """The function that reads one cell, the same for every format; it raises `CellError`."""

    def targets(self, task: TaskDefinition, labels: Sequence[Any] | NDArray[Any]) -> Labels:
        """Labels that `label_parser` gave as they are trained on, one or several for each example: class indices."""
        import numpy as np

        return np.asarray(labels, dtype=np.int64)

    def read_array(self, task: TaskDefinition, cells: NDArray[Any]) -> Labels | None:
        """Targets from an array of more than one dimension; None where this kind has no such form.

        Raises:
            CellError: it has, and the array is not of it.
        """
        return None

    def drawn(self, scores: Float64) -> Labels:
        """Targets of generated examples from noisy scores, (examples, outputs): the class with the largest score."""
        classes: Labels = scores.argmax(axis=1).astype("int64")
        return classes

    def classes(self, targets: Labels) -> NDArray[np.int64]:
        """The classes by which examples are dealt out unevenly, (examples,)."""
        return targets.astype("int64")

    def linear_targets(self, task: TaskDefinition, targets: Labels, units: TargetUnits) -> LinearTargets:
        """Targets as linear problems have them, of most kinds none; a head of two outputs is one problem."""
        return None

    def target_sums(self, task: TaskDefinition, targets: Labels) -> TargetSums:
        """What the federation has to know of a client's training targets; nothing, of most kinds."""
        return TargetSums()

    def sums_fit(self, task: TaskDefinition, sums: TargetSums, rows: int) -> bool:
        """Whether so many rows can have given these sums."""
        return sums == TargetSums()

    def balanced_weights(self, counts: Sequence[float], rows: float) -> tuple[float, ...]:
        """How much a row's loss counts by its label where `counts` of `rows` have each, so that labels are balanced."""
        return balanced_classes(counts, rows)

    def balance(self, task: TaskDefinition, labels: Sequence[Label]) -> str | None:
        """How at least one example's labels are spread, for the person whose they are; None without labels."""
        return None

    def builtin_data(self, task: str) -> str:
        """The built-in data set for a task of this name."""
        return task

    def most_scored(self, examples: int, parts: int) -> int:
        """The most examples that scores of so many rows can be about, each of at most so many tokens or numbers."""
        return examples

    def head(self, task: TaskDefinition, pair_mode: str, encoder: Encoder) -> Head:
        """The task's head over an encoder, without values.

        Raises:
            ModelError: the encoder has not what such a head needs.
        """
        from common.models.heads import PAIR_HEADS, LinearHead, dropout_of

        made = PAIR_HEADS[pair_mode] if task.pair else LinearHead
        return made(task.outputs, encoder.config.hidden_size, dropout_of(encoder.config), self.cosine_start)

    def loss(
        self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean", units: TargetUnits = OWN_UNITS
    ) -> Tensor:
        """The loss of a batch: cross entropy.

        Args:
            outputs: logits or predictions, (rows, task.outputs).
            targets: see `targets`, in a tensor.
            reduction: over the rows; `none` gives one loss per row, (rows,).
            units: in which a head works that has units, and so its loss; how much a row counts by its label.
        """
        from torch.nn import functional

        return functional.cross_entropy(outputs, targets, reduction=reduction)

    def averaged(self, outputs: Tensor, others: Tensor, weight: float) -> Tensor:
        """Outputs that say the mean of what two models' outputs say: of probabilities, which are softmax of outputs.

        Args:
            outputs: (rows, outputs, ...), of the model that has the weight.
            others: of the other one, which has 1 - weight.
            weight: more than 0 and less than 1.
        """
        return log_mean(outputs.log_softmax(dim=1), others.log_softmax(dim=1), weight)

    def log_likelihood(self, loss: float, rows: int) -> float:
        """How likely the labels of so many rows are to a model with this mean loss, up to a constant: cross entropy."""
        return -rows * loss

    def score(
        self,
        task: TaskDefinition,
        answers: Iterable[tuple[Tensor, Tensor]],
        order: NDArray[np.int64],
        units: TargetUnits = OWN_UNITS,
    ) -> TaskStatistics:
        """Reduce what a model said to what may travel.

        Args:
            task: says how to read the outputs.
            answers: outputs and targets, batch by batch.
            order: which examples these are, one batch after the other, (examples,).
            units: see `loss`.

        Raises:
            DataError: an output is not finite.
        """
        import numpy as np
        import torch

        said, wanted, losses = [], [], []
        for outputs, targets in answers:
            said.append(outputs)
            wanted.append(targets)
            losses.append(self.loss(outputs, targets, units=units))
        if not said:
            return self.measure(task, np.empty((0, task.outputs)), self.targets(task, ()).astype(np.float64), 0.0)
        # Read at the end, since each reading waits for a GPU.
        back = np.argsort(order)
        values = torch.cat(said).double().cpu().numpy()[back]
        loss_sum = sum(loss * len(rows) for loss, rows in zip(torch.stack(losses).tolist(), said, strict=True))
        if not np.isfinite(values).all():
            raise not_finite(task)
        true = torch.cat(wanted).double().cpu().numpy()[back]
        return self.measure(task, units.targets(values), true, loss_sum)

    def measure(self, task: TaskDefinition, outputs: Float64, targets: Float64, loss_sum: float) -> TaskStatistics:
        """Reduce outputs to what may travel: how often the largest one is right.

        Args:
            task: says how to read the outputs.
            outputs: logits or predictions, (examples, task.outputs).
            targets: class indices (examples,), 0/1 indicators (examples, labels) or numbers (examples,).
            loss_sum: the loss summed over the examples.
        """
        return TaskStatistics(len(targets), loss_sum, int((outputs.argmax(axis=1) == targets).sum()))

    def rank_scores(self, outputs: Float64, targets: Float64, counts: NDArray[np.int64]) -> Float64:
        """The `rank_metric` of many draws, (draws,), NaN where it is not defined.

        Args:
            outputs: see `measure`.
            targets: see `measure`.
            counts: how often each example is in each draw, (draws, examples).
        """
        raise NotImplementedError(f"a {self} has no metric that goes by ranks")

    def fits(self, task: TaskDefinition, statistics: TaskStatistics) -> bool:
        """Whether `measure` can have given these statistics, whose counts and loss are possible."""
        return not statistics.labels and not statistics.moments and not statistics.means

    @abstractmethod
    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """The metrics that can be read off sums; None where one is not defined. Definitions are scikit-learn's."""


def log_mean(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Logarithm of weight x exp(first) + (1 - weight) x exp(second), finite wherever both are."""
    import torch

    return torch.logaddexp(first + log(weight), second + log1p(-weight))


def not_finite(task: TaskDefinition) -> DataError:
    """The error of a model that has diverged."""
    return DataError(f"task {task.name}: the model's outputs are not finite; lower training.learning_rate")
