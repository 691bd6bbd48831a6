"""Texts and pairs of texts: from tables or generated, as they were read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from client.data.builtin import generate
from client.data.columns import Table, examples_in, text_columns
from client.data.example import Example
from client.data.examples import PreparedExamples, TaskData, Tokenizer
from client.data.files import read_split, task_folder
from client.data.hub import read_glue
from client.data.request import DataRequest, Split, shard
from client.data.tokenised import mask, tokenise
from common.encoders.row import ArrayEncoder
from common.errors import ModelError
from common.tasks import TaskDefinition
from common.tasks.definition import Label


class TextExamples(list[Example]):
    """Labelled texts; see `RawExamples`."""

    inputs = "texts"

    @property
    def labels(self) -> list[Label]:
        """As a cell was read."""
        return [example.label for example in self]

    def take(self, places: NDArray[np.integer]) -> TextExamples:
        """The examples at these places, in this order."""
        return TextExamples(self[place] for place in places)

    def standardised(self, others: TextExamples) -> tuple[TextExamples, TextExamples]:
        """There is nothing to standardise."""
        return self, others

    def lacking(self, encoder: ArrayEncoder) -> frozenset[str]:
        """Texts have no parts."""
        return frozenset()

    def prepare(
        self, task: TaskDefinition, tokenizer: Tokenizer | None, pair_mode: str, max_length: int
    ) -> PreparedExamples:
        """Tokenise all examples.

        Args:
            task: Says whether examples are pairs and what labels are; without labels, words are hidden.
            tokenizer: A tokenizer with a padding token.
            pair_mode: `cross` reads a pair as one sequence, `siamese` each text by itself.
            max_length: Longest sequence in tokens, special tokens included; longer ones are truncated.

        Raises:
            DataError: A text has no tokens.
            ModelError: The tokenizer has no padding token, or no mask for a task that needs one.
        """
        if tokenizer is None or tokenizer.pad_token_id is None:
            raise ModelError("the tokenizer has no padding token; choose one that has")
        if not task.type.reads_labels:
            return mask(self, task, tokenizer, max_length)
        return tokenise(self, task, tokenizer, pair_mode, max_length)


def load(request: DataRequest) -> TaskData:
    """The texts asked for; see `client.data.sources`."""
    name = request.task.name
    if request.source == "builtin":
        return _builtin(request)
    if request.source == "glue":
        return _from_tables(request, partial(read_glue, name), f"glue/{name} (Hugging Face hub)")
    folder = task_folder(request.files, name)
    return _from_tables(request, partial(read_split, folder), str(folder))


def _builtin(request: DataRequest) -> TaskData:
    number, parts = request.partition
    name = request.task.type.builtin_data(request.task.name)

    def texts(split: Split, samples: int) -> TextExamples:
        return TextExamples(generate(name, split, samples * parts, request.seed)[number - 1 :: parts])

    train, validation = request.builtin_samples
    return TaskData(texts("train", train), texts("validation", validation), "synthetic (built-in)")


def _from_tables(request: DataRequest, read: Callable[[Split], Table], origin: str) -> TaskData:
    """Texts from two tables, or from one where no row is scored."""
    task = request.task
    tables = [read("train")] if request.val_samples == 0 else [read("train"), read("validation")]
    columns = [text_columns(table, task, request.columns) for table in tables]
    found = [TextExamples(examples_in(table, task, chosen)) for table, chosen in zip(tables, columns, strict=True)]
    train, validation = (*found, TextExamples())[:2]
    left_out = sum(map(len, tables)) - len(train) - len(validation)
    return TaskData(
        train.take(shard(len(train), request, "train", request.train_samples)),
        validation.take(shard(len(validation), request, "validation", request.val_samples)),
        f"{origin}, {left_out} incomplete rows left out" if left_out else origin,
        columns[0],
        notes=tuple(note for table in tables for note in table.notes),
    )
