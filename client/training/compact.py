"""Training with the word embeddings of a client's own tokens only.

A row of the embedding table whose token does not occur here gets no gradient, and without weight decay an optimizer
that starts fresh then leaves it as it is. Training a table of the other rows therefore gives the same values, bit for
bit without clipping; with it, the norm of the gradients adds fewer zeros in another order (about 1e-7 relative).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.loop import TaskSet
from client.training.optimizer import takes_decay
from common.models.encoder import reads_causally
from common.models.multitask import MultiTaskModel
from common.orders import Order
from common.targets import OWN_UNITS

log = logging.getLogger("fedmtl.client")

LARGEST_SHARE = 0.75
"""Tables that keep more of their rows than this are used whole: there is little to save."""


class CompactVocabulary:
    """A selection of a model's word embeddings that can take the place of the whole table.

    Args:
        embedding: the module whose weight is exchanged.
        rows: numbers of the kept rows in their new order, int64 (kept,); none occurs twice.
    """

    def __init__(self, embedding: nn.Embedding, rows: NDArray[np.int64]) -> None:
        self._embedding = embedding
        self._rows = torch.from_numpy(rows).to(embedding.weight.device)
        self._places = np.full(embedding.num_embeddings, -1, dtype=np.int32)
        self._places[rows] = np.arange(len(rows), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def whole(self) -> int:
        """Rows of the whole table."""
        return self._embedding.num_embeddings

    def renumbered(self, item: TaskSet) -> TaskSet:
        """The same rows with token ids that count in the compact table; only for ids that it holds."""
        train, validation = (examples.renumbered(self._places) for examples in (item.train, item.validation))
        return replace(item, train=train, validation=validation)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Exchange the embedding's weight for its kept rows; afterwards the whole table is back with their values.

        If the work inside raises, the whole table stays as it was before.
        """
        whole = self._embedding.weight
        kept = nn.Parameter(whole.detach().index_select(0, self._rows), requires_grad=whole.requires_grad)
        self._embedding.weight = kept
        try:
            yield
        finally:
            self._embedding.weight = whole
        with torch.no_grad():
            whole.index_copy_(0, self._rows, kept)


@dataclass(frozen=True)
class Examples:
    """A client's encoded examples by task, and the same in the numbers of a compact vocabulary, if that is used."""

    whole: tuple[TaskSet, ...]
    compact: tuple[TaskSet, ...]
    vocabulary: CompactVocabulary | None

    @classmethod
    def of(cls, model: MultiTaskModel, sets: tuple[TaskSet, ...], compacts: bool) -> Examples:
        """The examples that this model will read."""
        vocabulary = compact_vocabulary(model, sets) if compacts else None
        if vocabulary is None:
            return cls(sets, sets, None)
        log.info("trains %d of %d word embeddings", len(vocabulary), vocabulary.whole)
        return cls(sets, tuple(vocabulary.renumbered(item) for item in sets), vocabulary)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(item.task.name for item in self.whole)

    def without(self, tasks: Collection[str]) -> Examples:
        """Those of all other tasks."""
        whole, compact = (
            tuple(item for item in sets if item.task.name not in tasks) for sets in (self.whole, self.compact)
        )
        return Examples(whole, compact, self.vocabulary)

    def of_order(self, order: Order) -> Examples:
        """Those of the tasks that an order names, as a client has them that has no others, in the order's units.

        Raises:
            WireError: a scale is not one of their numbers.
        """
        units, scales = dict(order.units), dict(order.scales)
        whole, compact = (
            tuple(
                replace(item, units=units.get(item.task.name, OWN_UNITS)).scaled(scales.get(item.task.name))
                for item in sets
                if not order.tasks or item.task.name in order.tasks
            )
            for sets in (self.whole, self.compact)
        )
        return Examples(whole, compact, self.vocabulary)


def choose_rows(used: NDArray[np.integer], fixed: Iterable[int]) -> NDArray[np.int64] | None:
    """Old numbers of the rows of a compact table, int64 (kept,): all that are used or fixed, the fixed ones in place.

    None if a fixed row lies beyond the end of such a table.
    """
    fixed_rows = np.unique(np.fromiter(fixed, np.int64))
    kept = np.union1d(used.astype(np.int64), fixed_rows)
    if len(fixed_rows) and fixed_rows[-1] >= len(kept):
        return None
    rows = np.empty(len(kept), dtype=np.int64)
    rows[fixed_rows] = fixed_rows
    rows[np.setdiff1d(np.arange(len(kept)), fixed_rows)] = np.setdiff1d(kept, fixed_rows)
    return rows


def compact_vocabulary(model: MultiTaskModel, sets: Sequence[TaskSet]) -> CompactVocabulary | None:
    """The compact table for a model and all that it will read, or None where it is not exact or does not pay."""
    embedding = _word_embedding(model)
    tokens = [examples.used_tokens() for item in sets for examples in (item.train, item.validation)]
    if embedding is None or not tokens or not all(tokens):
        return None
    used = np.unique(np.concatenate([np.unique(found.ids) for texts in tokens for found in texts]))
    paddings = {found.padding_id for texts in tokens for found in texts}
    fixed = _ids_with_meaning(model, embedding)
    if reads_causally(model.encoder.config):
        used = np.union1d(used, np.fromiter(paddings, np.int32))
    else:
        fixed |= paddings
    if used[-1] >= embedding.num_embeddings or max(fixed, default=0) >= embedding.num_embeddings:
        return None  # the model itself says what is wrong with such an id
    rows = choose_rows(used, fixed)
    if rows is None or len(rows) > LARGEST_SHARE * embedding.num_embeddings:
        return None
    return CompactVocabulary(embedding, rows)


def _word_embedding(model: MultiTaskModel) -> nn.Embedding | None:
    """The table that token ids index, if its rows can be left out: a plain one, not tied, without weight decay."""
    found = model.encoder.get_input_embeddings()
    if type(found) is not nn.Embedding or found.max_norm is not None:
        return None
    weight: Tensor = found.weight
    names = [name for name, value in model.named_parameters(remove_duplicate=False) if value is weight]
    return found if len(names) == 1 and not takes_decay(names[0], found.weight) else None


def _ids_with_meaning(model: MultiTaskModel, embedding: nn.Embedding) -> set[int]:
    """Ids that a model may compare its input with, above all padding (RoBERTa counts positions by it).

    A decoder compares none; only a table that never moves the row of its padding knows its place.
    """
    padding = set() if embedding.padding_idx is None else {embedding.padding_idx}
    if reads_causally(model.encoder.config):
        return padding
    named = {
        value
        for name, value in model.encoder.config.to_dict().items()
        if name.endswith("_token_id") and isinstance(value, int) and value >= 0
    }
    return named | padding | {model.encoder.config.pad_token_id or 0}
