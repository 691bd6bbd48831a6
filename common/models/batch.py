"""What one forward pass reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureBatch:
    """Rows of numbers: `features` is float32 (rows, features), `labels` as in `TextBatch`."""

    features: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device) -> FeatureBatch:
        """The same batch on `device`; a copy to a GPU goes on in the background."""
        if device.type == "cpu":
            return self
        return FeatureBatch(_moved(self.features, device), None if self.labels is None else _moved(self.labels, device))


@dataclass(frozen=True)
class TextBatch:
    """Token ids of a batch of texts, padded to the longest.

    `input_ids`, `attention_mask` (1 at tokens, 0 at padding) and `token_type_ids` (which text of a cross-encoded pair)
    are int64 (rows, length). `pair` holds the second texts of siamese pairs and has no labels itself. `labels` is
    int64 (rows,) for classes, float64 (rows,) for scores, float32 (rows, labels) for multi-label tasks. `positions` are
    the hidden words of a masked task, int64 (words,), counted row by row over all of `input_ids`; its labels are those
    words' ids, int64 (words,).
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None = None
    pair: TextBatch | None = None
    labels: Tensor | None = None
    positions: Tensor | None = None

    def to(self, device: torch.device) -> TextBatch:
        """The same batch on `device`; a copy to a GPU goes on in the background."""
        if device.type == "cpu":
            return self
        return TextBatch(
            _moved(self.input_ids, device),
            _moved(self.attention_mask, device),
            None if self.token_type_ids is None else _moved(self.token_type_ids, device),
            None if self.pair is None else self.pair.to(device),
            None if self.labels is None else _moved(self.labels, device),
            None if self.positions is None else _moved(self.positions, device),
        )


Batch = TextBatch | FeatureBatch
"""What a model reads at a time."""


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True)
