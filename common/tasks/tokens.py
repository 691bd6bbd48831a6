"""A label for every word of a text, such as names of persons and places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.class_weights import balanced_classes
from common.statistics import TaskStatistics, merge, ratio
from common.targets import OWN_UNITS, TargetSums, TargetUnits
from common.tasks.classification import Classification
from common.tasks.definition import TaskDefinition
from common.tasks.kind import TEMPERATURES, Float64, Label, Labels, Reduction, TaskKind, not_finite
from common.tasks.labels import CellError, LabelNames, balance_of
from common.tasks.metric_sums import MetricSums, Values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from common.inputs.kind import Encoder
    from common.models.heads import Head

OUTSIDE, BEGIN, INSIDE = "O", "B-", "I-"
MOST_WORDS = 1 << 20
"""Of a text, whose labels a client may count."""


class Entities(MetricSums):
    """Entities that were found exactly: the same words and the same type. True ones, predicted ones, those in both."""

    name = "entities"
    metrics = ("entity_f1",)
    size = 3

    def is_defined(self, labels: Sequence[str]) -> bool:
        """For BIO labels: `O`, and `B-` or `I-` before the name of each type."""
        return {name[:2] for name in labels} - {OUTSIDE} <= {BEGIN, INSIDE} and any(n[:2] == BEGIN for n in labels)

    def measure(self, outputs: NDArray[Any], targets: NDArray[Any]) -> Values:
        """From predicted and true spans, see `spans`."""
        said, true = ({*map(tuple, found.tolist())} for found in (outputs, targets))
        return float(len(true)), float(len(said)), float(len(said & true))

    def fit(self, values: Values, statistics: TaskStatistics) -> bool:
        """Counts of no more entities than words, and no more in both than in either."""
        true, said, both = values
        whole = all(value == int(value) for value in values)
        return whole and 0 <= both <= min(true, said) and max(true, said) <= statistics.examples

    def summary(self, values: Values, examples: int) -> Mapping[str, float | None]:
        """F1 over all entities."""
        true, said, both = values
        return {"entity_f1": ratio(2 * both, true + said)}


ENTITIES = Entities()


class Tokens(TaskKind):
    """The largest of a word's outputs says its label; outputs are those of its first token.

    What is counted are words that have a token among those that the model reads. Targets are (words, 2): the class, and
    the row, so that no entity goes from one text into the next.
    """

    name = "tokens"
    metrics = ("entity_f1", "f1", "accuracy")
    sums = (ENTITIES,)
    has_labels = True
    has_class_weights = True
    temperatures = TEMPERATURES
    one_label = False
    asks = "words"
    only_input = "texts"
    text_names = ("tokens", "words", "sentence", "text")
    label_names = ("labels", "tags", "ner_tags", "pos_tags", "chunk_tags")
    answer = "[labels[place] for place in outputs.argmax(-1).tolist()]"
    gives = "one number per label, for every token, of which the first of each word counts; softmax gives probabilities"

    def label_problem(self, labels: Sequence[str]) -> str | None:
        """There must be at least two."""
        return Classification().label_problem(labels)

    def default_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """All that are defined."""
        return self.defined_metrics(labels)

    def label_parser(self, task: TaskDefinition) -> Callable[[object], Label]:
        """A list of labels, or a text with blanks between them."""
        index = LabelNames(task.labels).index

        def read(value: object) -> tuple[int, ...]:
            items = value.split() if isinstance(value, str) else value
            if not isinstance(items, list | tuple) or not items:
                raise CellError("labels are missing; give a list with a label for each word")
            return tuple(map(index, items))

        return read

    def targets(self, task: TaskDefinition, labels: Sequence[Any] | NDArray[Any]) -> Labels:
        """The class of each word, one text after the other, int64 (words,)."""
        import numpy as np

        return np.array([each for row in labels for each in row], dtype=np.int64)

    def target_sums(self, task: TaskDefinition, targets: Labels) -> TargetSums:
        """How many words have each label, also those that the model will not read."""
        return Classification().target_sums(task, targets)

    def sums_fit(self, task: TaskDefinition, sums: TargetSums, rows: int) -> bool:
        """At least one word in every row."""
        counts = sums.counts
        return len(counts) == task.outputs and min(counts) >= 0 and rows <= sum(counts) <= rows * MOST_WORDS

    def balanced_weights(self, counts: Sequence[float], rows: float) -> tuple[float, ...]:
        """Of the words."""
        return balanced_classes(counts, sum(counts))

    def balance(self, task: TaskDefinition, labels: Sequence[Label]) -> str:
        """Each label's words and their share."""
        return balance_of(task.labels, [each for row in labels if isinstance(row, tuple) for each in row])

    def most_scored(self, examples: int, parts: int) -> int:
        """Every token of every text."""
        return examples * parts

    def head(self, task: TaskDefinition, pair_mode: str, encoder: Encoder) -> Head:
        """A head over each token's vector."""
        from common.models.heads import TokenHead, dropout_of

        return TokenHead(task.outputs, encoder.config.hidden_size, dropout_of(encoder.config))

    def loss(
        self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean", units: TargetUnits = OWN_UNITS
    ) -> Tensor:
        """Cross entropy over words, times the weight of the word's label."""
        return Classification().loss(outputs, targets[:, 0], reduction, units)

    def score(
        self,
        task: TaskDefinition,
        answers: Iterable[tuple[Tensor, Tensor]],
        order: NDArray[np.int64],
        units: TargetUnits = OWN_UNITS,
    ) -> TaskStatistics:
        """Sums batch by batch."""
        import numpy as np

        found = []
        for outputs, targets in answers:
            said = outputs.double().cpu().numpy()
            if not np.isfinite(said).all():
                raise not_finite(task)
            loss_sum = self.loss(outputs, targets, "sum", units).item()
            found.append(self.measure(task, said, targets.cpu().numpy(), loss_sum))
        empty = np.empty((0, task.outputs)), np.empty((0, 2), dtype=np.int64)
        return merge(found or [self.measure(task, *empty, 0.0)])

    def measure(self, task: TaskDefinition, outputs: Float64, targets: NDArray[Any], loss_sum: float) -> TaskStatistics:
        """Counts per label, and those of entities where the task names their metric."""
        import numpy as np

        from common.tasks.formulas import label_counts

        said, (true, rows) = outputs.argmax(axis=1), targets.T
        hits = true[true == said]
        counts = label_counts([np.bincount(classes, minlength=task.outputs) for classes in (hits, true, said)])
        sums: tuple[tuple[str, Values], ...] = ()
        if ENTITIES in task.metric_sums:
            found = (spans(task.labels, classes.tolist(), rows.tolist()) for classes in (said, true))
            sums = ((ENTITIES.name, ENTITIES.measure(*found)),)
        return TaskStatistics(len(true), loss_sum, len(hits), counts, sums=sums)

    def fits(self, task: TaskDefinition, statistics: TaskStatistics) -> bool:
        """Counts of a confusion matrix."""
        return Classification().fits(task, statistics) and not statistics.means

    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """As of a classification of words."""
        return Classification().summary(task, total)

    def word_answers(
        self, task: TaskDefinition, said: Sequence[Float64], spelled: Callable[[int], str]
    ) -> Mapping[str, Sequence[object]]:
        """A list with the label of each word; None for words that the model did not read."""
        return {"labels": [[_label(task, word) for word in row] for row in said]}


def _label(task: TaskDefinition, outputs: Float64) -> str | None:
    return None if (outputs != outputs).any() else task.labels[int(outputs.argmax())]


def spans(names: Sequence[str], classes: Sequence[int], rows: Sequence[int]) -> NDArray[np.int64]:
    """Entities in BIO labels of words: first word, last word, and a number for the type, int64 (entities, 3).

    An `I-` that does not go on with an entity of its type begins one, as in the scores of the CoNLL tasks.

    Args:
        names: of the labels.
        classes: the label of each word, one text after the other.
        rows: the text of each word.
    """
    import numpy as np

    types = [*dict.fromkeys(name[2:] for name in names)]
    found: list[list[int]] = []
    before: tuple[int, int] | None = None
    for place, (number, row) in enumerate(zip(classes, rows, strict=True)):
        name = names[number]
        here = None if name == OUTSIDE else (types.index(name[2:]), row)
        if here is not None and (name.startswith(BEGIN) or here != before):
            found.append([place, place, here[0]])
        elif here is not None:
            found[-1][1] = place
        before = here
    return np.array(found, dtype=np.int64).reshape(-1, 3)
