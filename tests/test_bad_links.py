"""Links that break again and again before a whole chunk is through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.agent import Agent
from client.transport.chunk_size import GROWS_AFTER, ChunkSize
from common.clock import ManualClock
from common.errors import UnreachableError
from common.orders import Receipt
from common.ports import CHUNK_BYTES, LEAST_CHUNK_BYTES
from server.runs.assembly import in_memory
from tests.federations import digest_of, make_client, make_model, small_config
from tests.grpc_cases import (
    HEADER,
    JOIN,
    MODEL,
    PAYLOAD,
    SHARED,
    TOKENIZER,
    Memory,
    Relay,
    client,
    collect,
    cut,
    served,
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.transport.retries.FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("client.transport.retries.LONGEST_PAUSE_SECONDS", 0.01)


def whole(offset: int) -> AsyncIterator[bytes]:
    """The payload in chunks as an agent gives them."""
    return cut(PAYLOAD, offset, CHUNK_BYTES)


class Large(Memory):
    """A coordinator that gives the largest chunks."""

    async def fetch(self, session: object, scope: object, offset: int) -> AsyncIterator[bytes]:
        self.fetched_from.append(offset)
        async for chunk in cut(MODEL, offset, CHUNK_BYTES):
            yield chunk

    async def fetch_tokenizer(self, session: object, offset: int) -> AsyncIterator[bytes]:
        self.fetched_from.append(offset)
        async for chunk in cut(TOKENIZER, offset, CHUNK_BYTES):
            yield chunk


@pytest.mark.parametrize("nbytes", [60_000, 200_000, 700_000])
def test_what_is_larger_than_a_link_lets_through_at_a_time_arrives_all_the_same(nbytes: int) -> None:
    async def test() -> None:
        memory = Large()
        async with served(memory) as server:
            relay = Relay(server.port_number, *[nbytes] * 10_000)
            async with relay as number, client(number) as coordinator:
                session = (await coordinator.join(JOIN)).session
                assert await collect(coordinator.fetch(session, SHARED, 0)) == MODEL
                assert memory.fetched_from == sorted(memory.fetched_from)
                assert await collect(coordinator.fetch_tokenizer(session, 0)) == TOKENIZER
                assert await coordinator.submit(session, HEADER, whole) == Receipt("order-1", HEADER.digest)
            assert memory.staged == PAYLOAD
            moved = len(MODEL) + len(TOKENIZER) + len(PAYLOAD)
            assert moved / nbytes < relay.connections < 5 * moved / nbytes + 20

    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_federation_over_such_a_link_comes_to_the_same_model(tmp_path: Path) -> None:
    config = small_config(tmp_path, "federation.min_clients=1", "training.num_rounds=1", tasks=("sst2",))
    config = config.model_copy(update={"tasks": {"sst2": config.tasks["sst2"]}})
    model = make_model(config)

    async def federated(state: Path, nbytes: int) -> tuple[str, int]:
        coordinator = in_memory(config, model, ManualClock())
        await coordinator.start()
        async with served(coordinator) as server:
            relay = Relay(server.port_number, *[nbytes] * 10_000)
            async with relay as number, client(number) as port:
                await Agent(port, make_client(config, "clinic-a", ["sst2"], "1/1"), state).run()
        return digest_of(coordinator), relay.connections

    async def both() -> None:
        undisturbed, one = await federated(tmp_path / "good", 1 << 60)
        disturbed, many = await federated(tmp_path / "bad", 200_000)
        assert undisturbed == disturbed and one == 1 and many > 20

    asyncio.run(asyncio.wait_for(both(), 60))


def test_patience_ends_where_no_byte_stands_any_more() -> None:
    async def test() -> None:
        memory = Large()
        async with served(memory) as server:
            relay = Relay(server.port_number, *[200_000] * 4, *[9_000] * 100_000)
            async with relay as number, client(number, patience=0.5) as coordinator:
                session = (await coordinator.join(JOIN)).session
                with pytest.raises(UnreachableError, match=r"not reachable for 0.5 s: the connection was closed"):
                    await coordinator.submit(session, HEADER, whole)
        assert 0 < len(memory.staged) < len(PAYLOAD)

    asyncio.run(asyncio.wait_for(test(), 60))


def test_chunks_halve_after_a_break_and_grow_when_they_pass() -> None:
    size = ChunkSize()
    sizes = []
    for _ in range(8):
        sizes.append(size.nbytes)
        size.broke()
    assert sizes == [CHUNK_BYTES >> n for n in range(6)] + [LEAST_CHUNK_BYTES] * 2 == sizes
    for _ in range(GROWS_AFTER - 1):
        size.passed()
    size.broke()  # those before do not count any more
    for _ in range(GROWS_AFTER):
        size.passed()
    assert size.nbytes == 2 * LEAST_CHUNK_BYTES
    for _ in range(20 * GROWS_AFTER):
        size.passed()
    assert size.nbytes == CHUNK_BYTES
