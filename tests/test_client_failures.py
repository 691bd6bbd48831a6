"""Orders that fail at a client: the coordinator hears it, and the client lives on where it can."""

from __future__ import annotations

import asyncio
import errno
import math
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from client.agent import Agent
from client.state.store import RunStore
from common.clock import ManualClock
from common.config import Config
from common.errors import RunFailedError, StateError
from common.orders import Session
from server.core.phases import Phase
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from tests.federations import array_config, digest_of, make_client, make_model

ONE = ("federation.min_clients=1", "federation.round_attempts=2")
NUMBERS = "tasks={n: {type: regression, train_samples: 20, val_samples: 10}}"


class Overheard:
    """A port that notes what is reported, and who leaves."""

    def __init__(self, port: Coordinator) -> None:
        self._port = port
        self.reports: list[tuple[str, str]] = []
        self.left: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def report_failure(self, session: Session, order_id: str, reason: str) -> None:
        self.reports.append((order_id, reason))
        await self._port.report_failure(session, order_id, reason)

    async def leave(self, session: Session) -> None:
        self.left.append(session.client_id)
        await self._port.leave(session)


class ShortStore(RunStore):
    """A store whose disk fails with `number` for the next `times` writes."""

    number, times = errno.ENOSPC, 0

    def _flush(self, descriptor: int) -> None:
        if ShortStore.times:
            ShortStore.times -= 1
            raise OSError(ShortStore.number, os.strerror(ShortStore.number))
        super()._flush(descriptor)


def federation(config: Config) -> tuple[Coordinator, Overheard]:
    coordinator = in_memory(config, make_model(config), ManualClock())
    return coordinator, Overheard(coordinator)


async def take_part(config: Config, coordinator: Coordinator, port: Overheard, state: Path, task: str) -> None:
    await coordinator.start()
    with mock.patch("client.agent.RunStore", ShortStore):
        await Agent(port, make_client(config, "a", [task], "1/1"), state).run()


@pytest.mark.parametrize(
    ("kind", "value"),
    [(NUMBERS, 1e13), *((kind, value) for kind in (NUMBERS, "") for value in (1e25, 3e38, math.inf, math.nan))],
)
def test_a_bad_model_fails_orders_and_never_ends_its_clients(kind: str, value: float, tmp_path: Path) -> None:
    config = array_config(*ONE, *filter(None, [kind]), tasks=("a0",))
    model = make_model(config)
    for vector in model.vectors.values():
        vector.mul_(0).add_(torch.linspace(-1, 1, len(vector))).mul_(value)
    coordinator = in_memory(config, model, ManualClock())
    port = Overheard(coordinator)
    with pytest.raises(RunFailedError):
        asyncio.run(asyncio.wait_for(take_part(config, coordinator, port, tmp_path, next(iter(config.tasks))), 60))
    assert coordinator.state.phase is Phase.FAILED and port.left == []
    assert [order for order, _ in port.reports] == ["train-1.1-a", "train-1.2-a"]
    assert all(reason.startswith(("DataError: ", "TrainingDiverged: ")) for _, reason in port.reports), port.reports


@pytest.mark.parametrize("plan", ["hard", "private_heads"])
def test_a_disk_that_is_full_for_a_while_is_waited_for(
    plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("client.jobs.kept.SHORTAGE_PAUSE_SECONDS", 0.0)
    config = array_config(*ONE, f"sharing.plan={plan}", tasks=("a0",))
    digests = []
    for times in (0, 5):
        coordinator, port = federation(config)
        if plan == "private_heads":  # they are written before the first order, which is when this client is not ready
            RunStore(tmp_path / str(times) / "memory").start_private(
                {name: torch.from_numpy(v) for name, v in coordinator._federation.private_vectors.items()}
            )
        monkeypatch.setattr(ShortStore, "times", times)
        asyncio.run(asyncio.wait_for(take_part(config, coordinator, port, tmp_path / str(times), "a0"), 60))
        assert coordinator.state.phase is Phase.FINISHED and port.reports == []
        digests.append(digest_of(coordinator))
    assert digests[0] == digests[1] and ShortStore.times == 0
    assert caplog.text.count("No space left on device") == 1


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EROFS, errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_a_disk_that_fails_gives_the_order_back_and_ends_the_client_in_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.jobs.kept.SHORTAGE_SECONDS", 0.0)
    monkeypatch.setattr(ShortStore, "number", number)
    monkeypatch.setattr(ShortStore, "times", 1)
    config = array_config(*ONE, tasks=("a0",))
    coordinator, port = federation(config)
    with pytest.raises(StateError, match=r"^client.state_dir: '.*' cannot be used \(.*\); [a-z]") as caught:
        asyncio.run(asyncio.wait_for(take_part(config, coordinator, port, tmp_path, "a0"), 60))
    assert "\n" not in caught.value.message
    assert port.reports == [("train-1.1-a", f"StateError: {os.strerror(number)}")]  # without a path
    assert coordinator.state.clients["a"].left


def test_damaged_private_values_end_a_client_before_its_first_order(tmp_path: Path) -> None:
    config = array_config(*ONE, "sharing.plan=private_heads", tasks=("a0",))
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "private.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00damaged")
    for _ in range(2):
        coordinator, port = federation(config)
        with pytest.raises(StateError, match=r"is damaged .* no whole copy"):
            asyncio.run(asyncio.wait_for(take_part(config, coordinator, port, tmp_path, "a0"), 60))
        assert port.left == ["a"] and port.reports == []


def test_private_values_that_are_gone_are_said_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = array_config(*ONE, "sharing.plan=private_heads", tasks=("a0",))
    said = []
    for trace in (None, "precision.json"):  # a new client, and one that was here before
        state = tmp_path / str(trace)
        if trace is not None:
            (state / "memory").mkdir(parents=True)
            (state / "memory" / trace).write_text("{}")
        caplog.clear()
        coordinator, port = federation(config)
        asyncio.run(asyncio.wait_for(take_part(config, coordinator, port, state, "a0"), 60))
        said.append([record.getMessage() for record in caplog.records if "is lost" in record.getMessage()])
    assert said[0] == [] and len(said[1]) == 1
    assert said[1][0].startswith("private values of private/a0 are not in this client's state folder any more")
