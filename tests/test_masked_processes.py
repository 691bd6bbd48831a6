"""Masked rounds between processes: a client killed in each stage, the coordinator before the sums are opened."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from client.transport.grpc_port import GrpcCoordinator
from common.config import render
from common.orders import Answer, PollReply, Session
from common.ports import CoordinatorPort
from tests.crashes import Cast
from tests.federations import SubmittingPort, array_config, digest_of, federate
from tests.processes import Programs
from tests.test_masked_federation import FOUR, MASKED, UNMASKED

STAGES = ("keys-1.1", "shares-1.1", "train-1.1", "unmask-1.1")
ROUNDS = ("training.num_rounds=2",)


class Slow(SubmittingPort):
    """A client's port that brings orders of some stages when it is told to, so that these stages stay open."""

    def __init__(self, port: CoordinatorPort) -> None:
        super().__init__(port)
        self.came = {stage: asyncio.Event() for stage in STAGES}
        self.goes_on = {stage: asyncio.Event() for stage in STAGES}

    async def poll(self, session: Session, pending_order: str, answer: Answer | None = None) -> PollReply:
        reply: PollReply = await super().poll(session, pending_order, answer)
        stage = reply.order.order_id.removesuffix(f"-{session.client_id}") if reply.order is not None else ""
        if stage in STAGES:
            self.came[stage].set()
            await self.goes_on[stage].wait()
        return reply


@pytest.mark.slow
def test_kill_9_of_a_client_in_each_stage_and_of_the_coordinator_in_the_last_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.transport.retries.LONGEST_PAUSE_SECONDS", 0.5)
    asyncio.run(asyncio.wait_for(_killed_in_each(tmp_path), 100))
    report: dict[str, Any] = json.loads((tmp_path / "run" / "report.json").read_text())
    plain = asyncio.run(federate(array_config(*UNMASKED, *ROUNDS), tmp_path / "plain", FOUR))
    assert (report["status"], report["model_digest"]) == ("finished", digest_of(plain))
    assert report["clients"]["d"]["rounds"] == 3  # with the one to score: it was never out of a round
    assert not list((tmp_path / "run" / "sums").iterdir())


async def _killed_in_each(folder: Path) -> None:
    config = array_config(*MASKED, *ROUNDS)
    (folder / "config.yaml").write_text(render(config))
    options, cast = ("--config", str(folder / "config.yaml")), Cast(config, FOUR)
    async with AsyncExitStack() as stack:
        programs = stack.enter_context(Programs(folder))
        serve = ("--mode", "server", *options, "--run_dir", "run", "--port")
        server = programs.start(*serve, "0")
        number = str(await asyncio.to_thread(server.port))
        join = ("--mode", "client", "--client-id", "d", "--tasks", "a0,b1", "--partition", "4/4", *options)
        join += ("--server", f"127.0.0.1:{number}")
        mortal = programs.start(*join)
        ports: dict[str, Any] = {
            name: await stack.enter_async_context(GrpcCoordinator("127.0.0.1", int(number), None, name))
            for name in "abc"
        }
        slow = ports["c"] = Slow(ports["c"])
        agents = asyncio.gather(*(cast.agent(name, port, folder / "near").run() for name, port in ports.items()))
        for stage in STAGES:
            await slow.came[stage].wait()
            mortal.kill()
            if stage == "unmask-1.1":
                assert list((folder / "run" / "sums").glob("train-1.1.bin"))
                server.kill()
                server = programs.start(*serve, number, "--resume")
            mortal = programs.start(*join)
            slow.goes_on[stage].set()
        await agents
        assert [await asyncio.to_thread(program.exit_code) for program in (server, mortal)] == [0, 0]
