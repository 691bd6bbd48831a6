"""The words behind hidden tokens: a task over texts without any labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import exp, isfinite
from typing import TYPE_CHECKING

from common.statistics import TaskStatistics, ratio
from common.targets import OWN_UNITS, TargetUnits
from common.tasks.definition import Label, TaskDefinition, TaskKind, not_finite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from common.inputs.kind import Encoder
    from common.models.heads import Head

LARGEST_EXPONENT = 200.0


class MaskedLM(TaskKind):
    """One output per word of the vocabulary for every hidden token, whose ids are the targets; those are counted."""

    name = "masked_lm"
    metrics = ("masked_accuracy", "perplexity")
    lower_is_better = frozenset({"perplexity"})
    reads_labels = False
    only_input = "texts"

    def label_parser(self, task: TaskDefinition) -> Callable[[object], Label]:
        """A text stands for itself."""
        return lambda _: 0

    def builtin_data(self, task: str) -> str:
        """The texts of sst2, without their labels."""
        return "sst2"

    def most_scored(self, examples: int, parts: int) -> int:
        """Every token of every text."""
        return examples * parts

    def head(self, task: TaskDefinition, pair_mode: str, encoder: Encoder) -> Head:
        """A head that shares the encoder's table of words."""
        from common.models.heads import MaskedHead, word_table

        words, width = word_table(encoder).weight.shape
        return MaskedHead(encoder.config.hidden_size, width, words)

    def score(
        self,
        task: TaskDefinition,
        answers: Iterable[tuple[Tensor, Tensor]],
        order: NDArray[np.int64],
        units: TargetUnits = OWN_UNITS,
    ) -> TaskStatistics:
        """Sums over hidden words, of which there are too many outputs to keep."""
        import torch

        found = torch.zeros(3, dtype=torch.float64)
        for outputs, targets in answers:
            loss = self.loss(outputs, targets, "sum").double()
            hits = (outputs.argmax(dim=1) == targets).sum().double()
            found = found.to(loss.device) + torch.stack([loss, hits, torch.full_like(loss, len(targets))])
        loss_sum, right, words = found.tolist()
        if not isfinite(loss_sum):
            raise not_finite(task)
        return TaskStatistics(int(words), loss_sum, int(right))

    def summary(self, task: TaskDefinition, total: TaskStatistics) -> Mapping[str, float | None]:
        """The share of hidden words that were found, and exp of their mean loss."""
        perplexity = exp(min(total.loss_sum / total.examples, LARGEST_EXPONENT)) if total.examples else None
        return {"masked_accuracy": ratio(total.right, total.examples), "perplexity": perplexity}
