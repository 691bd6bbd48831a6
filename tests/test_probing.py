"""Orders to compare candidates: what is offered, what may be fetched, which answers are believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from client.agent import Agent
from client.data.array_examples import ArrayExamples
from client.disclosure import what_leaves
from client.limits import Limits
from client.training.comparing import compared, row_losses
from client.training.loop import TaskSet
from common.bodies import Probe, ScopeVersion, Train
from common.clock import ManualClock
from common.errors import ConfigError, Refused, WireError
from common.orders import Order, PollKind, PollReply, Reply, UpdateState, Welcome
from common.probing import ProbeLosses, TaskLosses
from common.statistics import LARGEST_LOSS
from common.wire import messages
from server.core.open_round import OrderState
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from tests.federations import array_config, make_client, make_model
from tests.ifca_cases import ifca_config

ROWS = 40
"""What the client of these tests joins with."""


async def joined() -> tuple[Coordinator, Welcome, Order]:
    """A coordinator, and the order to compare that its one client got."""
    config = ifca_config("training.num_rounds=1", "federation.offences=0")
    coordinator = in_memory(config, make_model(config), ManualClock())
    await coordinator.start()
    welcome = await coordinator.join(make_client(config, "a", ["a0"], "1/1").request)
    reply = await coordinator.poll(welcome.session, "")
    assert reply.order is not None
    return coordinator, welcome, reply.order


def of(reply: ProbeLosses | None, order: Order) -> Reply:
    return Reply(order.order_id, (), 1.0, reply)


def said(
    losses: tuple[float, ...], gains: tuple[float, ...], squares: tuple[float, ...], rows: int = ROWS
) -> ProbeLosses:
    return ProbeLosses((TaskLosses("a0", rows, losses, gains, squares),))


GOOD = said((20.0, 12.0), (0.0, 8.0), (0.0, 2.0))


def test_an_order_offers_all_models_and_its_values_are_those_that_it_says() -> None:
    async def check() -> None:
        coordinator, welcome, order = await joined()
        assert order.order_id == "probe-1.1-a" and isinstance(order.body, Probe) and order.body.rows == "train"
        names = [[f"candidate/{k}/member/a", f"candidate/{k}/member/a/task/a0"] for k in (0, 1)]
        assert [[w.scope for w in candidate] for candidate in order.body.candidates] == names
        assert [wanted.scope for wanted in order.needed] == names[0] + names[1], "the member's own copy is not needed"
        for wanted in order.needed:
            parts = [bytes(chunk) async for chunk in coordinator.fetch(welcome.session, wanted, 0)]
            place = wanted.scope.replace("member/a", "member/{member}")
            assert b"".join(parts).endswith(coordinator.vectors[place].tobytes())
        for refused in (ScopeVersion(names[0][0], 1), ScopeVersion("candidate/7/member/a", 0)):
            with pytest.raises(Refused, match="is at version"):
                [chunk async for chunk in coordinator.fetch(welcome.session, refused, 0)]
        with pytest.raises(Refused, match="is not for client"):
            [c async for c in coordinator.fetch(welcome.session, ScopeVersion("candidate/0/member/b", 0), 0)]

    asyncio.run(check())


BAD = {
    "is answered by the losses of candidates": None,
    "losses are of": ProbeLosses((replace(GOOD.tasks[0], task="b1"),)),
    "losses of 41 rows where the client joined with 40": said((20.0, 12.0), (0.0, 8.0), (0.0, 2.0), rows=41),
    "3 losses for 2 candidates": said((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "loss inf": said((20.0, float("inf")), (0.0, -float("inf")), (0.0, float("inf"))),
    "loss nan": said((20.0, float("nan")), (0.0, 0.0), (0.0, 0.0)),
    "loss 2.72": said((20.0, 2.0 * ROWS * LARGEST_LOSS), (0.0, 8.0), (0.0, 2.0)),
    "gain 9.0, which is not that of losses": said((20.0, 12.0), (0.0, 9.0), (0.0, 3.0)),
    "squares 1.5 beside gain 8.0": said((20.0, 12.0), (0.0, 8.0), (0.0, 1.5)),  # 64 / 40 rows is the least
    "squares -1.0": said((20.0, 20.0), (0.0, 0.0), (0.0, -1.0)),
    "squares inf": said((20.0, 20.0), (0.0, 0.0), (0.0, float("inf"))),
}


def test_an_answer_that_cannot_be_true_is_refused_and_changes_nothing() -> None:
    async def check() -> None:
        coordinator, welcome, order = await joined()
        for match, content in BAD.items():
            with pytest.raises(Refused, match=match.replace(".", r"\.")):
                await coordinator.poll(welcome.session, order.order_id, of(content, order))
            assert coordinator.state.open is not None
            assert coordinator.state.open.orders[order.order_id].state is OrderState.ISSUED, match
        reply = await coordinator.poll(welcome.session, order.order_id, of(GOOD, order))
        assert reply.update_state is UpdateState.COMMITTED and reply.order is not None
        body = reply.order.body
        assert isinstance(body, Train) and [found.scope for found in body.starts] == [
            "candidate/1/member/a", "candidate/1/member/a/task/a0",
        ]  # fmt: skip
        assert reply.order.needed == body.starts

    asyncio.run(check())


def bent(change: Callable[[Order], Order]) -> str:
    """What the wire says of the order to compare once it is changed."""
    _, _, order = asyncio.run(joined())
    data = messages.POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=change(order)))
    with pytest.raises(WireError) as found:
        messages.POLL_REPLY.decode(data)
    return str(found.value)


def test_candidates_are_for_scopes_of_the_order_and_one_for_each() -> None:
    def offering(*scopes: str) -> Callable[[Order], Order]:
        offered = (tuple(ScopeVersion(scope, 0) for scope in scopes),)
        return lambda order: replace(order, body=replace(order.body, candidates=offered), inline=())

    assert "is for none of the order's" in bent(offering("candidate/0/member/b"))
    assert "'member/a' is no candidate" in bent(offering("member/a"))
    assert "candidates" in bent(offering("candidate/0/member/a", "candidate/1/member/a"))


def test_a_client_that_has_not_the_memory_for_all_candidates_says_so(tmp_path: Path) -> None:
    """66 parameters, three times: the model and two candidates."""
    config = ifca_config()
    coordinator = in_memory(config, make_model(config), ManualClock())

    async def run(parameters: int) -> None:
        client = make_client(config, "a", ["a0"], "1/1")
        limited = replace(client, computing=replace(client.computing, limits=Limits(parameters=parameters)))
        await coordinator.start()
        await Agent(coordinator, limited, tmp_path).run()

    with pytest.raises(
        ConfigError, match=r"client\.limits\.parameters: the model, with what an order asks .* 198 param"
    ):
        asyncio.run(run(197))


def test_losses_of_rows_are_those_of_torch_and_one_that_is_not_finite_is_the_largest() -> None:
    config = ifca_config()
    model, (task,) = make_model(config).model, config.definitions()
    rng = np.random.Generator(np.random.PCG64(3))
    x, y = rng.normal(size=(11, 5)).astype("f4"), rng.integers(0, 2, 11)
    rows = ArrayExamples(x, y)
    item = TaskSet(task, rows, rows)
    found = row_losses(model, item, rows, 4)
    with torch.no_grad():
        logits = model.heads["a0"].linear(torch.relu(model.encoder.layers[0](torch.from_numpy(x))))
        wanted = functional.cross_entropy(logits, torch.from_numpy(y), reduction="none").double().numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        model.heads["a0"].linear.bias[0] = float("nan")
    assert row_losses(model, item, rows, 4).tolist() == [LARGEST_LOSS] * 11
    sums = compared("a0", [np.array([3.0, 1.0]), np.array([1.0, 2.0])])
    assert sums == TaskLosses("a0", 2, (4.0, 3.0), (0.0, 1.0), (0.0, 5.0))


def test_what_leaves_names_the_losses_of_candidates() -> None:
    said = "\n".join(what_leaves(ifca_config(), ["a0"]))
    assert "per task and candidate, over the train rows: their number, the sum" in said
    assert "candidate" not in "\n".join(what_leaves(array_config(), ["a0"]))
