"""Whatever a client answers to a stage of a masked round is taken or refused, and the others come to their sum."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Refused, WireError
from common.orders import Order, Reply, ReplyContent
from common.secure.letters import LETTER_BYTES
from common.stages import CircleShares, OpenedShares
from server.engine.coordinator import Coordinator
from simulation.codec import CodecCoordinator
from tests.masked_cases import FIVE
from tests.test_masked_coordinator import Lives, folder, same
from tests.wire_sums import stage_answers

names = st.sampled_from(("0", "1", "2", "9", "other"))
members = st.sampled_from((*FIVE, "mallory", ""))
data = st.binary(max_size=40) | st.sampled_from((bytes(32), bytes(33), b"\xff" * 33, bytes(LETTER_BYTES)))


@st.composite
def near(draw: st.DrawFn, content: Any) -> Any:
    """A right answer with one thing changed: a circle, a member or bytes, left out, doubled or another one."""
    (field,) = vars(content)
    return replace(content, **{field: draw(_changed(getattr(content, field)))})


@st.composite
def _changed(draw: st.DrawFn, value: Any) -> Any:
    match value:
        case tuple() if value:
            at = draw(st.integers(0, len(value) - 1))
            how = draw(st.sampled_from(("out", "twice", "inside", "inside", "inside")))
            middle = {"out": (), "twice": (value[at], value[at])}.get(how) or (draw(_changed(value[at])),)
            return (*value[:at], *(() if how == "out" else middle), *value[at + 1 :])
        case str():
            return draw(names if value.isdigit() else members)
        case bytes():
            return draw(data)
        case tuple():
            return draw(st.just(()) | st.just((("ann", bytes(33)),)))
        case _:
            field = draw(st.sampled_from(sorted(vars(value))))
            return replace(value, **{field: draw(_changed(vars(value)[field]))})


class Hostile(Lives):
    """A run in which ann says something else in one stage of the first attempt."""

    def __init__(self, place: Path, stage: str, said: Callable[[Any], ReplyContent]) -> None:
        super().__init__(place, masks=True)
        self.stage, self.said = stage, said

    async def answer(self, coordinator: Coordinator, name: str, order: Order) -> None:
        """Who cannot go on, or is refused, gives its order back."""
        try:
            if name == "ann" and order.order_id == f"{self.stage}-1.1-ann":
                right = self.members[name].answer(order)
                assert isinstance(right, Reply)
                said = replace(right, content=self.said(right.content))
                await CodecCoordinator(coordinator).poll(self.sessions[name], "", said)
            else:
                await super().answer(coordinator, name, order)
        except (Refused, WireError) as refusal:
            await coordinator.report_failure(self.sessions[name], order.order_id, str(refusal)[:80])

    def round(self) -> Coordinator:
        """Until a version is published."""
        return self.run(lambda coordinator: coordinator.state.completed_rounds == 1)


@pytest.mark.parametrize("stage", ["keys", "shares", "unmask"])
@given(said=st.data())
@settings(max_examples=20, deadline=None)
def test_any_answer_to_a_stage_is_taken_or_refused_and_the_round_comes_to_a_sum(
    stage: str, said: st.DataObject
) -> None:
    """Letters are for their readers alone: where one does not open they go, and the round starts again."""
    with TemporaryDirectory() as place:
        run = Hostile(Path(place), stage, lambda content: said.draw(near(content) | stage_answers))
        assert run.round().state.completed_rounds == 1
        attempts = {order_id.split("-")[1] for order_id in run.answers if order_id.startswith("unmask-")}
        assert attempts == {"1.1"} or stage == "shares"


def other_shares(content: OpenedShares) -> OpenedShares:
    """Shares of zeros."""
    parts = tuple(
        CircleShares(part.circle, tuple((name, bytes(33)) for name, _ in part.seeds), part.mask_keys)
        for part in content.circles
    )
    return OpenedShares(parts)


def test_wrong_shares_are_left_out_and_their_owner_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, lied = (
        Lives(folder(tmp_path, "whole"), masks=True),
        Hostile(folder(tmp_path, "lied"), "unmask", other_shares),
    )
    with caplog.at_level(logging.WARNING, "fedmtl.server"):
        found = lied.round()
    named = [record.getMessage() for record in caplog.records if "wrong and left out" in record.getMessage()]
    assert named == [f"run|1.1|{circle}: the shares that ann opened are wrong and left out" for circle in "012"]
    assert same(found.vectors, whole.run().vectors)
