"""Who takes part in a simulation: the section `simulation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.choices import Chosen
from common.config.values import ClientId, Count, Location, Section, Share
from common.methods.partitions import PARTITIONS, IidPartition, LabelPartition


class SimulationSection(Section):
    """Who takes part in `--mode simulate`, how rows are dealt out, and what goes wrong how often.

    With `sites` clients have rows of their own; else they are dealt out. `dropouts` and `stragglers` are shares of all
    orders to train.
    """

    sites: dict[ClientId, Location] = Field(default={})
    """instead of clients: names, each with the folder of its own rows, of any tasks: {north: DIR, south: DIR}"""
    clients: Count = 100
    """virtual clients, client-1 and so on"""
    tasks_per_client: Count = 1
    """tasks of each, given out in turns; 1: every client has one task"""
    partition: Annotated[LabelPartition, Chosen(PARTITIONS)] = IidPartition()
    """of a task's rows among its clients"""
    dropouts: Share = 0.0
    """share of orders to train that fail, 0 to below 1"""
    stragglers: Share = 0.0
    """share of orders to train that miss the deadline of their round"""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """models; each trains one client at a time"""
    executor: Literal["thread", "ray"] = "thread"
    """where models compute: thread, or ray (a process each; needs the extra `ray`)"""

    @property
    def client_count(self) -> int:
        """How many virtual clients there are."""
        return len(self.sites) or self.clients
