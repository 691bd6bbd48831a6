"""The word that comes next: a causal language model over texts without any labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from common.tasks.definition import TaskDefinition
from common.tasks.kind import Float64
from common.tasks.language_model import LanguageModel
from common.tasks.metric_sums import TOP, TopThree

if TYPE_CHECKING:
    from torch import Tensor

    from common.models.heads import TiedHead


class TopThreeWords(TopThree):
    """How many words are among the three likeliest."""

    def is_defined(self, labels: Sequence[str]) -> bool:
        """For every vocabulary; its words are no labels."""
        return True


class NextWord(LanguageModel):
    """The token after every token but the last, from those before it. Answers are of the one after a whole text."""

    name = "next_word"
    metrics = ("accuracy", "perplexity", "top3_accuracy")
    sums = (TopThreeWords(),)
    asks = "next tokens"
    causal = True
    share_right = "accuracy"
    answer = "outputs.softmax(-1).topk(3)"

    def default_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """All."""
        return self.metrics

    def tied_head(self, hidden: int, width: int, words: int) -> TiedHead:
        """See `NextHead`."""
        from common.models.heads import NextHead

        return NextHead(width)

    def other_encoder(self, encoder_type: str) -> str:
        """It reads the answer."""
        sees = f"finds words from those before alone, and an encoder of type '{encoder_type}' reads those after, too"
        return f"{sees}; write masked_lm, or choose a decoder (gpt2, llama, qwen2) as model.server_model"

    def hits(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        """Of the largest, and of the three largest; of equal ones the first are larger."""
        import torch

        own = outputs.gather(1, targets[:, None])
        first = torch.arange(outputs.shape[1], device=outputs.device) < targets[:, None]
        before = ((outputs > own) | ((outputs == own) & first)).sum(dim=1)
        return [*super().hits(outputs, targets), (before < TOP).sum()]

    def kept(self, outputs: Tensor) -> Tensor:
        """The three likeliest words and their probabilities, (tokens, 6): there are too many words to keep all."""
        import torch

        shares, words = outputs.double().softmax(dim=1).topk(min(TOP, outputs.shape[1]))
        return torch.cat([words.double(), shares], dim=1)

    def word_answers(
        self, task: TaskDefinition, said: Sequence[Float64], spelled: Callable[[int], str]
    ) -> Mapping[str, Sequence[object]]:
        """The three likeliest words after each text, and their probabilities."""
        import numpy as np

        words, shares = np.split(np.concatenate(said), 2, axis=1)
        found: dict[str, Sequence[object]] = {}
        for place in range(words.shape[1]):
            found[f"word_{place + 1}"] = [spelled(int(word)) for word in words[:, place]]
            found[f"p_{place + 1}"] = shares[:, place].tolist()
        return found
