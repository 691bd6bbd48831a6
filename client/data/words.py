"""Which tokens of texts are asked for, and what their targets are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data.example import Example
from client.data.examples import PreparedExamples, Tokenizer
from client.data.tokenised import TokenisedTexts, WordSet, encoded, mask, tokens_of
from common.errors import DataError
from common.tasks import TaskDefinition
from common.tasks.kind import Asked

if TYPE_CHECKING:  # see `client.data.examples`
    from tokenizers import Encoding

log = logging.getLogger("fedmtl.client")

Asking = Callable[[Sequence[Example], TaskDefinition, Tokenizer, int], PreparedExamples]
"""From texts, task, tokenizer and the most tokens of a row to prepared examples."""


def ask_next(examples: Sequence[Example], task: TaskDefinition, tokenizer: Tokenizer, max_length: int) -> WordSet:
    """Every token but the last of each text; the target is the next one.

    Raises:
        DataError: a text has fewer than two tokens.
    """
    texts = tokens_of([example.text for example in examples], None, task.name, tokenizer, max_length)
    if (texts.lengths < 2).any():
        row = int((texts.lengths < 2).argmax()) + 1
        raise DataError(f"task {task.name}: text {row} has one token, so that none comes next; remove it")
    asked = np.ones(len(texts.ids), dtype=np.bool_)
    asked[texts.offsets[1:] - 1] = False
    return WordSet(texts, asked, np.roll(texts.ids, -1), int(tokenizer.pad_token_id), True)


def ask_last(examples: Sequence[Example], task: TaskDefinition, tokenizer: Tokenizer, max_length: int) -> WordSet:
    """The last token of each text that is no mark of its end; of long texts the end is read. There are no targets."""
    side, tokenizer.truncation_side = tokenizer.truncation_side, "left"
    try:
        texts = tokens_of([example.text for example in examples], None, task.name, tokenizer, max_length)
    finally:
        tokenizer.truncation_side = side
    marks = [*{*tokenizer.all_special_ids} - {tokenizer.unk_token_id}]
    places = np.where(np.isin(texts.ids, marks), 0, np.arange(len(texts.ids)))
    asked = np.zeros(len(texts.ids), dtype=np.bool_)
    asked[np.maximum(np.maximum.reduceat(places, texts.offsets[:-1]), texts.offsets[:-1])] = True
    return WordSet(texts, asked, np.zeros_like(texts.ids), int(tokenizer.pad_token_id), True)


def ask_words(examples: Sequence[Example], task: TaskDefinition, tokenizer: Tokenizer, max_length: int) -> WordSet:
    """The first token of each word, where the model reads one; the target is the word's label.

    Raises:
        DataError: of no word of a text a token is read.
    """
    ids: list[NDArray[np.int32]] = []
    asked: list[NDArray[np.bool_]] = []
    labels: list[NDArray[np.int32]] = []
    heard: list[NDArray[np.bool_]] = []
    outputs = encoded([example.text for example in examples], None, tokenizer, max_length, False)
    encodings = (encoding for output in outputs for encoding in output.encodings or ())
    for number, (example, encoding) in enumerate(zip(examples, encodings, strict=True), start=1):
        tokens = _first_tokens(encoding, example.text)
        known, places = tokens >= 0, tokens[tokens >= 0]
        if not len(places):
            raise DataError(
                f"task {task.name}: of text {number} no word has a token; remove it or change the tokenizer"
            )
        ids.append(np.array(encoding.ids, dtype=np.int32))
        asked.append(np.zeros(len(encoding.ids), dtype=np.bool_))
        asked[-1][places] = True
        labels.append(np.zeros(len(encoding.ids), dtype=np.int32))
        if isinstance(example.label, tuple):
            labels[-1][places] = np.array(example.label, dtype=np.int32)[known]
        heard.append(known)
    _tell_unread(task, heard, max_length)
    none = np.empty(0, dtype=np.int32)
    texts = TokenisedTexts(np.concatenate([none, *ids]), np.cumsum([0, *map(len, ids)], dtype=np.int64))
    flags = np.concatenate([none.astype(np.bool_), *asked])
    found = np.concatenate([none, *labels])
    return WordSet(texts, flags, found, int(tokenizer.pad_token_id), heard=tuple(heard))


def _first_tokens(encoding: Encoding, text: str) -> NDArray[np.int64]:
    """The place of each word's first token, int64 (words,); -1 where it is not read, or no more than another word's."""
    starts = [0, *accumulate(len(word) + 1 for word in text.split(" "))][:-1]
    tokens = [encoding.char_to_token(start) for start in starts]
    places = np.array([-1 if token is None else token for token in tokens], dtype=np.int64)
    places[1:][np.diff(places) == 0] = -1
    return places


def _tell_unread(task: TaskDefinition, heard: Sequence[NDArray[np.bool_]], max_length: int) -> None:
    words = sum(map(len, heard))
    unread = words - sum(int(known.sum()) for known in heard)
    if unread:
        said = f"{unread} of {words} words have no token among the {max_length} of a row that the model reads"
        log.warning("task %s: %s; they have no label, and count in no score: raise model.max_length", task.name, said)


ASKED: Mapping[Asked, Asking] = {"hidden tokens": mask, "next tokens": ask_next, "words": ask_words}
"""Of texts to learn from and to score on."""
ANSWERED: Mapping[Asked, Asking] = {"next tokens": ask_last, "words": ask_words}
"""Of texts to be answered."""
