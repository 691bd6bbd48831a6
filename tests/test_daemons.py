"""Servers and clients that come, leave, are told to stop and come back."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.modes import parse
from cli.options import configuration
from client.agent import Agent
from client.app import take_part
from client.status import as_lines, ask_status
from client.transport.grpc_port import GrpcCoordinator
from common.clock import ManualClock
from common.config import Config, render
from common.orders import ClientStatus
from federated_main import main
from server.core.phases import Phase
from server.runs.assembly import in_memory
from server.service.grpc_server import start_server
from tests.crashes import Cast, Gate, Watch
from tests.federations import make_client, make_model, small_config
from tests.grpc_cases import Heard, free_port
from tests.identity_cases import provisioned
from tests.processes import Programs, log_given_back

FEW = ("federation.min_clients=1", "training.num_rounds=1")


@pytest.fixture(autouse=True)
def quick_and_tidy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No long pauses between attempts; the log, which `main` takes over, is given back."""
    monkeypatch.setattr("client.transport.retries.LONGEST_PAUSE_SECONDS", 0.5)
    with log_given_back():
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_config(tmp_path_factory.mktemp("small"))


def written(config: Config, folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(render(config))
    return str(path)


@pytest.mark.slow
def test_sigterm_drains_the_server_and_resume_finishes(config: Config, tmp_path: Path) -> None:
    path, number = written(config, tmp_path), free_port()
    asyncio.run(asyncio.wait_for(_drain_and_resume(path, number, Cast(config), tmp_path), 100))


async def _drain_and_resume(path: str, number: int, cast: Cast, folder: Path) -> None:
    status = ["--mode", "status", "--config", path, "--server", f"127.0.0.1:{number}"]
    serve = ["--mode", "server", "--config", path, "--port", str(number), "--run_dir", "run"]
    ports = {name: GrpcCoordinator("127.0.0.1", number, None, name) for name in "abcd"}
    near, gate, heard = {name: Watch(ports[name]) for name in "abc"}, Gate(ports["d"], "d"), Heard()
    logging.getLogger("client.transport.retries").addHandler(heard)
    with Programs(folder) as programs:
        # The clients come first.
        agents = asyncio.gather(
            *(cast.agent(name, near.get(name, gate), folder / "state").run() for name in ports),
        )
        await heard.event.wait()
        logging.getLogger("client.transport.retries").removeHandler(heard)
        server = programs.start(*serve)
        await gate.reached("train-1.1")
        for port in near.values():
            await port.count("train-1.1", 1)
        lines = await _status(status)
        assert lines[1] == "waits for updates of d"
        assert re.fullmatch(r"run 'fedmtl' \(\w+\): training, round 1 of 2", lines[0])
        assert [line.split(";")[0].strip() for line in lines[2:]] == ["a: sst2", "b: sst2", "c: qqp", "d: qqp, sst2"]
        server.terminate()
        await asyncio.to_thread(server.wait_for, "stopping: no further round is opened")
        gate.let_through("train-1.1")
        assert await asyncio.to_thread(server.exit_code) == 0, server.output
        report = json.loads((folder / "run" / "report.json").read_text())
        assert (report["status"], report["rounds_completed"]) == ("interrupted", 1)
        for name in ("train-2.1", "evaluate-2.1"):
            gate.let_through(name)
        again = programs.start(*serve, "--resume")
        await agents
        assert await asyncio.to_thread(again.exit_code) == 0, again.output
    report = json.loads((folder / "run" / "report.json").read_text())
    assert (report["status"], report["rounds_completed"]) == ("finished", 2)
    assert {entry["rounds"] for entry in report["clients"].values()} == {3}
    for port in ports.values():
        await port.close()


async def _status(arguments: list[str]) -> list[str]:
    return as_lines(await ask_status(configuration(parse(arguments, "fedmtl"), "client")))


def test_a_client_that_comes_late_joins_the_next_round(tmp_path: Path) -> None:
    config = small_config(tmp_path, "federation.min_clients=2")
    coordinator, cast = in_memory(config, make_model(config), ManualClock()), Cast(config)

    async def play() -> None:
        await coordinator.start()
        gate = Gate(coordinator, "d")
        first = asyncio.gather(*(cast.agent(n, gate, tmp_path / "state").run() for n in ("a", "d")))
        await gate.reached("train-1.1")
        late = asyncio.ensure_future(cast.agent("b", Told(coordinator, waits := asyncio.Event()), tmp_path).run())
        await waits.wait()
        for name in ("train-1.1", "train-2.1", "evaluate-2.1"):
            gate.let_through(name)
        await asyncio.gather(first, late)

    asyncio.run(asyncio.wait_for(play(), 60))
    assert [sorted(o.client_id for o in r.orders.values()) for r in coordinator.journal.rounds()] == [
        ["a", "d"],
        ["a", "b", "d"],
        ["a", "b", "d"],
    ]


class Told:
    """A port that says when its client asks for work."""

    def __init__(self, port: Any, event: asyncio.Event) -> None:
        self._port = port
        self._event = event

    def __getattr__(self, name: str) -> object:
        if name == "poll":
            self._event.set()
        return getattr(self._port, name)


def test_two_nameless_clients_get_two_ids_and_keep_them(tmp_path: Path) -> None:
    state = tmp_path / "state"
    changes = [f"client.state_dir='{state}'", *FEW, "federation.min_clients=2", "data.partition=1/2"]
    config = small_config(tmp_path, *changes)

    async def play() -> set[str]:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        server = await start_server(coordinator, "127.0.0.1", 0, None)
        section = config.client.model_copy(update={"server": f"127.0.0.1:{server.port_number}"})
        mine = config.model_copy(update={"client": section})
        try:
            await asyncio.gather(take_part(mine, None, ["sst2"]), take_part(mine, None, ["sst2"]))
        finally:
            await server.stop(0)
        assert coordinator.state.phase is Phase.FINISHED
        return set(coordinator.state.clients)

    # No client for qqp: the federation is told to do without.
    rules = small_config(tmp_path, *changes, tasks=("sst2",))
    config = rules.model_copy(update={"tasks": {"sst2": rules.tasks["sst2"]}})
    first = asyncio.run(play())
    assert len(first) == 2 and all(re.fullmatch("sst2-auto-[0-9a-f]{8}", name) for name in first)
    assert {path.name for path in state.iterdir()} == first
    assert asyncio.run(play()) == first


@pytest.mark.slow
def test_sigterm_lets_a_client_leave_in_good_order(config: Config, tmp_path: Path) -> None:
    path = written(config, tmp_path)
    coordinator = in_memory(config, make_model(config), ManualClock())

    async def play() -> tuple[ClientStatus, ...]:
        await coordinator.start()
        server = await start_server(coordinator, "127.0.0.1", 0, None)
        try:
            with Programs(tmp_path) as programs:
                client = programs.start("--mode", "client", "--config", path, "--tasks", "sst2", "--client-id", "x",
                                        "--server", f"127.0.0.1:{server.port_number}")  # fmt: skip
                await asyncio.to_thread(client.wait_for, "joined run")
                before = (await coordinator.status()).clients
                client.terminate()
                assert await asyncio.to_thread(client.exit_code) == 0
                assert client.output.splitlines()[-1].endswith("left")
                return before
        finally:
            await server.stop(0)

    (before,) = asyncio.run(asyncio.wait_for(play(), 60))
    assert before.client_id == "x" and before.present
    member = coordinator.state.clients["x"]
    assert member.left and not member.present


def test_a_client_that_finds_no_coordinator_stops_at_once_when_told_to(config: Config, tmp_path: Path) -> None:
    async def play() -> None:
        heard, logger = Heard(), logging.getLogger("client.transport.retries")
        logger.addHandler(heard)
        try:
            async with GrpcCoordinator("127.0.0.1", free_port(), None, "a") as port:
                agent = Agent(port, make_client(config, "a", ["sst2"], "1/2"), tmp_path)
                running = asyncio.ensure_future(agent.run())
                await heard.event.wait()
                agent.stop()
                await asyncio.wait_for(running, 3)
        finally:
            logger.removeHandler(heard)

    asyncio.run(play())


@pytest.mark.slow
def test_tls_end_to_end_by_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tls = provisioned(tmp_path / "tls", "clinic-a")
    path = written(small_config(tmp_path, *FEW), tmp_path)

    def pair(name: str) -> list[str]:
        return ["--tls-cert", str(tls / f"{name}.pem"), "--tls-key", str(tls / f"{name}.key")]

    with Programs(tmp_path) as programs:
        server = programs.start(
            *("--mode", "server", "--config", path, "--host", "0.0.0.0", "--port", "0", "--run_dir", "run"),
            *pair("coordinator"), "--tls-client-ca", str(tls / "ca.pem"),
        )  # fmt: skip
        number = server.wait_for(r"listens on 0\.0\.0\.0:(\d+)")[1]
        assert "INSECURE" not in server.output
        common = ["--config", path, "--server", f"127.0.0.1:{number}", "--tls-ca", str(tls / "ca.pem")]
        assert main(["--mode", "status", *common, *pair("clients/clinic-a/client")]) == 0
        assert "waits for clients for sst2" in capsys.readouterr().out
        client = [
            "--mode",
            "client",
            "--client-id",
            "clinic-a",
            "--tasks",
            "sst2,qqp",
            "--state_dir",
            str(tmp_path / "state"),
        ]
        assert main([*client, *common, *pair("clients/clinic-a/client")]) == 0
        assert server.exit_code() == 0, server.output
