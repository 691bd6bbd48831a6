"""Orders that come to nothing stay charged, and the noise that is found for a budget leaves room for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from client.agent import Agent
from client.state.row_ledger import RowLedger
from common.clock import ManualClock
from common.errors import Reason, Refused
from common.orders import Receipt, Session, UpdateHeader
from common.ports import Chunks
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from tests.federations import SubmittingPort, make_client, make_model
from tests.test_hidden_rows import FOUND, hidden_config
from tests.test_row_ledger import charges


class Losing(SubmittingPort):
    """A port that gives back an order as failed when its client, whose work is done and charged, hands it in."""

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Receipt:
        if header.order_id == "train-2.1-a":
            await self._port.report_failure(session, header.order_id, "the line broke")
            raise Refused(Reason.TOO_LATE, "the line broke")
        return await self._port.submit(session, header, chunks)


def test_a_round_that_is_tried_again_stays_charged_and_within_the_budget(tmp_path: Path) -> None:
    config = hidden_config(*FOUND, "federation.round_attempts=2", "federation.quorum=1.0", "federation.min_clients=2")
    coordinator = in_memory(config, make_model(config), ManualClock())
    a, b = (make_client(config, name, ["a0", "b1"], f"{n}/2") for n, name in enumerate("ab", 1))
    agents = [Agent(Losing(coordinator), a, tmp_path / "a"), Agent(coordinator, b, tmp_path / "b")]
    asyncio.run(run_together(coordinator, agents))
    assert coordinator.state.completed_rounds == 2
    found, ledger = charges(tmp_path / "a"), RowLedger(tmp_path / "a")
    assert [c["order"] for c in found if c["task"] == "a0"] == ["train-1.1-a", "train-2.1-a", "train-2.2-a"]
    assert all(2.9 < ledger.spent(rows).epsilon(1e-3) <= 3.0 for rows in {c["rows"] for c in found})
