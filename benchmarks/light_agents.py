"""Clients that speak the whole protocol and train nothing: no torch, no data, many in one process.

Every agent has a connection of its own, as clients on different machines have.

Run as a program: `python -m benchmarks.light_agents PORT COUNT TASKS [FIRST]`; agents are numbered from FIRST on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import grpc
import xxhash

from client.transport.channel import Connection
from client.transport.grpc_port import GrpcCoordinator
from client.transport.target import Target
from common.bodies import DENSE_FLOAT32, ScopeVersion, Train
from common.orders import (
    Answer,
    JoinRequest,
    Order,
    PollKind,
    Reply,
    ScopePayload,
    Session,
    TaskResult,
    Update,
    UpdateHeader,
)
from common.ports import CHUNK_BYTES, INLINE_BYTES
from common.targets import TargetSums
from common.tasks import KNOWN_TASKS

HOST = "127.0.0.1"
DELTA = b"\x00\x00\x80\x33"
"""The float32 2^-24: every parameter moves a little, so that no round leaves the model as it was."""


class LightAgent:
    """One client: fetches every version it is offered and answers with a constant delta."""

    def __init__(
        self, port: GrpcCoordinator, client_id: str, tasks: Sequence[str], on_joined: Callable[[], None]
    ) -> None:
        self._port = port
        self._on_joined = on_joined
        self._tasks = tuple(KNOWN_TASKS[task] for task in tasks)
        self._id = client_id
        self._held: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._digests: dict[int, str] = {}
        self._chunk = DELTA * (CHUNK_BYTES // len(DELTA))

    async def run(self) -> None:
        """Take part until the run is over."""
        examples = tuple((task.name, 100) for task in self._tasks)
        regressions = (task.name for task in self._tasks if task.type.has_units)
        targets = tuple((name, TargetSums(2.5, 225.0)) for name in regressions)
        request = JoinRequest(self._id, self._tasks, examples, validation=examples, targets=targets)
        welcome = await self._port.join(request)
        self._on_joined()
        session = welcome.session
        layouts = dict(welcome.schema_digests)
        pending, answer = "", cast(Answer | None, None)
        while True:
            reply = await self._port.poll(session, pending, answer)
            answer = None
            if reply.kind in (PollKind.FINISHED, PollKind.FAILED):
                return
            if reply.order is None:
                continue
            order = reply.order
            for item in order.inline:
                self._sizes[item.scope] = len(item.data)
                self._held |= {scope.scope: scope.version for scope in order.scopes if scope.scope == item.scope}
            for scope in order.scopes:
                if self._held.get(scope.scope) != scope.version:
                    await self._fetch(session, scope)
            pending = order.order_id
            if not isinstance(order.body, Train):
                answer = Reply(order.order_id, self._results(0), 0.0)
                continue
            header = self._header(order, layouts)
            if header.nbytes <= INLINE_BYTES:
                answer = Update(header, self._chunk[: header.nbytes])
            else:
                await self._port.submit(session, header, partial(self._payload, header.nbytes))

    async def _fetch(self, session: Session, scope: ScopeVersion) -> None:
        size = 0
        async for chunk in self._port.fetch(session, scope, 0):
            size += len(chunk)
        self._sizes[scope.scope] = size
        self._held[scope.scope] = scope.version

    def _header(self, order: Order, layouts: dict[str, str]) -> UpdateHeader:
        scopes = (ScopePayload(s.scope, s.version, layouts[s.scope], self._sizes[s.scope]) for s in order.scopes)
        header = UpdateHeader(order.order_id, DENSE_FLOAT32, tuple(scopes), "", self._results(100), 0.0)
        return replace(header, digest=self._digest(header.nbytes))

    def _results(self, examples: int) -> tuple[TaskResult, ...]:
        return tuple(TaskResult(task.name, examples, None, None) for task in self._tasks)

    def _digest(self, size: int) -> str:
        if size not in self._digests:
            digest = xxhash.xxh3_128()
            for start in range(0, size, CHUNK_BYTES):
                digest.update(self._chunk[: size - start])
            self._digests[size] = digest.hexdigest()
        return self._digests[size]

    async def _payload(self, size: int, offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, size, CHUNK_BYTES):
            yield self._chunk[: size - start]


class LoneConnection(Connection):
    """gRPC lets equal channels of one process share a connection, which real clients never do."""

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self._target.address, options=(("grpc.use_local_subchannel_pool", 1),))


class LightCoordinator(GrpcCoordinator):
    """The product's own side of the wire; only its connection is not shared with the other agents of this process."""

    def __init__(self, port: int, client_id: str) -> None:
        super().__init__(HOST, port, None, client_id)
        self._link = LoneConnection(Target(HOST, port), None)  # the other one has not connected


async def run_agents(port: int, count: int, tasks: Sequence[str], first: int) -> None:
    """Run `count` agents; agent i holds task i modulo the number of tasks. Says so when all have joined."""
    joined = 0

    def count_one() -> None:
        nonlocal joined
        joined += 1
        if joined == count:
            print(f"all {count} agents joined", file=sys.stderr, flush=True)

    async def one(number: int) -> None:
        name = f"agent-{number:05d}"
        async with LightCoordinator(port, name) as coordinator:
            await LightAgent(coordinator, name, [tasks[number % len(tasks)]], count_one).run()

    await asyncio.gather(*(one(first + number) for number in range(count)))


if __name__ == "__main__":
    words = [*sys.argv[1:], "0"]
    asyncio.run(run_agents(int(words[0]), int(words[1]), words[2].split(","), int(words[3])))
