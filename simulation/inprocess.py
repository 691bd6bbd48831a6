"""A whole federation in one process: the same core, coordinator and agents, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from client.agent import Agent
from server.engine.coordinator import Coordinator


async def run_together(coordinator: Coordinator, agents: Sequence[Agent]) -> None:
    """Run agents against a coordinator until all of them are told that the run is over.

    Agents must already point at the coordinator, directly or through a codec. Deadlines do not fire: nobody ticks.

    Raises:
        ExceptionGroup: what the agents raised.
    """
    await coordinator.start()
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(agent.run())
