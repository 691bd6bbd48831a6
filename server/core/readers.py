"""Which tasks read which parameters: a task that does not read one says nothing about where it should be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from common.parameters.schema import ParameterSchema

Unread = Mapping[str, Collection[str]]
"""Task -> the parameters that its outputs do not depend on."""


@dataclass(frozen=True)
class Stretch:
    """Parameters in a row that the same tasks read, by their places in the scope's vector."""

    start: int
    stop: int
    tasks: frozenset[str]


@dataclass(frozen=True)
class StretchTotal:
    """The weight sum of a stretch in a round, over the updates of clients with a task that reads it."""

    stretch: Stretch
    total: int


def stretches_of(schema: ParameterSchema, tasks: Sequence[str], unread: Unread) -> tuple[Stretch, ...]:
    """The stretches of a scope, from the first parameter to the last; what nobody reads counts as read by all."""
    found: list[Stretch] = []
    for entry in schema.entries:
        readers = frozenset(task for task in tasks if entry.name not in unread.get(task, ())) or frozenset(tasks)
        stop = entry.offset + entry.count
        if found and found[-1].tasks == readers:
            found[-1] = replace(found[-1], stop=stop)
        else:
            found.append(Stretch(entry.offset, stop, readers))
    return tuple(found)
