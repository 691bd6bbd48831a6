"""Texts and pairs of texts: from tables or generated, as they were read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from client.data.builtin import GeneratedSplit, generate
from client.data.columns import Table, examples_in, text_columns
from client.data.example import Example
from client.data.examples import PreparedExamples, TaskData, Tokenizer
from client.data.request import DataRequest, shard
from client.data.splits import divide, is_held_out
from client.data.table_sources import TABLES
from client.data.tokenised import tokenise
from client.data.words import ANSWERED, ASKED, Asking
from common.augmentation import Augmentation
from common.encoders.row import ArrayEncoder
from common.errors import ModelError
from common.inputs.row_scale import RowScale
from common.tasks import TaskDefinition
from common.tasks.kind import Label


class TextExamples(list[Example]):
    """Labelled texts; see `RawExamples`."""

    inputs = "texts"

    @property
    def labels(self) -> list[Label]:
        """As a cell was read."""
        return [example.label for example in self]

    def take(self, places: NDArray[np.integer]) -> Self:
        """The examples at these places, in this order."""
        return type(self)(self[place] for place in places)

    def joined(self, others: Sequence[Self]) -> Self:
        """These texts, and after them those of others."""
        return type(self)(chain(self, *others))

    def digests(self) -> NDArray[np.uint64]:
        """See `RawExamples`."""
        return np.array([xxhash.xxh3_64_intdigest(repr(example).encode()) for example in self], dtype=np.uint64)

    def row_scale(self) -> None:
        """Texts have no scale."""

    def on_scale(self, scale: RowScale) -> Self:
        """Texts stay as they are."""
        return self

    def input_sums(self) -> None:
        """They are no numbers."""

    def augmented(self, augmentation: Augmentation) -> Self:
        """They are no images."""
        return self

    def lacking(self, encoder: ArrayEncoder) -> frozenset[str]:
        """Texts have no parts."""
        return frozenset()

    def prepare(
        self, task: TaskDefinition, tokenizer: Tokenizer | None, pair_mode: str, max_length: int
    ) -> PreparedExamples:
        """Tokenise all examples.

        Args:
            task: Says whether examples are pairs, what labels are and of which tokens.
            tokenizer: A tokenizer with a padding token.
            pair_mode: `cross` reads a pair as one sequence, `siamese` each text by itself.
            max_length: Longest sequence in tokens, special tokens included; longer ones are truncated.

        Raises:
            DataError: A text has no tokens, or none that has a target.
            ModelError: The tokenizer has no padding token, or no mask for a task that needs one.
        """
        if tokenizer is None or tokenizer.pad_token_id is None:
            raise ModelError("the tokenizer has no padding token; choose one that has")
        if task.type.per_token:
            return self.asked(task)(self, task, tokenizer, max_length)
        return tokenise(self, task, tokenizer, pair_mode, max_length)

    def asked(self, task: TaskDefinition) -> Asking:
        """What asks for tokens of these texts."""
        return ASKED[task.type.asks]


class UnlabelledTexts(TextExamples):
    """Texts to be answered."""

    def asked(self, task: TaskDefinition) -> Asking:
        """What asks for the tokens that tell a person something."""
        return ANSWERED[task.type.asks]


def load(request: DataRequest) -> TaskData:
    """The texts asked for; see `client.data.sources`."""
    return _builtin(request) if request.source == "builtin" else _from_tables(request)


def _builtin(request: DataRequest) -> TaskData:
    number, parts = request.partition
    name = request.task.type.builtin_data(request.task.name)

    def texts(split: GeneratedSplit, samples: int) -> TextExamples:
        return TextExamples(generate(name, split, samples * parts, request.seed)[number - 1 :: parts])

    train, validation = request.builtin_samples
    return TaskData(texts("train", train), texts("validation", validation), "synthetic (built-in)")


def _from_tables(request: DataRequest) -> TaskData:
    """Texts from two tables, or from one where no row is scored or where rows to score on are held out of it."""
    task, source = request.task, TABLES[request.source](request)
    read = [source.read("train")]
    if request.scored_samples != 0 and not is_held_out(request.split, source.has, request.scored):
        read.append(source.read(request.scored))
    columns = text_columns(read[0], task, request.columns)
    train = TextExamples(examples_in(read[0], task, columns))
    found = divide(
        request.split, source.has, task, request.seed, train, _groups(read[0], train, request), source.origin
    )
    whole, scored = train, TextExamples()
    if len(found.sides) > 1:
        train = whole.take(found.sides["train"])
    if request.scored in found.sides:
        scored = whole.take(found.sides[request.scored])
    elif len(read) > 1:
        scored = TextExamples(examples_in(read[1], task, text_columns(read[1], task, request.columns)))
    left_out = sum(map(len, read)) - len(whole) - (len(scored) if len(read) > 1 else 0)
    return TaskData(
        train.take(shard(len(train), request, "train", request.train_samples)),
        scored.take(shard(len(scored), request, request.scored, request.scored_samples)) if scored else scored,
        f"{source.origin}, {left_out} incomplete rows left out" if left_out else source.origin,
        columns,
        notes=(*(note for table in read for note in table.notes), *found.notes),
    )


def _groups(table: Table, rows: TextExamples, request: DataRequest) -> list[str] | None:
    """The groups by which rows are held out, where all rows were complete."""
    by = request.split.by if request.split is not None else None
    return table.groups(by) if len(table) == len(rows) else None
