"""What a client brings to a federation: how it introduces itself, its data, and how it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from client.data.examples import TaskData
from client.data.summary import hidden_sums, sums_of
from client.jobs.precision import Precision
from client.jobs.solve import ALL_WORK, WorkShare
from client.limits import Limits
from client.training.work import Procedure
from common.capabilities import WHOLE, Capabilities, Capacity
from common.orders import JoinRequest
from common.parameters.encodings import ENCODINGS
from common.targets import TargetSums
from common.tasks import TaskDefinition


@dataclass(frozen=True)
class Computing:
    """How a client trains, and how much of the model, as far as its configuration says."""

    compact_vocabulary: bool = True
    precision: Precision = "float32"
    capacity: Capacity = WHOLE
    limits: Limits = field(default_factory=Limits)
    work: WorkShare = ALL_WORK
    hides_rows: bool = False
    """Whether single rows are hidden, so that exact sums over targets stay here."""
    members: Path | None = None
    """`secure_aggregation.members`: ids and public keys of all clients, where identities are pinned."""

    @property
    def enters_sums(self) -> bool:
        """Whether nothing but sums leaves, so that numbers of rows stay here: `limits.sums` asks for it."""
        return self.limits.sums is not None


@dataclass(frozen=True)
class LocalClient:
    """A client before it takes part."""

    request: JoinRequest
    data: Mapping[str, TaskData]
    device: torch.device
    computing: Computing
    procedure: Procedure | None = None
    """Takes the place of the one that orders name."""
    config: str = ""
    """The configuration in effect, YAML. With one, what predictions and exports need stays on the disk."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(task.name for task in self.request.tasks)

    @property
    def capacity(self) -> Capacity:
        """How much of the model it holds and trains."""
        return self.request.capabilities.capacity


def local_client(
    client_id: str,
    tasks: Sequence[TaskDefinition],
    data: Mapping[str, TaskData],
    device: torch.device,
    source: str = "",
    procedure: Procedure | None = None,
    computing: Computing | None = None,
    config: str = "",
) -> LocalClient:
    """A client with these tasks and their data, which come from a `source` of this kind."""
    computing = computing or Computing()
    names = sorted(task.name for task in tasks)
    told = {name: (len(data[name].train), len(data[name].validation)) for name in names}
    if computing.enters_sums:  # whether there are rows decides who takes part; how many there are does not
        told = {name: (min(rows, 1), min(scored, 1)) for name, (rows, scored) in told.items()}
    sums = {task.name: _sums(task, data[task.name], told[task.name][0], computing) for task in tasks if task.tells_sums}
    lacks = frozenset[str].intersection(*(data[name].lacks for name in names)) if names else frozenset[str]()
    capacity = replace(computing.capacity, lacks=tuple(sorted(lacks)))
    request = JoinRequest(
        client_id,
        tuple(tasks),
        tuple((name, told[name][0]) for name in names),
        Capabilities(tuple(ENCODINGS), source, capacity),
        tuple((name, header) for name in names for header in data[name].headers),
        tuple((name, told[name][1]) for name in names),
        tuple(sorted(sums.items(), key=lambda item: item[0])),
        tuple(
            (name, inputs) for name in names if not computing.enters_sums and (inputs := data[name].inputs) is not None
        ),
    )
    return LocalClient(request, data, device, computing, procedure, config)


def _sums(task: TaskDefinition, data: TaskData, rows: int, computing: Computing) -> TargetSums:
    """What a client says of its training targets."""
    if computing.enters_sums or computing.hides_rows:
        return hidden_sums(task, rows, "secure_aggregation" if computing.enters_sums else "privacy.noise: rows")
    return sums_of(task, data.train)
