"""Texts to token ids, once per run; batches are then cut out of flat arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.example import Example
from client.data.examples import Tokenizer, UsedTokens
from client.data.masking import Masks, Vocabulary, draw_masks
from common.errors import DataError, ModelError, WireError
from common.inputs.texts import TextBatch
from common.seeds import derive_seed
from common.standardising import InputScale
from common.tasks import TaskDefinition
from common.tasks.kind import Labels

if TYPE_CHECKING:  # see `client.data.examples`
    from transformers import BatchEncoding

TEXTS_PER_CALL = 8192


@dataclass(frozen=True)
class TokenisedTexts:
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
class TokenisedSet:
    """A task's examples ready for batching.

    `second` holds the second texts of siamese pairs. `labels` is int64 (rows,) for classes, float64 (rows,)
    for scores, float32 (rows, labels) of zeros and ones for multi-label tasks.
    """

    first: TokenisedTexts
    second: TokenisedTexts | None
    labels: Labels
    padding_id: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per example, of the longer text where there are two, int64 (examples,)."""
        return self.first.lengths if self.second is None else np.maximum(self.first.lengths, self.second.lengths)

    def drawn(self, seed: int) -> TokenisedSet:
        """Nothing is drawn."""
        return self

    def batch(self, places: NDArray[np.integer]) -> TextBatch:
        """The batch of these examples, padded to the longest; siamese second texts are its `pair`."""
        pair = None if self.second is None else padded(self.second, places, self.padding_id)
        labels = torch.from_numpy(self.labels[places])
        return padded(self.first, places, self.padding_id, pair, labels)

    def scaled(self, scale: InputScale | None) -> TokenisedSet:
        """See `PreparedExamples`; there are no numbers."""
        if scale is not None:
            raise WireError("texts have no scale")
        return self

    def used_tokens(self) -> Sequence[UsedTokens]:
        """Those of all texts."""
        texts = (self.first,) if self.second is None else (self.first, self.second)
        return [UsedTokens(text.ids, self.padding_id) for text in texts]

    def renumbered(self, numbers: NDArray[np.int32]) -> TokenisedSet:
        """The same texts in other numbers."""
        second = None if self.second is None else replace(self.second, ids=numbers[self.second.ids])
        first = replace(self.first, ids=numbers[self.first.ids])
        return replace(self, first=first, second=second, padding_id=int(numbers[self.padding_id]))


