"""Killed at any moment, and the same bits at the end."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.transport.grpc_port import GrpcCoordinator
from common.clock import ManualClock
from common.config import Config, render
from server.core.phases import Phase
from server.runs.assembly import in_memory
from server.runs.run_folder import RunFolder
from server.service.grpc_server import start_server
from server.storage.journal import Journal
from tests.crashes import Cast, Fragile, Gate, crash_and_recover, prepare_run, serve_here
from tests.federations import CLIENTS, digest_of, federate, make_model, small_config
from tests.processes import Programs

EFFECTS = [
    *("Commit", "Wake"),  # round 1 opens with the last client
    *("Fold", "Fold", "Fold", "Fold", "Combine", "StoreVersion", "Commit", "InstallVersion", "Wake"),
    *("Fold", "Fold", "Fold", "Fold", "Combine", "StoreVersion", "Commit", "InstallVersion", "Wake"),
    *("Commit", "Wake"),  # the scores of the last model are in
]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_tokenizer")]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.transport.retries.LONGEST_PAUSE_SECONDS", 0.5)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_config(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def digest(config: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an uninterrupted federation by direct calls comes to."""
    return digest_of(asyncio.run(federate(config, tmp_path_factory.mktemp("reference"))))


@pytest.mark.parametrize("clients_die", [False, True], ids=["clients live on", "clients die too"])
def test_a_coordinator_that_dies_after_any_effect_comes_to_the_same_model(
    config: Config, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients_die: bool
) -> None:
    if clients_die:  # and versions lie in the journal, as those of small models do
        monkeypatch.setattr("server.storage.models.INLINE_BYTES", 1 << 30)
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config)

    def attempt(dies_after: int | None) -> tuple[str, list[str]]:
        place = tmp_path / str(dies_after)
        cast.executed.clear()
        return asyncio.run(crash_and_recover(config, template, place, cast, dies_after, clients_die))

    assert attempt(None) == (digest, EFFECTS)
    for step in range(1, len(EFFECTS) + 1):
        found, effects = attempt(step)
        assert effects == EFFECTS[:step]
        assert found == digest, f"died after effect {step}, {effects[-1]}"
        repeated = {order: times for order, times in Counter(cast.executed).items() if times > 1}
        assert clients_die or not repeated, f"died after effect {step}: {repeated} were worked on again"


