"""Texts to token ids, once per run; batches are then cut out of flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.example import Example
from client.data.features import FeatureRows
from client.data.masking import Masks, Vocabulary, draw_masks
from common.errors import DataError, ModelError
from common.models.batch import Batch, TextBatch
from common.seeds import derive_seed
from common.tasks import TaskDefinition
from common.tasks.definition import Labels

if TYPE_CHECKING:  # it takes seconds to import, and rows of numbers need none of it
    from transformers import PreTrainedTokenizerBase

TEXTS_PER_CALL = 8192

Reader: TypeAlias = "PreTrainedTokenizerBase"
"""What turns texts into token ids."""


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of many texts, end to end.

    `ids` is int32 (tokens,); row r is `ids[offsets[r]:offsets[r + 1]]` with `offsets` int64 (rows + 1,).
    `types` is int8 (tokens,) and tells the two texts of a cross-encoded pair apart; None for single texts.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    types: NDArray[np.int8] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row, int64 (rows,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class EncodedSet:
    """A task's examples ready for batching.

    `second` holds the second texts of siamese pairs. `labels` is int64 (rows,) for classes, float64 (rows,)
    for scores, float32 (rows, labels) of zeros and ones for multi-label tasks.
    """

    first: EncodedTexts
    second: EncodedTexts | None
    labels: Labels
    padding_id: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row, of the longer text where there are two, int64 (rows,)."""
        return self.first.lengths if self.second is None else np.maximum(self.first.lengths, self.second.lengths)


