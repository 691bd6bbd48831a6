"""Clients made by hand around a coordinator in memory: no agents, no training, a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from common.bodies import DENSE_FLOAT32
from common.clock import Clock, ManualClock
from common.config import Config
from common.orders import JoinRequest, PollReply, ScopePayload, Session, TaskResult, UpdateHeader
from common.ports import Chunks, single
from server.runs.assembly import in_memory
from tests.federations import NOISE_KEY, array_config, make_model

NAMES = ("a", "b", "c")


def hands_config(*overrides: str) -> Config:
    """Three clients with both tasks, and rounds that are tried twice."""
    return array_config("federation.min_clients=3", "federation.round_attempts=2", *overrides)


class Hands:
    """Plays the clients of one coordinator. `chunks` may say how an update's bytes arrive."""

    def __init__(self, *overrides: str, clock: Clock | None = None) -> None:
        self.config = hands_config(*overrides)
        self.clock = ManualClock()
        self.coordinator = in_memory(self.config, make_model(self.config), clock or self.clock, key=NOISE_KEY)
        self.sessions: dict[str, Session] = {}
        self._rows: dict[str, int] = {}

    async def join(self, names: Sequence[str] = NAMES, rows: int = 40) -> None:
        """Start, and let clients join who say that they have so many rows of each task."""
        if not self.sessions:
            await self.coordinator.start()
        for name in names:
            self._rows[name] = rows
            counts = tuple((task, rows) for task in self.config.tasks)
            request = JoinRequest(name, self.coordinator.settings.tasks, counts, validation=counts)
            self.sessions[name] = (await self.coordinator.join(request)).session

    async def poll(self, name: str, pending: str = "") -> PollReply:
        """Ask for work."""
        return await self.coordinator.poll(self.sessions[name], pending)

    async def submit(
        self, name: str, value: float, chunks: Callable[[bytes], Chunks] | None = None, examples: int | None = None
    ) -> str:
        """Answer the client's order with an update whose elements are all `value`; the order's id."""
        order = (await self.poll(name)).order
        assert order is not None
        schemas = self.coordinator.settings.schemas
        scopes = tuple(ScopePayload(s.scope, s.version, *schemas[s.scope]) for s in order.scopes)
        payload = np.full(sum(s.nbytes for s in scopes) // 4, value, dtype=np.float32).tobytes()
        counts = self._rows[name] if examples is None else examples
        results = tuple(TaskResult(task, counts, 0.5, None) for task in order.tasks)
        digest = xxhash.xxh3_128_hexdigest(payload)
        header = UpdateHeader(order.order_id, DENSE_FLOAT32, scopes, digest, results, 1.0)
        given = chunks(payload) if chunks is not None else lambda _: single(payload)
        await self.coordinator.submit(self.sessions[name], header, given)
        return order.order_id

    async def round(self, values: Mapping[str, float]) -> None:
        """Let clients answer one after the other."""
        for name, value in values.items():
            await self.submit(name, value)
        await self.coordinator.tick()  # after everything that is still being carried out

    def values(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the published vectors and of the server optimizer's moments."""
        moments = self.coordinator.writer.handler._aggregator.moments
        return {name: vector.copy() for name, vector in {**self.coordinator.vectors, **moments}.items()}


def in_chunks(payload: bytes, count: int, before_each: Callable[[], object]) -> Chunks:
    """A payload in `count` chunks, with something that happens before each."""
    size = -(-len(payload) // count)

    async def chunks(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(payload), size):
            found = before_each()
            if hasattr(found, "__await__"):
                await found
            yield payload[start : start + size]

    return chunks