@pytest.mark.parametrize(
    ("choice", "fetches"),
    [
        *(("sharing.plan=private_heads", 2), ("sharing.plan=fedper", 3), ("training.procedure=ditto", 0)),
        pytest.param("blend=true", 0, marks=pytest.mark.slow),
    ],
)
def test_a_client_that_dies_at_any_call_comes_to_the_same_models(tmp_path: Path, choice: str, fetches: int) -> None:
    config = small_config(tmp_path, choice)
    model, cast = make_model(config), Cast(config)

    async def attempt(place: Path, fatal: int, when: str) -> tuple[dict[str, Any], list[str]]:
        coordinator = in_memory(config, model, ManualClock())
        await coordinator.start()

        async def fragile() -> list[str]:
            port = Fragile(coordinator, fatal, when)
            running = asyncio.ensure_future(cast.agent("d", port, place).run())
            died = asyncio.ensure_future(port.died.wait())
            await asyncio.wait((running, died), return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            if port.died.is_set():
                running.cancel()
                await asyncio.wait((running,))
                await cast.agent("d", coordinator, place).run()
            else:
                running.result()
            return port.calls

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            mortal = group.create_task(fragile())
            for name in "abc":
                group.create_task(cast.agent(name, coordinator, place).run())
        assert coordinator.state.phase is Phase.FINISHED
        private = {path.parent.parent.name: load_file(path) for path in place.rglob("private.safetensors")}
        assert sorted(private) == ["a", "b", "c", "d"]
        assert not list(place.rglob("update.bin")) and not list(place.rglob("private.next.safetensors"))
        return {"digest": digest_of(coordinator), **private}, mortal.result()

    expected, calls = asyncio.run(attempt(tmp_path / "whole", 0, ""))
    for name in "abcd":
        for scope, values in expected[name].items():
            start = model.vectors.get(scope.removeprefix("own/"), 0.5)  # of a blend's weight: without any rows
            assert not np.array_equal(values, start), f"{name} did not learn {scope}"
    train = ["poll", "fetch", "submit"]  # the answer to the last order, which asks for scores, comes with a poll
    assert calls == ["join", "fetch_tokenizer", *["fetch"] * fetches, *train, *train, "poll", "fetch", "poll"]
    for number, name in enumerate(calls, start=1):
        for when in ("before", "after"):
            place = tmp_path / f"{when}{number}"
            cast.executed.clear()
            found, until = asyncio.run(attempt(place, number, when))
            assert until == calls[:number]
            np.testing.assert_equal(found, expected, f"died {when} call {number}, {name}")
            again = max(Counter(cast.executed).values())
            assert again == 1, f"died {when} call {number}, {name}: a stored update was made again"
            shutil.rmtree(place)


def test_a_server_that_died_while_it_made_the_model_starts_over(config: Config, digest: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    Journal(RunFolder.create(path).journal).close()
    (path / "models").mkdir()
    (path / "models" / ".0.partial").write_bytes(b"half a model")
    (path / "models" / "0.safetensors").write_bytes(b"of an earlier attempt")
    changes = {"run": config.run.model_copy(update={"run_dir": str(path)})}
    changes |= {"server": config.server.model_copy(update={"port": 0})}
    report = asyncio.run(serve_here(config.model_copy(update=changes), True, tmp_path / "state"))
    assert (report["status"], report["model_digest"]) == ("finished", digest)
    again = asyncio.run(serve_here(config.model_copy(update=changes), True, tmp_path / "state"))
    assert {**again, "seconds": 0} == {**report, "seconds": 0}


def settings(config: Config, folder: Path) -> list[str]:
    path = folder / "config.yaml"
    path.write_text(render(config))
    return ["--config", str(path)]


def client(name: str, *options: str) -> list[str]:
    tasks, partition = next((",".join(tasks), part) for known, tasks, part in CLIENTS if known == name)
    return ["--mode", "client", "--client-id", name, "--tasks", tasks, "--partition", partition, *options]


def report_of(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report


def test_real_processes_come_to_the_same_model_as_direct_calls(config: Config, digest: str, tmp_path: Path) -> None:
    options, cast = settings(config, tmp_path), Cast(config)

    async def two_more(number: int) -> None:
        """The other two clients, over the same gRPC, in this process."""
        async with AsyncExitStack() as stack:
            ports = [(n, await stack.enter_async_context(GrpcCoordinator("127.0.0.1", number, None, n))) for n in "ab"]
            await asyncio.gather(*(cast.agent(name, port, tmp_path / "near").run() for name, port in ports))

    with Programs(tmp_path) as programs:
        server = programs.start("--mode", "server", *options, "--port", "0", "--run_dir", "run")
        number = server.port()
        clients = [programs.start(*client(name, *options, "--server", f"127.0.0.1:{number}")) for name in "cd"]
        asyncio.run(asyncio.wait_for(two_more(number), 90))
        assert [program.exit_code() for program in (server, *clients)] == [0, 0, 0]
        assert "4 of 4 updates, clients per task: sst2 3, qqp 2" in server.output
        who = "shared: 23 tensors from 4 (a, b, c, d); task/qqp: 2 tensors from 2 (c, d); task/sst2: 2 tensors from 3"
        assert f"{who} (a, b, d)" in server.output
    report = report_of(tmp_path / "run")
    assert (report["status"], report["rounds_completed"], report["model_digest"]) == ("finished", 2, digest)
    assert {name: entry["rounds"] for name, entry in report["clients"].items()} == dict.fromkeys("abcd", 3)


def test_kill_9_of_the_server_and_then_of_server_and_client_leaves_no_trace(
    config: Config, digest: str, tmp_path: Path
) -> None:
    options, cast = settings(config, tmp_path), Cast(config)
    asyncio.run(asyncio.wait_for(_kill_twice(options, cast, tmp_path), 110))
    report = report_of(tmp_path / "run")
    assert (report["status"], report["model_digest"]) == ("finished", digest)
    assert Counter(cast.executed) == {
        f"{name}-{who}": 1 for who in "abc" for name in ("train-1.1", "train-2.1", "evaluate-2.1")
    }


async def _kill_twice(options: list[str], cast: Cast, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        programs = stack.enter_context(Programs(folder))
        serve = ["--mode", "server", *options, "--run_dir", "run", "--port"]
        server = programs.start(*serve, "0")
        number = str(await asyncio.to_thread(server.port))
        join = client("d", *options, "--server", f"127.0.0.1:{number}")
        mortal = programs.start(*join)
        ports = {
            name: await stack.enter_async_context(GrpcCoordinator("127.0.0.1", int(number), None, name))
            for name in "abc"
        }
        gate = Gate(ports["c"], "c")
        agents = asyncio.gather(
            *(cast.agent(n, gate if n == "c" else port, folder / "near").run() for n, port in ports.items())
        )

        async def says(program: Any, pattern: str, times: int = 1) -> None:
            await asyncio.to_thread(program.wait_for, pattern, times)

        # Round 1: d is accepted, c is outstanding; the server dies alone.
        await says(mortal, "train-1.1-d handed in")
        await gate.reached("train-1.1")
        server.kill()
        server = programs.start(*serve, number, "--resume")
        await says(mortal, "train-1.1-d handed in", 2)
        assert mortal.count("round 1: training") == 1
        gate.let_through("train-1.1")
        # Round 2: the same, but both die.
        await says(mortal, "train-2.1-d handed in")
        await gate.reached("train-2.1")
        server.kill()
        mortal.kill()
        server = programs.start(*serve, number, "--resume")
        mortal = programs.start(*join)
        await says(mortal, "train-2.1-d handed in")
        assert mortal.count("training$") == 0
        gate.let_through("train-2.1")
        gate.let_through("evaluate-2.1")
        await agents
        assert [await asyncio.to_thread(p.exit_code) for p in (server, mortal)] == [0, 0]


def test_kill_9_of_a_client_that_hands_in_leaves_no_trace(config: Config, digest: str, tmp_path: Path) -> None:
    options, cast = settings(config, tmp_path), Cast(config)
    coordinator = in_memory(config, make_model(config), ManualClock())

    async def attempt() -> None:
        gate = Gate(coordinator, "d")
        await coordinator.start()
        server = await start_server(gate, "127.0.0.1", 0, None)
        join = client("d", *options, "--server", f"127.0.0.1:{server.port_number}")
        try:
            with Programs(tmp_path) as programs:
                agents = asyncio.gather(*(cast.agent(name, coordinator, tmp_path / "near").run() for name in "abc"))
                mortal = programs.start(*join)
                await gate.reached("train-1.1")
                mortal.kill()
                assert not coordinator.state.open.orders["train-1.1-d"].digest  # type: ignore[union-attr]
                for name in ("train-1.1", "train-2.1", "evaluate-2.1"):
                    gate.let_through(name)
                mortal = programs.start(*join)
                await agents
                assert await asyncio.to_thread(mortal.exit_code) == 0
                assert mortal.count("round 1: training") == 0 and mortal.count("round 2: training") == 1
        finally:
            await server.stop(0)

    asyncio.run(asyncio.wait_for(attempt(), 110))
    assert digest_of(coordinator) == digest
