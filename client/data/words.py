"""Which tokens of texts are asked for, and what their targets are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from client.data.example import Example
from client.data.examples import PreparedExamples, Tokenizer
from client.data.tokenised import WordSet, mask, tokens_of
from common.errors import DataError
from common.tasks import TaskDefinition
from common.tasks.definition import Asked

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


ASKED: Mapping[Asked, Asking] = {"hidden tokens": mask, "next tokens": ask_next}
"""Of texts to learn from and to score on."""
ANSWERED: Mapping[Asked, Asking] = {"next tokens": ask_last}
"""Of texts to be answered."""
