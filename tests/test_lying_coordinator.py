"""A coordinator that lies to one of its clients: what the client refuses, and what it never says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from client.agent import Agent
from client.state.pins import Pins
from common.bodies import Body, Train
from common.clock import ManualClock
from common.errors import ConfigError, RunFailedError
from common.orders import Order, Reply
from common.secure.masking import MemberSecrets, announce
from common.secure.terms import SumPart
from common.stages import Keys, Shares, Unmask, UnmaskPart
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from tests.federations import NOISE_KEY, array_config, make_client, make_model

NAMES = ("a", "b", "c", "d", "e")
SUMS = (
    "secure_aggregation.enabled=true",
    "secure_aggregation.min_clients=3",
    "federation.min_clients=5",
    "federation.round_attempts=1",
    "training.num_rounds=1",
)
Lie = Callable[[Order], Order | None]


@dataclass
class Liar:
    """What one client calls: the coordinator, whose orders to it are changed on the way."""

    port: Any
    lie: Lie
    answers: list[tuple[str, Any]] = field(default_factory=list)
    """What the client said, by order."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    second: Body | None = None
    """What the client is asked once it has answered its first order to unmask, as if that had never come."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.port, name)

    async def poll(self, session: Any, pending: str, answer: Any = None) -> Any:
        if answer is not None:
            self.answers.append((answer.order_id, answer.content if isinstance(answer, Reply) else answer.header))
        if self.second is not None and answer is not None and answer.order_id.startswith("unmask-"):
            body, self.second, answer = self.second, None, None
            reply = await self.port.poll(session, pending, None)
            return replace(reply, order=replace(reply.order, body=body))
        reply = await self.port.poll(session, pending, answer)
        if reply.order is None:
            return reply
        return replace(reply, order=self.lie(reply.order) or reply.order)

    async def report_failure(self, session: Any, order_id: str, reason: str) -> None:
        self.failures.append((order_id, reason))
        await self.port.report_failure(session, order_id, reason)


def lied_to(place: Path, lie: Lie, pinned: bool = False, told: list[Liar] | None = None) -> Liar:
    """A federation in which client `a` hears lies, until it ends or gives up."""
    settings: tuple[str, ...] = SUMS
    if pinned:
        members = place / "members"
        keys = {name: Pins(place / name, name).public_key.hex() for name in NAMES}
        members.write_text("".join(f"{name} {key}\n" for name, key in keys.items()))
        settings += ("secure_aggregation.identities=pinned", f"secure_aggregation.members='{members}'")
    config = array_config(*settings)
    coordinator = in_memory(config, make_model(config), ManualClock(), key=NOISE_KEY)
    liar = Liar(coordinator, lie)
    if told is not None:
        told.append(liar)
    agents = []
    for number, name in enumerate(NAMES):
        client = make_client(config, name, ("a0", "b1"), f"{number + 1}/{len(NAMES)}")
        agents.append(Agent(liar if name == "a" else coordinator, client, place / name))

    async def run() -> None:
        await asyncio.wait_for(run_together(coordinator, agents), 60)

    try:
        asyncio.run(run())
    except* (RunFailedError, ConfigError):  # the one attempt comes to nothing, or the client has enough of it
        pass
    return liar


def changed(kind: type[Body], change: Callable[[Any], Any]) -> Lie:
    """Orders of one kind with another body."""

    def lie(order: Order) -> Order | None:
        return replace(order, body=change(order.body)) if isinstance(order.body, kind) else None

    return lie


def with_survivors(*names: str) -> Callable[[Unmask], Unmask]:
    def change(body: Unmask) -> Unmask:
        return replace(body, parts=tuple(UnmaskPart(part.circle, names, part.signatures) for part in body.parts))

    return change


def foreign(body: Shares) -> Shares:
    """Everybody else's keys are the coordinator's own: it could read every letter, and take every mask out."""
    rosters = []
    for circle, roster in body.rosters:
        mine = [announce(said.member, "another", MemberSecrets()) if said.member != "a" else said for said in roster]
        rosters.append((circle, tuple(mine)))
    return replace(body, rosters=tuple(rosters))


def without_me(body: Shares) -> Shares:
    return replace(body, rosters=tuple((c, tuple(s for s in roster if s.member != "a")) for c, roster in body.rosters))


def of_two(body: Shares) -> Shares:
    return replace(body, rosters=tuple((circle, roster[:2]) for circle, roster in body.rosters))


def twice(body: Shares) -> Shares:
    return replace(
        body, rosters=tuple((c, (*roster[:-1], replace(roster[1], member="e"))) for c, roster in body.rosters)
    )


def other_letters(body: Train) -> Train:
    assert body.sums is not None
    parts = []
    for part in body.sums.parts:
        (first, one), (second, two), *others = part.letters
        parts.append(SumPart(part.circle, part.sharers, ((first, two), (second, one), *others)))
    return replace(body, sums=replace(body.sums, parts=tuple(parts)))


def unmasked(body: Train) -> Train:
    assert body.sums is not None
    return replace(body, sums=replace(body.sums, terms=replace(body.sums.terms, masks=False)))


def for_fewer(body: Keys) -> Keys:
    return replace(body, terms=replace(body.terms, min_clients=2))


LIES: dict[str, tuple[Lie, str]] = {
    "a sum of two": (changed(Unmask, with_survivors("a", "b")), "unmask"),
    "a sum without its member": (changed(Unmask, with_survivors("b", "c", "d", "e")), "unmask"),
    "a sum with a stranger": (changed(Unmask, with_survivors("a", "b", "c", "mallory")), "unmask"),
    "a roster without its member": (changed(Shares, without_me), "shares"),
    "a roster of two": (changed(Shares, of_two), "shares"),
    "one key for two members": (changed(Shares, twice), "shares"),
    "letters of others": (changed(Train, other_letters), "train"),
    "an order without masks": (changed(Train, unmasked), "train"),
    "an order as it was before sums": (changed(Train, lambda body: replace(body, sums=None)), "train"),
    "terms for fewer clients": (changed(Keys, for_fewer), "keys"),
}


@pytest.mark.parametrize(("lie", "stage"), LIES.values(), ids=LIES)
def test_a_lie_is_refused_and_opens_nothing(tmp_path: Path, lie: Lie, stage: str) -> None:
    told = lied_to(tmp_path, lie)
    assert [order.partition("-")[0] for order, _ in told.failures][:1] == [stage]
    assert not [said for order, said in told.answers if order.startswith(f"{stage}-1.1")]
    assert not [said for order, said in told.answers if order.startswith("unmask-1.1")]


@pytest.mark.parametrize("second", [("a", "b", "c", "d"), ("a", "b", "c")])
def test_a_second_list_of_survivors_is_refused_whatever_it_says(tmp_path: Path, second: tuple[str, ...]) -> None:
    """What the first list opens are seeds; the second one asks for the mask key of somebody whose seed is open."""
    told: list[Liar] = []

    def lie(order: Order) -> Order | None:
        if isinstance(order.body, Unmask) and order.order_id == "unmask-1.1-a" and told[0].second is None:
            told[0].second = with_survivors(*second)(order.body)
        return None

    liar = lied_to(tmp_path, lie, told=told)
    assert ["second, different list" in reason for order, reason in liar.failures if order == "unmask-1.1-a"] == [True]
    opened = [said for order, said in liar.answers if order == "unmask-1.1-a"]
    assert len(opened) == 1 and all(not part.mask_keys for part in opened[0].circles)


def test_keys_that_the_coordinator_made_are_refused_where_identities_are_pinned(tmp_path: Path) -> None:
    told = lied_to(tmp_path, changed(Shares, foreign), pinned=True)
    assert [order for order, _ in told.failures][:1] == ["shares-1.1-a"]
    assert not [said for order, said in told.answers if order.startswith(("shares", "train", "unmask-1"))]


def test_survivors_that_nobody_signed_are_refused_where_identities_are_pinned(tmp_path: Path) -> None:
    def lie(body: Unmask) -> Unmask:
        return with_survivors("a", "b", "c", "d")(body)

    told = lied_to(tmp_path, changed(Unmask, lie), pinned=True)
    assert [order.partition("-")[0] for order, _ in told.failures][:1] == ["unmask"]
    assert not [said for order, said in told.answers if order.startswith("unmask-1.1")]


def test_without_pinned_identities_keys_of_the_coordinator_pass_as_said(tmp_path: Path) -> None:
    """The limit of identities: none. The client cannot know, so its letters go to the liar; asserted, not hidden."""
    told = lied_to(tmp_path, changed(Shares, foreign))
    assert [said for order, said in told.answers if order.startswith("shares-1.1")]
