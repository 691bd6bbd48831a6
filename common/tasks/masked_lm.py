"""The words behind hidden tokens: a task over texts without any labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.tasks.language_model import LanguageModel

if TYPE_CHECKING:
    from common.models.heads import TiedHead


class MaskedLM(LanguageModel):
    """The word behind every hidden token, from the words on both sides of it."""

    name = "masked_lm"
    metrics = ("masked_accuracy", "perplexity")
    asks = "hidden tokens"
    causal = False
    share_right = "masked_accuracy"

    def tied_head(self, hidden: int, width: int, words: int) -> TiedHead:
        """See `MaskedHead`."""
        from common.models.heads import MaskedHead

        return MaskedHead(hidden, width, words)

    def other_encoder(self, encoder_type: str) -> str:
        """It is a decoder."""
        reads = f"reads the words on both sides, and an encoder of type '{encoder_type}' those before alone"
        return f"{reads}; write next_word, or choose another model.server_model"
