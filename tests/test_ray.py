"""Jobs in Ray actors: the bits of threads, with what clients keep."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import fedmtl
from client.training.loop import TrainingDiverged
from client.training.work import ClientState, Procedure, Trained, Work
from common.clock import ManualClock
from common.config import Config
from common.errors import ConfigError, Reason, Refused, RunFailedError
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from simulation.population import population
from simulation.virtual_clients import VirtualClients, run_virtual_clients, settings_for_simulation
from tests.federations import array_config, digest_of, make_model

ray = pytest.importorskip("ray")

CHOICES = {
    "numbers": ("sharing.plan=private_heads", "training.procedure={name: ditto, mu: 0.5}"),
    "members": ("sharing.plan=soft", "relation={name: mean, strength: 0.1}"),
}


def simulated(config: Config, state: Path) -> Coordinator:
    return asyncio.run(run_virtual_clients(config, make_model(config), population(config), state))[0]


def kept(state: Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.parent.parent.name: load_file(path) for path in sorted(state.rglob("private.safetensors"))}


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_actors_come_to_the_model_of_threads(tmp_path: Path, choice: str) -> None:
    config = array_config("simulation={clients: 6, tasks_per_client: 2, workers: 2}", *CHOICES[choice])
    section = config.simulation.model_copy(update={"executor": "ray"})
    threads = simulated(config, tmp_path / "threads")
    actors = simulated(config.model_copy(update={"simulation": section}), tmp_path / "actors")
    assert digest_of(threads) == digest_of(actors)
    assert threads.state.completed_rounds == actors.state.completed_rounds == 2
    np.testing.assert_equal(kept(tmp_path / "threads"), kept(tmp_path / "actors"))


@pytest.mark.slow
def test_actors_have_a_module_that_python_code_gave() -> None:
    x = np.random.Generator(np.random.PCG64(1)).normal(size=(40, 4))
    sites = {"a": {"up": (x, x[:, 0])}, "b": {"up": (x, x[:, 0])}}
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
    digests = {
        fedmtl.simulate({"up": fedmtl.regression()}, sites, net, settings).report.model_digest
        for settings in ({"training.num_rounds": 1}, {"training.num_rounds": 1, "simulation.executor": "ray"})
    }
    assert len(digests) == 1


def run_of(config: Config, state: Path, procedure: Procedure) -> VirtualClients:
    """A simulation whose clients train by a procedure of ours."""
    clock, model, clients = ManualClock(), make_model(config), population(config)
    coordinator = in_memory(config, model, clock)
    coordinator.writer.settings = settings_for_simulation(coordinator.settings, len(clients))
    virtual = VirtualClients(config, coordinator, clock, model.schemas, clients, state, procedure=procedure)

    async def run() -> None:
        with virtual.pool.running():
            await run_together(coordinator, virtual.agents)

    asyncio.run(run())
    return virtual


def diverges(work: Work, state: ClientState) -> Trained:
    raise TrainingDiverged("the loss is nan")


def refused(work: Work, state: ClientState) -> Trained:
    raise Refused(Reason.SCHEMA_MISMATCH, "another layout")


def ends_its_process(work: Work, state: ClientState) -> Trained:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("procedure", "logged", "raised"),
    [
        (diverges, "train-1.1-client-1 failed: TrainingDiverged: the loss is nan", "the federation stopped: round 1"),
        (refused, "train-1.1-client-1 refused (schema_mismatch): another layout", "the federation stopped: round 1"),
        (ends_its_process, "", "simulation.executor: a Ray actor is gone"),
    ],
)
def test_errors_of_actors_are_handled_as_those_of_threads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, procedure: Procedure, logged: str, raised: str
) -> None:
    config = array_config("simulation={clients: 2, workers: 2, executor: ray}", "federation.round_attempts=1")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ExceptionGroup) as caught:
        run_of(config, tmp_path, procedure)
    found = caught.value.exceptions[0]
    assert type(found) is RunFailedError
    assert str(found).startswith(raised) and "\n" not in str(found)
    assert logged in caplog.text
    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ((), r"simulation.executor: ray needs the package 'ray'; run pip install 'fedmtl\[ray\]', or write thread"),
        (("client.precision=auto",), "client.precision: auto"),
    ],
)
def test_what_actors_cannot_do_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...], says: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "simulation.ray_pool", raising=False)
    config = array_config("simulation={clients: 2, executor: ray}", *changes)
    with pytest.raises(ConfigError, match=says):
        run_of(config, tmp_path, diverges)
