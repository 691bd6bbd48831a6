"""How a simulation deals a task's examples out among its clients; `client.data` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from common.methods.choice import Bounds, Row, table


class LabelPartition(Row):
    """Base of the rows."""


@dataclass(frozen=True)
class IidPartition(LabelPartition):
    """Equal parts, at random."""

    name = "iid"


@dataclass(frozen=True)
class DirichletPartition(LabelPartition):
    """Labels are mixed differently for each client, by a Dirichlet distribution (Hsu, Qi and Brown 2019)."""

    name = "dirichlet"
    alpha: Annotated[float, Bounds(least=0.01, most=1000)] = 0.5
    """the smaller, the more the clients differ"""


PARTITIONS: dict[str, type[LabelPartition]] = table(IidPartition, DirichletPartition)
