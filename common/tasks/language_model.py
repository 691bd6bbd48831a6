"""Tasks whose answers are words of the texts themselves, so that they need no labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from math import exp, isfinite
from typing import TYPE_CHECKING, ClassVar

from common.errors import ModelError
from common.statistics import TaskStatistics, ratio
from common.targets import OWN_UNITS, TargetUnits
from common.tasks.definition import TaskDefinition
from common.tasks.kind import Label, TaskKind, not_finite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from common.inputs.kind import Encoder
    from common.models.heads import TiedHead

LARGEST_EXPONENT = 200.0


class LanguageModel(TaskKind):
    """One output per word of the vocabulary for every token that is asked for, whose id is the target.

    Those tokens are what is counted; the head reads the encoder's table of words.
    """

    lower_is_better = frozenset({"perplexity"})
    reads_labels = False
    only_input = "texts"
    gives = "one number per word of the vocabulary, for every token; their softmax gives probabilities"
    causal: ClassVar[bool]
    """Whether the encoder must be a decoder, that reads no later token; else it must not be."""
    share_right: ClassVar[str]
    """The metric that is the share of right words."""

    @abstractmethod
    def tied_head(self, hidden: int, width: int, words: int) -> TiedHead:
        """A head over vectors (tokens, hidden) and a table (words, width)."""

    @abstractmethod
    def other_encoder(self, encoder_type: str) -> str:
        """What is wrong with an encoder of this type that is causal where it must not be or the reverse; the remedy."""

    def label_parser(self, task: TaskDefinition) -> Callable[[object], Label]:
        """A text stands for itself."""
        return lambda _: 0

    def builtin_data(self, task: str) -> str:
        """The texts of sst2, without their labels."""
        return "sst2"

    def most_scored(self, examples: int, parts: int) -> int:
        """Every token of every text."""
        return examples * parts

    def head(self, task: TaskDefinition, pair_mode: str, encoder: Encoder) -> TiedHead:
        """A head that shares the encoder's table of words."""
        from common.models.encoder import reads_causally
        from common.models.heads import word_table

        if reads_causally(encoder.config) != self.causal:
            problem = self.other_encoder(encoder.config.model_type)
            raise ModelError(f"tasks.{task.name}.type: {self} {problem}")
        words, width = word_table(encoder).weight.shape
        return self.tied_head(encoder.config.hidden_size, width, words)

    def hits(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        """How many of the words are right, and the count of each of `sums`."""
        return [(outputs.argmax(dim=1) == targets).sum()]

    def score(
        self,
        task: TaskDefinition,
        answers: Iterable[tuple[Tensor, Tensor]],
        order: NDArray[np.int64],
        units: TargetUnits = OWN_UNITS,
    ) -> TaskStatistics:
        """Sums over the words, of which there are too many outputs to keep."""
        import torch

        found = torch.zeros(3 + len(self.sums), dtype=torch.float64)
        for outputs, targets in answers:
            loss = self.loss(outputs, targets, "sum").double()
            hits = [count.double() for count in self.hits(outputs, targets)]
            found = found.to(loss.device) + torch.stack([loss, torch.full_like(loss, len(targets)), *hits])
        loss_sum, words, right, *counts = found.tolist()
        if not isfinite(loss_sum):
            raise not_finite(task)
        wanted = {row.name for row in task.metric_sums}
        sums = ((row.name, (count,)) for row, count in zip(self.sums, counts, strict=True) if row.name in wanted)
        return TaskStatistics(int(words), loss_sum, int(right), sums=tuple(sums))

    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """The share of words that were found, and exp of their mean loss."""
        perplexity = exp(min(total.loss_sum / total.examples, LARGEST_EXPONENT)) if total.examples else None
        return {self.share_right: ratio(total.right, total.examples), "perplexity": perplexity}
