"""Clients that speak the whole protocol and train nothing: no torch, no data, many in one process.

Run as a program: `python -m benchmarks.light_agents PORT COUNT TASKS`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import xxhash

from client.transport.grpc_port import GrpcCoordinator
from common.orders import (
    DENSE_FLOAT32,
    JoinRequest,
    Order,
    OrderKind,
    PollKind,
    ScopePayload,
    ScopeVersion,
    TaskResult,
    UpdateHeader,
)
from common.ports import PIECE_BYTES
from common.tasks import KNOWN_TASKS

DELTA = b"\x00\x00\x80\x33"
"""The float32 2^-24: every parameter moves a little, so that no round leaves the model as it was."""


class LightAgent:
    """One client: fetches every version it is offered and answers with a constant delta."""

    def __init__(self, port: GrpcCoordinator, client_id: str, tasks: Sequence[str]) -> None:
        self._port = port
        self._tasks = tuple(KNOWN_TASKS[task] for task in tasks)
        self._id = client_id
        self._held: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._digests: dict[int, str] = {}
        self._piece = DELTA * (PIECE_BYTES // len(DELTA))

    async def run(self) -> None:
        """Take part until the run is over."""
        examples = tuple((task.name, 100) for task in self._tasks)
        welcome = await self._port.join(JoinRequest(self._id, self._tasks, examples))
        session = welcome.session
        layouts = dict(welcome.schema_digests)
        pending = ""
        while True:
            reply = await self._port.poll(session, pending)
            if reply.kind in (PollKind.FINISHED, PollKind.FAILED):
                return
            if reply.order is None:
                continue
            order = reply.order
            for item in order.values:
                self._sizes[item.scope] = len(item.data)
                self._held |= {scope.scope: scope.version for scope in order.scopes if scope.scope == item.scope}
            for scope in order.scopes:
                if self._held.get(scope.scope) != scope.version:
                    await self._fetch(session, scope)
            header = self._header(order, layouts)
            await self._port.submit(session, header, lambda offset, size=header.nbytes: self._payload(size - offset))
            pending = order.order_id

    async def _fetch(self, session: object, scope: ScopeVersion) -> None:
        size = 0
        async for piece in self._port.fetch(session, scope, 0):  # type: ignore[arg-type]
            size += len(piece)
        self._sizes[scope.scope] = size
        self._held[scope.scope] = scope.version

    def _header(self, order: Order, layouts: dict[str, str]) -> UpdateHeader:
        results = tuple(TaskResult(task.name, 100, None, None) for task in self._tasks)
        header = UpdateHeader(order.order_id, DENSE_FLOAT32, (), "", results, 0.0)
        if order.kind is OrderKind.TRAIN:
            scopes = (ScopePayload(s.scope, s.version, layouts[s.scope], self._sizes[s.scope]) for s in order.scopes)
            header = replace(header, scopes=tuple(scopes))
        return replace(header, digest=self._digest(header.nbytes))

    def _digest(self, size: int) -> str:
        if size not in self._digests:
            digest = xxhash.xxh3_128()
            for start in range(0, size, PIECE_BYTES):
                digest.update(self._piece[: size - start])
            self._digests[size] = digest.hexdigest()
        return self._digests[size]

    async def _payload(self, size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, PIECE_BYTES):
            yield self._piece[: size - start]


async def run_agents(port: int, count: int, tasks: Sequence[str]) -> None:
    """Run `count` agents on one channel each; agent i holds task i modulo the number of tasks."""

    async def one(number: int) -> None:
        name = f"agent-{number:04d}"
        async with GrpcCoordinator("127.0.0.1", port, None, name) as coordinator:
            await LightAgent(coordinator, name, [tasks[number % len(tasks)]]).run()

    await asyncio.gather(*(one(number) for number in range(count)))


if __name__ == "__main__":
    asyncio.run(run_agents(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")))