@dataclass(frozen=True)
class MaskedSet:
    """Texts of a masked task ready for batching, with the masks that they have now."""

    texts: EncodedTexts
    padding_id: int
    vocabulary: Vocabulary
    masks: Masks

    def __len__(self) -> int:
        return len(self.texts.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row, int64 (rows,)."""
        return self.texts.lengths

    def drawn(self, seed: int) -> MaskedSet:
        """The same texts with other masks."""
        return replace(self, masks=draw_masks(self.texts.ids, self.texts.offsets, self.vocabulary, seed))


TrainingRows = EncodedSet | MaskedSet | FeatureRows
"""What batches are cut from."""


def encode(
    examples: Sequence[Example] | FeatureRows,
    task: TaskDefinition,
    tokenizer: PreTrainedTokenizerBase | None,
    encoding: str,
    max_length: int,
) -> TrainingRows:
    """Tokenise all examples; rows of numbers need no tokenizer and stay as they are.

    Args:
        examples: Rows with labels of the task's type.
        task: Says whether rows are pairs and what labels are.
        tokenizer: A tokenizer with a padding token; None where the model reads numbers.
        encoding: `cross` reads a pair as one sequence, `siamese` each text by itself.
        max_length: Longest sequence in tokens, special tokens included; longer ones are truncated.

    Raises:
        DataError: A text has no tokens; or these are texts and the model reads numbers, or the other way round.
        ModelError: The tokenizer has no padding token, or no mask for a task that needs one.
    """
    if isinstance(examples, FeatureRows) or tokenizer is None:
        if not isinstance(examples, FeatureRows) or tokenizer is not None:
            reads = "numbers, and here are texts" if tokenizer is None else "texts, and here are numbers"
            raise DataError(f"task {task.name}: the coordinator's model reads {reads}; use its configuration here")
        return examples
    if tokenizer.pad_token_id is None:
        raise ModelError("the tokenizer has no padding token; choose one that has")
    if not task.type.reads_labels:
        return _masked(examples, task, tokenizer, max_length)
    texts = [example.text for example in examples]
    pairs = [example.text_pair or "" for example in examples] if task.pair else None
    second = None
    if pairs is not None and encoding == "siamese":
        second = _tokenise(pairs, None, task.name, tokenizer, max_length)
        pairs = None
    first = _tokenise(texts, pairs, task.name, tokenizer, max_length)
    return EncodedSet(first, second, task.type.targets(task, [e.label for e in examples]), int(tokenizer.pad_token_id))


def collate(encoded: TrainingRows, rows: NDArray[np.integer]) -> Batch:
    """The batch of `rows` (at least one), padded to the longest; siamese second texts are its `pair`."""
    if isinstance(encoded, FeatureRows):
        return encoded.batch(rows)
    if isinstance(encoded, MaskedSet):
        return _hidden(encoded, rows)
    pair = None if encoded.second is None else _pad(encoded.second, rows, encoded.padding_id)
    labels = torch.from_numpy(encoded.labels[rows])
    return _pad(encoded.first, rows, encoded.padding_id, pair, labels)


def _masked(
    examples: Sequence[Example], task: TaskDefinition, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> MaskedSet:
    """Texts with the same masks every time, as validation needs them; training draws others."""
    if tokenizer.mask_token_id is None:
        raise ModelError(
            f"tasks.{task.name}: the tokenizer has no mask token; choose one that has, or leave the task out"
        )
    texts = _tokenise([example.text for example in examples], None, task.name, tokenizer, max_length)
    special = tuple(sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id}))
    vocabulary = Vocabulary(len(tokenizer), int(tokenizer.mask_token_id), special)
    masks = draw_masks(texts.ids, texts.offsets, vocabulary, derive_seed(0, task.name, "masks"))
    return MaskedSet(texts, int(tokenizer.pad_token_id), vocabulary, masks)


def _hidden(encoded: MaskedSet, rows: NDArray[np.integer]) -> TextBatch:
    """A batch of masked texts, the hidden words and where they are."""
    shown = _pad(replace(encoded.texts, ids=encoded.masks.shown), rows, encoded.padding_id)
    words = _pad(encoded.texts, rows, encoded.padding_id).input_ids.flatten()
    chosen = _pad(replace(encoded.texts, ids=encoded.masks.chosen.astype(np.int32)), rows, 0).input_ids
    positions = chosen.flatten().nonzero().squeeze(1)
    return replace(shown, labels=words[positions], positions=positions)


def _tokenise(
    texts: list[str],
    pairs: list[str] | None,
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> EncodedTexts:
    with_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    ids: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    types: list[NDArray[np.int8]] = [np.empty(0, np.int8)]
    lengths: list[int] = []
    for start in range(0, len(texts), TEXTS_PER_CALL):
        part = slice(start, start + TEXTS_PER_CALL)
        output = tokenizer(
            texts[part],
            pairs[part] if pairs is not None else None,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=with_types,
        )
        lengths.extend(map(len, output["input_ids"]))
        ids.append(np.fromiter(chain.from_iterable(output["input_ids"]), np.int32))
        if with_types:
            types.append(np.fromiter(chain.from_iterable(output["token_type_ids"]), np.int8))
    if 0 in lengths:
        raise DataError(f"task {task}: text {lengths.index(0) + 1} has no token; remove it or change the tokenizer")
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return EncodedTexts(np.concatenate(ids), offsets, np.concatenate(types) if with_types else None)


def scores_of(rows: Sequence[Example] | FeatureRows) -> NDArray[np.float64]:
    """The scores of a regression's rows, (rows,)."""
    labels = rows.labels if isinstance(rows, FeatureRows) else [row.label for row in rows]
    return np.asarray(labels, dtype=np.float64)


def _pad(
    texts: EncodedTexts,
    rows: NDArray[np.integer],
    padding_id: int,
    pair: TextBatch | None = None,
    labels: torch.Tensor | None = None,
) -> TextBatch:
    starts = texts.offsets[rows]
    lengths = texts.offsets[rows + 1] - starts
    places = np.arange(lengths.max())
    inside = places < lengths[:, None]
    index = np.where(inside, starts[:, None] + places, 0)
    input_ids = np.where(inside, texts.ids[index], padding_id).astype(np.int64)
    types = None if texts.types is None else np.where(inside, texts.types[index], 0).astype(np.int64)
    return TextBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(inside.astype(np.int64)),
        token_type_ids=None if types is None else torch.from_numpy(types),
        pair=pair,
        labels=labels,
    )