@dataclass(frozen=True)
class WordSet:
    """Texts ready for batching of which some tokens are asked for."""

    texts: TokenisedTexts
    asked: NDArray[np.bool_]
    """Which tokens have an output, bool (tokens,)."""
    labels: NDArray[np.int32]
    """Their targets, int32 (tokens,); of others anything."""
    padding_id: int
    whole_table: bool = False
    """Whether a head reads every row of the table of words, so that all of them get a gradient."""
    heard: tuple[NDArray[np.bool_], ...] = ()
    """Where rows were given as words: which words of each row are asked for. Targets then name their row, too."""

    def __len__(self) -> int:
        return len(self.texts.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row, int64 (rows,)."""
        return self.texts.lengths

    def drawn(self, seed: int) -> WordSet:
        """Nothing is drawn."""
        return self

    def batch(self, places: NDArray[np.integer]) -> TextBatch:
        """The batch of these texts, the targets and where their tokens are."""
        labels = padded(replace(self.texts, ids=self.labels), places, 0).input_ids.flatten()
        asked = padded(replace(self.texts, ids=self.asked.astype(np.int32)), places, 0).input_ids
        positions = asked.flatten().nonzero().squeeze(1)
        labels = labels[positions]
        if self.heard:
            labels = torch.stack([labels, positions // asked.shape[1]], dim=1)
        return replace(padded(self.texts, places, self.padding_id), labels=labels, positions=positions)

    def by_row(self, said: NDArray[np.float64], places: NDArray[np.integer]) -> list[NDArray[np.float64]]:
        """What was said of the tokens of these texts, (tokens, ...), text by text; NaN for words without a token."""
        counts = np.add.reduceat(self.asked.astype(np.int64), self.texts.offsets[:-1])[places]
        rows = np.split(said, np.cumsum(counts)[:-1])
        if not self.heard:
            return rows
        found = [np.full((len(self.heard[place]), *said.shape[1:]), np.nan) for place in places]
        for cells, place, row in zip(found, places, rows, strict=True):
            cells[self.heard[place]] = row
        return found

    def scaled(self, scale: InputScale | None) -> WordSet:
        """See `PreparedExamples`; there are no numbers."""
        if scale is not None:
            raise WireError("texts have no scale")
        return self

    def used_tokens(self) -> Sequence[UsedTokens]:
        """Those of all texts, unless the head reads the whole table."""
        return () if self.whole_table else (UsedTokens(self.texts.ids, self.padding_id),)

    def renumbered(self, numbers: NDArray[np.int32]) -> WordSet:
        """The same texts in other numbers; labels are no token ids where this is asked for."""
        texts = replace(self.texts, ids=numbers[self.texts.ids])
        return replace(self, texts=texts, padding_id=int(numbers[self.padding_id]))


@dataclass(frozen=True)
class MaskedSet:
    """Texts of a masked task ready for batching, with the masks that they have now."""

    texts: TokenisedTexts
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

    def batch(self, places: NDArray[np.integer]) -> TextBatch:
        """The batch of these texts as they are shown, the hidden words and where they are."""
        shown = replace(self.texts, ids=self.masks.shown)
        return WordSet(shown, self.masks.chosen, self.texts.ids, self.padding_id, True).batch(places)

    def scaled(self, scale: InputScale | None) -> MaskedSet:
        """See `PreparedExamples`; there are no numbers."""
        if scale is not None:
            raise WireError("texts have no scale")
        return self

    def used_tokens(self) -> Sequence[UsedTokens]:
        """Nothing: the task asks every row of the table for its word, so that all of them get a gradient."""
        return ()

    def renumbered(self, numbers: NDArray[np.int32]) -> MaskedSet:
        """See `used_tokens`."""
        raise NotImplementedError


def tokenise(
    examples: Sequence[Example], task: TaskDefinition, tokenizer: Tokenizer, pair_mode: str, max_length: int
) -> TokenisedSet:
    """Tokenise labelled examples; see `TextExamples.prepare`."""
    texts = [example.text for example in examples]
    pairs = [example.text_pair or "" for example in examples] if task.pair else None
    second = None
    if pairs is not None and pair_mode == "siamese":
        second = tokens_of(pairs, None, task.name, tokenizer, max_length)
        pairs = None
    first = tokens_of(texts, pairs, task.name, tokenizer, max_length)
    labels = task.type.targets(task, [example.label for example in examples])
    return TokenisedSet(first, second, labels, int(tokenizer.pad_token_id))


def mask(examples: Sequence[Example], task: TaskDefinition, tokenizer: Tokenizer, max_length: int) -> MaskedSet:
    """Texts with the same masks every time, as validation needs them; training draws others.

    Raises:
        DataError: A text has no tokens.
        ModelError: The tokenizer has no mask.
    """
    if tokenizer.mask_token_id is None:
        raise ModelError(
            f"tasks.{task.name}: the tokenizer has no mask token; choose one that has, or leave the task out"
        )
    texts = tokens_of([example.text for example in examples], None, task.name, tokenizer, max_length)
    special = tuple(sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id}))
    vocabulary = Vocabulary(len(tokenizer), int(tokenizer.mask_token_id), special)
    masks = draw_masks(texts.ids, texts.offsets, vocabulary, derive_seed(0, task.name, "masks"))
    return MaskedSet(texts, int(tokenizer.pad_token_id), vocabulary, masks)


def tokens_of(
    texts: list[str],
    pairs: list[str] | None,
    task: str,
    tokenizer: Tokenizer,
    max_length: int,
) -> TokenisedTexts:
    """The tokens of texts, or of pairs read as one; longer ones are truncated.

    Raises:
        DataError: a text has no tokens.
    """
    with_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    ids: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    types: list[NDArray[np.int8]] = [np.empty(0, np.int8)]
    lengths: list[int] = []
    for output in encoded(texts, pairs, tokenizer, max_length, with_types):
        lengths.extend(map(len, output["input_ids"]))
        ids.append(np.fromiter(chain.from_iterable(output["input_ids"]), np.int32))
        if with_types:
            types.append(np.fromiter(chain.from_iterable(output["token_type_ids"]), np.int8))
    if 0 in lengths:
        raise DataError(f"task {task}: text {lengths.index(0) + 1} has no token; remove it or change the tokenizer")
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TokenisedTexts(np.concatenate(ids), offsets, np.concatenate(types) if with_types else None)


def encoded(
    texts: list[str], pairs: list[str] | None, tokenizer: Tokenizer, max_length: int, with_types: bool
) -> Iterator[BatchEncoding]:
    """What the tokenizer says of texts, or of pairs read as one, for many at once."""
    for start in range(0, len(texts), TEXTS_PER_CALL):
        part = slice(start, start + TEXTS_PER_CALL)
        yield tokenizer(
            texts[part],
            pairs[part] if pairs is not None else None,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=with_types,
        )


def padded(
    texts: TokenisedTexts,
    rows: NDArray[np.integer],
    padding_id: int,
    pair: TextBatch | None = None,
    labels: torch.Tensor | None = None,
) -> TextBatch:
    """The batch of these rows, padded to the longest."""
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
