"""Real gRPC on loopback: service and transport against a coordinator that lives in memory."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.errors import ConfigError, FedMTLError, Reason, Refused, UnreachableError, WireError
from common.orders import FederationStatus, PollKind, PollReply, Progress, Receipt, UpdateState, UploadStatus
from common.ports import CoordinatorPort
from common.wire import methods
from common.wire.chunks import UPLOAD_PART
from server.service.grpc_server import start_server
from simulation.codec import CodecCoordinator
from tests.grpc_cases import (
    HEADER,
    HOST,
    JOIN,
    MODEL,
    NOBODY,
    ORDER,
    PAYLOAD,
    SHARED,
    TOKENIZER,
    Heard,
    Memory,
    Relay,
    client,
    collect,
    connected,
    cut,
    free_port,
    run,
    served,
)


@pytest.mark.parametrize("path", ["direct", "codec", "grpc"])
def test_all_calls_give_the_same_over_every_path(path: str) -> None:
    async def conversation(memory: Memory, coordinator: CoordinatorPort) -> None:
        memory.work.set()
        welcome = await coordinator.join(JOIN)
        session = welcome.session
        assert welcome == replace(await Memory().join(JOIN), session=session)
        assert await coordinator.poll(session, "") == PollReply(
            PollKind.ORDER, UpdateState.NONE, "quorum: 1 of 2", ORDER
        )
        assert await collect(coordinator.fetch(session, SHARED, 0)) == MODEL
        assert await collect(coordinator.fetch(session, SHARED, 70_001)) == MODEL[70_001:]
        assert await collect(coordinator.fetch_tokenizer(session, 0)) == TOKENIZER
        assert await coordinator.heartbeat(session, Progress("order-1", "training", 0.25)) is False
        assert await coordinator.heartbeat(session, Progress("order-1", "training", 0.75)) is True
        for _ in range(2):
            receipt = await coordinator.submit(session, HEADER, lambda at: cut(PAYLOAD, at))
            assert receipt == Receipt("order-1", HEADER.digest)
        assert memory.staged == PAYLOAD
        status = await coordinator.upload_status(session, "order-1")
        assert status == UploadStatus(UpdateState.OPEN, len(PAYLOAD))
        await coordinator.report_failure(session, "order-1", "out of memory")
        assert memory.heard[-1] == ("order-1", "out of memory")
        assert await coordinator.status() == await memory.status()
        assert await coordinator.describe() == await memory.describe()
        await coordinator.withdraw("clinic-a")
        assert memory.heard[-1] == ("clinic-a", "withdrew")
        await coordinator.leave(session)
        with pytest.raises(Refused, match="another process took over"):
            await coordinator.poll(session, "")

    async def test() -> None:
        memory = Memory()
        if path == "grpc":
            async with connected(memory) as coordinator:
                await conversation(memory, coordinator)
        else:
            await conversation(memory, memory if path == "direct" else CodecCoordinator(memory))

    run(test())


def test_every_refusal_arrives_with_its_reason() -> None:
    async def test() -> None:
        memory = Memory()
        async with connected(memory) as coordinator:
            for reason in Reason:
                memory.breaks = Refused(reason, f"zu spät: {reason}")
                with pytest.raises(Refused) as caught:
                    await coordinator.join(JOIN)
                assert (caught.value.reason, caught.value.message) == (reason, f"zu spät: {reason}")
            with pytest.raises(Refused, match="zu spät"):
                await collect(coordinator.fetch(NOBODY, SHARED, 0))

    run(test())


def test_an_update_that_is_refused_or_known_is_not_sent() -> None:
    async def test() -> None:
        asked: list[int] = []

        def chunks(offset: int) -> AsyncIterator[bytes]:
            asked.append(offset)
            return cut(PAYLOAD, offset)

        async with connected(Memory()) as coordinator:
            with pytest.raises(Refused) as caught:
                await coordinator.submit(NOBODY, HEADER, chunks)
            assert caught.value.reason is Reason.SUPERSEDED and asked == []
            session = (await coordinator.join(JOIN)).session
            assert await coordinator.submit(session, HEADER, chunks) == await coordinator.submit(
                session, HEADER, chunks
            )
            with pytest.raises(Refused) as caught:
                await coordinator.submit(session, replace(HEADER, digest="12" * 16), chunks)
            assert caught.value.reason is Reason.DIFFERENT_UPDATE and asked == [0]

    run(test())


def test_a_defect_tells_the_log_and_not_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        memory = Memory(breaks=ValueError("patient 17"))
        async with connected(memory) as coordinator:
            with pytest.raises(FedMTLError, match="internal error; its log says more") as caught:
                await coordinator.join(JOIN)
            assert type(caught.value) is FedMTLError and "patient" not in caught.value.message
        async with connected(Unsendable(poll_seconds=-1.0)) as coordinator:
            with pytest.raises(FedMTLError, match="internal error"):
                await coordinator.status()
            with pytest.raises(WireError, match=r"Welcome.poll_seconds: -1.0"):
                await coordinator.join(JOIN)

    class Unsendable(Memory):
        async def status(self, after: str = "") -> FederationStatus:
            return FederationStatus("Probe", "run-1", "open", -1, 5, "")

    with caplog.at_level(logging.ERROR, "server.service.handlers"):
        run(test())
    assert "ValueError: patient 17" in caplog.text and "FederationStatus: cannot be sent" in caplog.text


def test_malformed_bytes_are_answered_and_nothing_breaks() -> None:
    async def status_of(channel: grpc.aio.Channel, method: methods.Method[Any, Any], data: bytes) -> tuple[Any, str]:
        try:
            if method.kind is methods.Kind.UNARY_UNARY:
                await channel.unary_unary(method.path)(data)
            elif method.kind is methods.Kind.UNARY_STREAM:
                await collect(channel.unary_stream(method.path)(data).__aiter__())
            else:
                await channel.stream_unary(method.path)(iter([data]))
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return None, ""

    async def test() -> None:
        async with served(Memory()) as server, grpc.aio.insecure_channel(f"{HOST}:{server.port_number}") as channel:
            for method in methods.METHODS:
                code, details = await status_of(channel, method, b"\xff\xff\xff")
                assert code is grpc.StatusCode.INVALID_ARGUMENT and details.startswith(method.request.name)
            code, details = await status_of(channel, methods.SUBMIT_UPDATE, UPLOAD_PART.encode(b"data"))
            assert code is grpc.StatusCode.INVALID_ARGUMENT and "not a header" in details
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/fedmtl.v1.Federation/Dance")(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            code, _ = await status_of(channel, methods.STATUS, b"")
            assert code is None
        async with connected(Memory()) as coordinator:
            with pytest.raises(WireError, match="client_id"):
                await coordinator.join(replace(JOIN, client_id="a b"))

    run(test())


def test_downloads_go_on_where_the_connection_broke() -> None:
    async def test() -> None:
        memory = Memory()
        async with served(memory) as server:
            relay = Relay(server.port_number, 1_000_000, 1_200_000, 300_000)
            async with relay as number, client(number) as coordinator:
                session = (await coordinator.join(JOIN)).session
                assert await collect(coordinator.fetch(session, SHARED, 0)) == MODEL
                offsets = list(memory.fetched_from)
                assert offsets[0] == 0 and offsets == sorted(offsets) and offsets[-1] > 0
                assert await collect(coordinator.fetch_tokenizer(session, 0)) == TOKENIZER
                assert relay.connections == 4

    run(test())


def test_uploads_go_on_where_the_connection_broke() -> None:
    async def test() -> None:
        memory = Memory()
        asked: list[int] = []

        def chunks(offset: int) -> AsyncIterator[bytes]:
            asked.append(offset)
            return cut(PAYLOAD, offset)

        async with served(memory) as server:
            relay = Relay(server.port_number, 1_000_000, 1_200_000)
            async with relay as number, client(number) as coordinator:
                session = (await coordinator.join(JOIN)).session
                assert await coordinator.submit(session, HEADER, chunks) == Receipt("order-1", HEADER.digest)
        assert memory.staged == PAYLOAD
        assert asked[0] == 0 and asked == sorted(asked) and asked[-1] > 0 and relay.connections == 3

    run(test())


def test_a_resumed_upload_that_does_not_fit_starts_over() -> None:
    async def test() -> None:
        memory = Memory()
        asked: list[int] = []

        def chunks(offset: int) -> AsyncIterator[bytes]:
            asked.append(offset)
            return cut(PAYLOAD, offset)

        async with connected(memory) as coordinator:
            session = (await coordinator.join(JOIN)).session
            memory.staged += b"wrong"
            await coordinator.submit(session, replace(HEADER, offset=5), chunks)
            assert asked == [5, 0] and memory.staged == PAYLOAD

    run(test())


def test_a_coordinator_that_starts_later_or_starts_again_is_waited_for() -> None:
    async def test() -> None:
        memory, number, heard = Memory(), free_port(), Heard()
        logger = logging.getLogger("client.transport.retries")
        logger.addHandler(heard)
        try:
            async with client(number) as coordinator:
                joining = asyncio.create_task(coordinator.join(JOIN))
                await heard.event.wait()
                async with served(memory, number):
                    session = (await joining).session
                    polling = asyncio.create_task(coordinator.poll(session, "order-1"))
                    await memory.parked.wait()
                    heard.event.clear()
                await heard.event.wait()
                memory.work.set()
                async with served(memory, number):
                    assert (await polling).update_state is UpdateState.OPEN
        finally:
            logger.removeHandler(heard)

    run(test())


def test_too_many_open_files_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        heard, logger = Heard(), logging.getLogger("client.transport.retries")
        logger.addHandler(heard)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with served(Memory()) as server, client(server.port_number) as coordinator:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) - 1, limits[1]))
                joining = asyncio.create_task(coordinator.join(JOIN))
                await heard.event.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                logger.removeHandler(heard)
            assert (await joining).run_name == "Probe"

    run(test())
    assert "Traceback" not in caplog.text


def test_patience_ends_with_a_reason_and_a_remedy() -> None:
    async def test() -> None:
        number = free_port()
        said = f"coordinator at {HOST}:{number} not reachable for 0.3 s: nothing listens there; check that"
        async with client(number, 0.3) as coordinator:
            with pytest.raises(UnreachableError, match=said):
                await coordinator.join(JOIN)
            with pytest.raises(UnreachableError, match=said):
                await collect(coordinator.fetch(NOBODY, SHARED, 0))
            with pytest.raises(UnreachableError, match=said):
                await coordinator.submit(NOBODY, HEADER, lambda at: cut(PAYLOAD, at))

    run(test())


def test_cancellation_works_at_once_on_both_sides() -> None:
    async def test() -> None:
        memory, heard = Memory(), Heard()
        async with connected(memory) as coordinator:
            session = (await coordinator.join(JOIN)).session
            polling = asyncio.create_task(coordinator.poll(session, ""))
            await memory.parked.wait()
            polling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await polling
            await memory.cancelled.wait()
        logger = logging.getLogger("client.transport.retries")
        logger.addHandler(heard)
        async with client(free_port()) as coordinator:
            joining = asyncio.create_task(coordinator.join(JOIN))
            await heard.event.wait()
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
        logger.removeHandler(heard)

    run(test())


def test_a_taken_port_is_told_in_one_line() -> None:
    async def test() -> None:
        async with served(Memory()) as server:
            with pytest.raises(ConfigError, match=rf"cannot listen on {HOST}:{server.port_number}: .*choose another"):
                await start_server(Memory(), HOST, server.port_number, None)

    run(test())
