"""Coordinator and clients from Python code, over gRPC on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedmtl
from fedmtl import FedMTLError
from tests.federations import write_model


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.relu(self.linear(rows))


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()


def rows(seed: int) -> tuple[Any, Any, Any]:
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(60, 4)).astype(np.float32)
    return x, np.where(x[:, 0] > 0, "yes", "no"), 40 + 10 * x[:, 2]


TASKS = {
    "cough": fedmtl.classification(["no", "yes"], class_weights="balanced", metrics=["f1", "accuracy"]),
    "age": fedmtl.regression(weight=2.0),
}
SETTINGS = {"training.num_rounds": 3, "training.learning_rate": 1e-2, "federation.min_clients": 2}
FREE = "127.0.0.1:0"


def sites() -> dict[str, dict[str, Any]]:
    (x1, y1, a1), (x2, y2, _) = rows(1), rows(2)
    return {"ward-1": {"cough": (x1, y1), "age": (x1, a1)}, "ward-2": {"cough": (x2, y2)}}


def settings(folder: Path) -> dict[str, object]:
    return {"client.state_dir": str(folder / "state"), "client.connect_timeout_seconds": 60}


@pytest.mark.parametrize("encoder", [{"mlp": {"hidden": [8]}}, net()], ids=["ours", "given"])
@pytest.mark.parametrize("plan", ["private_heads"])
def test_daemons_from_python_give_the_model_of_the_simulation(encoder: Any, plan: str, tmp_path: Path) -> None:
    chosen = {**SETTINGS, "sharing.plan": plan}
    coordinator = fedmtl.serve(TASKS, encoder, FREE, shape=(4,), settings=chosen, run_dir=tmp_path / "run", wait=False)
    own = encoder if isinstance(encoder, nn.Module) else None
    clients = [
        fedmtl.join(coordinator.address, given, site, encoder=own, settings=settings(tmp_path), wait=False)
        for site, given in sites().items()
    ]
    for client in clients:
        client.wait()
    run = coordinator.wait()
    assert run.report.status == "finished" and {*run.report.clients} == {"ward-1", "ward-2"}
    assert run.report.data == "given" and run.report.tasks["cough"].class_weights is not None
    simulated = fedmtl.simulate(TASKS, sites(), encoder, chosen)
    assert simulated.report.model_digest == run.report.model_digest


def test_texts_and_a_name_that_is_made(tmp_path: Path) -> None:
    given = (["a fine film", "a dull film"] * 8, ["good", "bad"] * 8)
    tasks = {"mood": fedmtl.classification(["bad", "good"])}
    model = str(write_model(tmp_path / "model", dropout=0.0))
    chosen = {"training.num_rounds": 1, "model.max_length": 16, "federation.min_clients": 1}
    coordinator = fedmtl.serve(tasks, model, FREE, settings=chosen, wait=False)
    fedmtl.join(coordinator.address, {"mood": given}, settings=settings(tmp_path))
    [name] = coordinator.wait().report.clients
    assert name.startswith("mood-auto-")


def test_both_work_in_a_running_loop(tmp_path: Path) -> None:
    async def cell() -> str:
        x, y, _ = rows(1)
        chosen = {**SETTINGS, "federation.min_clients": 1, "training.num_rounds": 1}
        coordinator = fedmtl.serve(
            {"cough": fedmtl.classification(["no", "yes"])}, {"mlp": {}}, FREE, shape=(4,), settings=chosen, wait=False
        )
        fedmtl.join(coordinator.address, {"cough": (x, y)}, "ward", settings=settings(tmp_path))
        return coordinator.wait().report.status

    assert asyncio.run(cell()) == "finished"


@pytest.fixture
def interrupted() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timers: list[threading.Timer] = []

    def after(seconds: float) -> None:
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)))
        timers[-1].start()

    yield after
    for timer in timers:
        timer.cancel()
    signal.signal(signal.SIGINT, before)


def test_an_interruption_ends_a_client_and_a_coordinator_in_good_order(interrupted: Any, tmp_path: Path) -> None:
    """The run goes on afterwards, and ends with the bits of one that nobody ended."""
    (x1, y1, _), (x2, y2, _) = rows(1), rows(2)
    tasks = {"cough": fedmtl.classification(["no", "yes"])}
    begun = {"settings": SETTINGS, "run_dir": tmp_path / "run", "wait": False}
    coordinator = fedmtl.serve(tasks, {"mlp": {}}, FREE, shape=(4,), **begun)
    first = fedmtl.join(coordinator.address, {"cough": (x1, y1)}, "a", settings=settings(tmp_path), wait=False)
    interrupted(0.2)  # nothing ends by itself: the second client is missing
    with pytest.raises(KeyboardInterrupt):
        first.wait()
    interrupted(0.2)
    with pytest.raises(KeyboardInterrupt):
        coordinator.wait()
    assert fedmtl.load(tmp_path / "run").report.status == "interrupted"
    again = fedmtl.serve(tasks, {"mlp": {}}, FREE, shape=(4,), resume=True, **begun)
    clients = [
        fedmtl.join(again.address, {"cough": given}, name, settings=settings(tmp_path), wait=False)
        for name, given in (("a", (x1, y1)), ("b", (x2, y2)))
    ]
    assert [client.wait() for client in clients] == [None, None]
    assert again.wait().report.status == "finished"


def test_what_does_not_fit_the_federation_is_one_line(tmp_path: Path) -> None:
    x, y, age = rows(1)
    with pytest.raises(FedMTLError, match="address: 'here' is not HOST:PORT"):
        fedmtl.serve(TASKS, {"mlp": {}}, "here")
    with pytest.raises(FedMTLError, match=r"server\.host: '0.0.0.0' is open to other machines without encryption"):
        fedmtl.serve(TASKS, {"mlp": {}}, "0.0.0.0:0", shape=(4,))
    coordinator = fedmtl.serve(TASKS, net(), FREE, shape=(4,), run_dir=tmp_path / "run", wait=False)

    def join(tasks: Any, **more: Any) -> None:
        fedmtl.join(coordinator.address, tasks, "ward-1", settings=settings(tmp_path), **more)

    try:
        with pytest.raises(FedMTLError, match=r"ward-1 has rows of \['cold'\]; tasks are cough, age"):
            join({"cold": (x, y)})
        with pytest.raises(FedMTLError, match="encoder: the federation has a module of its own; give the same one"):
            join({"cough": (x, y)})
        with pytest.raises(FedMTLError, match="60 rows and 3 labels; give one label for each row"):
            join({"cough": (x, y[:3])}, encoder=net())
        with pytest.raises(FedMTLError, match=r"site ward-1, row 1.*feature 2: nan is not a finite float32"):
            join({"age": (np.where(np.arange(4) == 1, np.nan, x), age)}, encoder=net())
        with pytest.raises(FedMTLError, match="encoder: it differs in code, arguments or shapes from the federation's"):
            join({"cough": (x, y)}, encoder=nn.Linear(4, 8))
    finally:
        coordinator.stop()
        coordinator.wait()
