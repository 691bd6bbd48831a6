"""Texts with some of their tokens hidden: what a masked language model is trained on, without any labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MASKED_SHARE = 0.15
HIDDEN_SHARE = 0.8
CHANGED_SHARE = 0.1


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of a tokenizer; `special` are ids that are not words."""

    size: int
    mask_id: int
    special: tuple[int, ...]


@dataclass(frozen=True)
class Masks:
    """Which tokens are to be found, bool (tokens,), and what stands in their place and elsewhere, int32 (tokens,)."""

    chosen: NDArray[np.bool_]
    shown: NDArray[np.int32]


def draw_masks(ids: NDArray[np.int32], offsets: NDArray[np.int64], vocabulary: Vocabulary, seed: int) -> Masks:
    """BERT's masks (Devlin et al. 2019): 15 % of the words, of which 80 % are hidden, 10 % changed, 10 % left.

    Every row has at least one, a special token if it has no words.

    Args:
        ids: tokens of all rows, end to end.
        offsets: where rows begin and the last one ends, int64 (rows + 1,).
        vocabulary: of the tokenizer.
        seed: decides all of it.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    order = rng.random(len(ids)) + np.isin(ids, vocabulary.special)
    fate, others = rng.random(len(ids)), rng.integers(vocabulary.size, size=len(ids), dtype=np.int32)
    first = np.minimum.reduceat(order, offsets[:-1]) if len(ids) else order
    chosen = (order < MASKED_SHARE) | (order == np.repeat(first, np.diff(offsets)))
    shown = np.where(chosen & (fate < HIDDEN_SHARE), np.int32(vocabulary.mask_id), ids)
    changed = chosen & (fate >= HIDDEN_SHARE) & (fate < HIDDEN_SHARE + CHANGED_SHARE)
    return Masks(chosen, np.where(changed, others, shown))
