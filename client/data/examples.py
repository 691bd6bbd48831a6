"""What a client holds of one task, whatever its examples are made of: first as read, then ready for batching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from client.data.columns import ColumnNames
from common.augmentation import Augmentation
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.inputs import Batch, Header, input_described
from common.inputs.row_scale import RowScale
from common.orders import ModelArchitecture
from common.standardising import InputScale, InputSums
from common.tasks import TaskDefinition
from common.tasks.kind import Label

if TYPE_CHECKING:  # it takes seconds to import, and numbers need none of it
    from transformers import PreTrainedTokenizerBase

Tokenizer: TypeAlias = "PreTrainedTokenizerBase"
SHOWN_FEATURES = 20


@dataclass(frozen=True)
class UsedTokens:
    """The token ids that examples consist of, in any order and number, and the one that pads them."""

    ids: NDArray[np.int32]
    padding_id: int


class PreparedExamples(Protocol):
    """Examples ready for batching."""

    def __len__(self) -> int:
        """How many."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How long each is, int64 (examples,): batches are of similar length."""

    def drawn(self, seed: int) -> Self:
        """The same examples as an epoch has them, where something of them is drawn anew."""

    def batch(self, places: NDArray[np.integer]) -> Batch:
        """The batch of these examples, at least one."""

    def scaled(self, scale: InputScale | None) -> Self:
        """The same examples, whose numbers are standardised by a scale of the federation.

        Raises:
            WireError: it is of other examples.
        """

    def used_tokens(self) -> Sequence[UsedTokens]:
        """Its token ids where training reads and moves the embeddings of no others; else nothing."""

    def renumbered(self, numbers: NDArray[np.int32]) -> Self:
        """The same examples with other numbers for token ids: `numbers[id]` instead of `id`."""


class RawExamples(Protocol):
    """Examples as they were read."""

    @property
    def inputs(self) -> str:
        """Which of `INPUT_KINDS` they are."""

    def __len__(self) -> int:
        """How many."""

    @property
    def labels(self) -> Sequence[Label] | NDArray[Any]:
        """Their labels; of several labels each, tuples or rows of zeros and ones."""

    def take(self, places: NDArray[np.integer]) -> Self:
        """The examples at these places, in this order."""

    def joined(self, others: Sequence[Self]) -> Self:
        """These examples, and after them those of others of the same task."""

    def digests(self) -> NDArray[np.uint64]:
        """A number for each example, (examples,), which is the same where row and label are."""

    def row_scale(self) -> RowScale | None:
        """The scale of these examples, if they are made of numbers, for a user who sets `data.statistics: site`."""

    def on_scale(self, scale: RowScale) -> Self:
        """The same examples on a scale, which may be that of others."""

    def input_sums(self) -> InputSums | None:
        """What the federation is told of them with `data.statistics: federation`; None if they are no numbers."""

    def lacking(self, encoder: ArrayEncoder) -> frozenset[str]:
        """The parts of what the encoder reads that none of these examples has."""

    def augmented(self, augmentation: Augmentation) -> Self:
        """The examples, changed anew by every epoch of training if they are images."""

    def prepare(
        self, task: TaskDefinition, tokenizer: Tokenizer | None, pair_mode: str, max_length: int
    ) -> PreparedExamples:
        """Make them ready for batching, once per run.

        Raises:
            DataError: one cannot be read.
            ModelError: the tokenizer cannot do what the task needs.
        """


@dataclass(frozen=True)
class TaskData:
    """The examples of one task that a client trains on and scores with."""

    train: RawExamples
    validation: RawExamples
    origin: str
    """Where they come from."""
    columns: ColumnNames = field(default_factory=ColumnNames)
    """Which column is what; nothing for generated examples."""
    headers: tuple[Header, ...] = ()
    """What the numbers of an example are, if it is made of numbers."""
    notes: tuple[str, ...] = ()
    """For the person whose examples they are."""
    inputs: InputSums | None = None
    """What the federation is told of the numbers in training examples, if it is to standardise them."""
    scale: RowScale | None = None
    """That of the training examples, where all of these were standardised by it."""
    lacks: frozenset[str] = frozenset()
    """The parts that no example has, where examples have several."""

    def standardised(self) -> TaskData:
        """All examples on the scale of those that are trained on, if they have one."""
        scale = self.train.row_scale()
        if scale is None:
            return self
        train, validation = self.train.on_scale(scale), self.validation.on_scale(scale)
        return replace(self, train=train, validation=validation, scale=scale)

    @property
    def described(self) -> str:
        """Which column is what, in one line; empty for generated rows."""
        columns = self.columns
        named = {"text": columns.text, "text_pair": columns.text_pair, "label": columns.label}
        said = [f"{role} '{name}'" for role, name in named.items() if name is not None]
        for header in self.headers if said else ():
            shown = [*columns.features[:SHOWN_FEATURES], "..."][: len(columns.features)]
            said.append(f"{header.count} features " + (", ".join(shown) or "without names, taken by position"))
        return ", ".join(said)


def joined(parts: Sequence[TaskData]) -> TaskData:
    """The examples of several clients as those of one."""
    first, *others = parts
    return replace(
        first,
        train=first.train.joined([other.train for other in others]),
        validation=first.validation.joined([other.validation for other in others]),
        inputs=None if first.inputs is None else first.train.joined([o.train for o in others]).input_sums(),
        lacks=frozenset.intersection(*(part.lacks for part in parts)),
    )


def prepare(
    examples: RawExamples,
    task: TaskDefinition,
    architecture: ModelArchitecture,
    tokenizer: Tokenizer | None,
) -> PreparedExamples:
    """Examples ready for batching, for the coordinator's model.

    Raises:
        DataError: the model reads another kind of inputs, or an example cannot be read.
        ModelError: the tokenizer cannot do what the task needs.
    """
    wanted = input_described(architecture.encoder_config).name
    if wanted != examples.inputs:
        reads = f"the coordinator's model reads {wanted}, and here are {examples.inputs}"
        raise DataError(f"task {task.name}: {reads}; use its configuration here")
    return examples.prepare(task, tokenizer, architecture.pair_mode, architecture.max_length)
