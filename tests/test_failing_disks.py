"""Disks that are full, files that run out, folders that vanish: one line, the right exit code, clients that wait."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from client.transport.grpc_port import GrpcCoordinator
from common.clock import ManualClock
from common.config import Config, render, vary
from common.errors import RunFolderError
from server.core.phases import Phase
from server.reporting.progress import RunProgress
from server.runs.assembly import in_memory
from server.storage.files import write_whole
from server.storage.journal import Journal
from simulation.app import simulate
from simulation.inprocess import run_together
from tests.crashes import Cast, Gate, model_made_here, prepare_run
from tests.federations import Clients, array_config, digest_of, federate, make_model
from tests.processes import Program, Programs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_tokenizer")]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.transport.retries.LONGEST_PAUSE_SECONDS", 0.5)


TWO: Clients = (("a", ("a0",), "1/2"), ("d", ("b1",), "2/2"))


@pytest.fixture
def config() -> Config:
    return array_config("federation.min_clients=2")


def limit(program: Program, what: int, most: int) -> None:
    """Give a running process another limit."""
    resource.prlimit(program._process.pid, what, (most, resource.prlimit(program._process.pid, what)[1]))


Trouble = Callable[[Program, Path], Awaitable[None]]


async def trouble_in_round_1(
    config: Config, place: Path, cause: Trouble, then: Callable[[Program, Gate], Awaitable[Program | None]]
) -> Program:
    """A federation whose coordinator meets trouble before the last update of round 1 comes; the first coordinator."""
    path, cast = place / "config.yaml", Cast(config, TWO)
    path.write_text(render(config))
    await asyncio.to_thread(prepare_run, config, place / "run")  # a coordinator that goes on needs no torch
    async with AsyncExitStack() as stack:
        programs = stack.enter_context(Programs(place))
        serve = ["--mode", "server", "--config", str(path), "--run_dir", "run", "--resume", "--port"]
        server = programs.start(*serve, "0")
        number = await asyncio.to_thread(server.port)
        ports = [await stack.enter_async_context(GrpcCoordinator("127.0.0.1", number, None, name)) for name in "ad"]
        gate = Gate(ports[1], "d")
        agents = asyncio.gather(
            *(cast.agent(n, port, place / "near").run() for n, port in (("a", ports[0]), ("d", gate)))
        )
        await gate.reached("train-1.1")
        await cause(server, place / "run")
        gate.let_through("train-1.1")
        again = await then(server, gate)
        if again is None and server._process.poll() is not None:
            if (place / "run").exists():
                again = programs.start(*serve, str(number))
            else:
                assert not agents.done(), "a client gave up"
                agents.cancel()
                await asyncio.wait((agents,))
                return server
        for name in ("train-2.1", "evaluate-2.1"):
            gate.let_through(name)
        await agents
        last = again or server
        assert await asyncio.to_thread(last.exit_code) == 0, last.output
        return server


async def ends_with_5(server: Program, _: Gate) -> None:
    assert await asyncio.to_thread(server.exit_code) == 5, server.output


def last_line(server: Program) -> str:
    errors = [line for line in server.output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in server.output and "internal error" not in server.output, server.output
    assert len(errors) == 1 and server.output.splitlines()[-1] == errors[0], server.output
    return errors[0]


def test_a_full_disk_stops_the_coordinator_and_resume_comes_to_the_same_bits(config: Config, tmp_path: Path) -> None:
    async def full(server: Program, run: Path) -> None:
        limit(server, resource.RLIMIT_FSIZE, 4096)

    server = asyncio.run(asyncio.wait_for(trouble_in_round_1(config, tmp_path, full, ends_with_5), 110))
    assert "cannot be written" in last_line(server) and "--resume" in last_line(server)
    journal = Journal.read(tmp_path / "run" / "journal.sqlite")
    assert journal.completed() == 2
    journal.close()
    whole = digest_of(asyncio.run(federate(config, tmp_path / "reference", TWO)))
    assert whole in (tmp_path / "run" / "report.json").read_text()


def test_a_deleted_run_folder_is_noticed_and_clients_wait(config: Config, tmp_path: Path) -> None:
    async def deleted(server: Program, run: Path) -> None:
        shutil.rmtree(run)

    server = asyncio.run(asyncio.wait_for(trouble_in_round_1(config, tmp_path, deleted, ends_with_5), 110))
    assert "its folder is gone" in last_line(server)
    assert not (tmp_path / "run").exists() and "finished" not in server.output


def test_too_many_open_files_are_tried_again(config: Config, tmp_path: Path) -> None:
    async def used_up(server: Program, run: Path) -> None:
        limit(server, resource.RLIMIT_NOFILE, len(os.listdir(f"/proc/{server._process.pid}/fd")))  # noqa: PTH208

    async def raised(server: Program, _: Gate) -> None:
        await asyncio.to_thread(server.wait_for, "too many open files")
        limit(server, resource.RLIMIT_NOFILE, 1000)

    large = vary(config, {"aggregation.optimizer": "adam"})
    server = asyncio.run(asyncio.wait_for(trouble_in_round_1(large, tmp_path, used_up, raised), 110))
    assert "finished after 2 rounds" in server.output


def test_out_of_files_is_said_once_and_ends_when_files_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.storage.files.FILES_PAUSE_SECONDS", 0.001)
    held: list[Any] = []

    class Freeing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            while held:
                os.close(held.pop())

    handler, before = Freeing(), resource.getrlimit(resource.RLIMIT_NOFILE)
    logging.getLogger("fedmtl.server").addHandler(handler)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with pytest.raises(OSError, match="Too many"):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        write_whole(tmp_path / "file", [b"whole"])
    finally:
        while held:
            os.close(held.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        logging.getLogger("fedmtl.server").removeHandler(handler)
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert caplog.text.count("too many open files") == 1


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "free space, then go on with --resume"),
        (errno.EROFS, "make the folder writable, then"),
        (errno.EDQUOT, "free space"),
    ],
)
def test_every_refusal_of_the_disk_has_its_remedy(tmp_path: Path, code: int, says: str) -> None:
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise OSError(code, os.strerror(code))

    with pytest.raises(RunFolderError, match=says) as caught:
        write_whole(tmp_path / "file", parts())
    assert "\n" not in str(caught.value) and not (tmp_path / "file").exists()


def test_metrics_that_cannot_be_written_stop_no_round_and_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = array_config("federation.min_clients=2")
    (tmp_path / "metrics.jsonl").mkdir()
    progress = RunProgress(config.definitions(), 2, tmp_path / "metrics.jsonl", None)
    coordinator, cast = (
        in_memory(config, make_model(config), ManualClock(), observer=progress),
        Cast(config, TWO),
    )
    agents = [cast.agent(name, coordinator, tmp_path / "state") for name in cast.names]
    asyncio.run(asyncio.wait_for(run_together(coordinator, agents), 25))  # polls that nobody wakes take 30 s each
    assert coordinator.state.phase is Phase.FINISHED
    assert caplog.text.count("cannot be shown") == 3 and "metrics.jsonl" in caplog.text


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    config = array_config("simulation.clients=2", f"run.run_dir='{tmp_path / 'run'}'")
    with model_made_here():
        asyncio.run(simulate(config, False, None))
    (tmp_path / "run" / "report.json").unlink()
    (tmp_path / "run" / "report.json").mkdir()
    with pytest.raises(RunFolderError, match=r"report\.json cannot be written") as caught:
        asyncio.run(simulate(config, True, None))
    assert "\n" not in str(caught.value)
