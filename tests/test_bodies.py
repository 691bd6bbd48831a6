"""A further body is one file, which this one is, and a row in each table: server, client and wire.

Its round has two phases: every client counts its examples and answers with a reply, then all of them train.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.crashes
import tests.federations
from client.jobs.job import CARRIED_OUT, JobResult
from common.bodies import Body
from common.errors import Reason, Refused, WireError
from common.orders import Order, PollKind, PollReply, Reply, ReplyContent, Session, UpdateState
from common.wire import messages
from common.wire.calls import PollCall
from common.wire.codec import Codec
from common.wire.extensions import EXTENSIONS, Extension
from server.core.bodies import PHASES, PhaseRow
from server.core.effects import Combine, Commit, PhaseClosed, RoundClosed, RoundOpened
from server.core.events import Answered, Left, Started, Tick
from server.core.facts import Traffic
from server.core.open_round import OrderState
from server.core.phases import TRAIN, Phase, RoundPhase, RoundProtocol
from server.storage.journal import Journal
from tests.core_cases import SCHEMAS, Table, rules
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import array_config, digest_of, federate
from tests.test_wire import quick, survives


@dataclass(frozen=True)
class CountExamples(Body):
    """Count the examples of each task."""

    activity = "counting"


@dataclass(frozen=True)
class Counts(ReplyContent):
    """Examples, by task."""

    examples: tuple[tuple[str, int], ...]


def _counted(job: Any, body: CountExamples, replica: Any, state: Any, started: float) -> JobResult:
    counts = tuple((item.task.name, len(item.train)) for item in job.examples.whole)
    return JobResult(Reply(job.order.order_id, (), 0.0, Counts(counts)), {})


def _check_counts(run: Any, state: Any, order: Any, answer: Any) -> None:
    content = answer.content if isinstance(answer, Reply) else None
    if not isinstance(content, Counts) or tuple(task for task, _ in content.examples) != order.tasks:
        raise Refused(Reason.MALFORMED, f"order {order.order_id} is answered by counts of {', '.join(order.tasks)}")


def _decode_counts(data: bytes) -> Counts:
    try:
        return Counts(tuple((str(task), int(count)) for task, count in json.loads(data)))
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"counts: {error}") from None


COUNT = RoundPhase("count", Phase.TRAINING, publishes=False)
ROW = Extension(
    CountExamples,
    Counts,
    Codec("CountExamples", lambda _: b"", lambda _: CountExamples()),
    Codec("Counts", lambda counts: json.dumps(counts.examples).encode(), _decode_counts),
)
BOTH = RoundProtocol((COUNT, TRAIN))


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(PHASES, "count", PhaseRow(COUNT, lambda *_: CountExamples(), _check_counts))
    monkeypatch.setitem(CARRIED_OUT, CountExamples, _counted)
    monkeypatch.setitem(EXTENSIONS, "count", ROW)
    yield


class Counting(Table):
    """A core whose rounds count and train; commits go into a journal."""

    def __init__(self, **changes: object) -> None:
        self.journal = Journal(":memory:")
        super().__init__(rules(protocol=BOTH, **changes))

    def apply(self, event: Any) -> list[Any]:
        effects = super().apply(event)
        for effect in effects:
            if isinstance(effect, Commit):
                self.journal.commit(effect.records)
        return effects

    def restart(self) -> None:
        self.state = self.journal.restore(SCHEMAS, self.settings.round_timeout_seconds)
        self.apply(Started(self.now))
        for name, task in (("a", "sst2"), ("b", "qqp")):
            self.join(name, task)

    def count(self, client: str, task: str) -> list[Any]:
        order = self.order(client)
        assert order is not None
        reply = Reply(order.order_id, (), 1.0, Counts(((task, 100),)))
        return self.apply(Answered(self.now, client, reply))


def counting(**changes: object) -> Counting:
    table = Counting(**changes)
    table.join("a", "sst2")
    table.join("b", "qqp")
    return table


def opened(effects: list[Any]) -> list[str]:
    records = [record for effect in effects if isinstance(effect, Commit) for record in effect.records]
    return [type(r).__name__ for r in records if isinstance(r, PhaseClosed | RoundOpened | RoundClosed)]


def test_the_end_of_a_phase_makes_the_next_orders_in_one_commit_and_the_last_phase_publishes() -> None:
    table = counting()
    assert [table.order(name).order_id for name in "ab"] == ["count-1.1-a", "count-1.1-b"]
    assert table.count("a", "sst2") == []
    assert opened(table.count("b", "qqp")) == ["PhaseClosed", "RoundOpened"]
    assert [table.order(name).order_id for name in "ab"] == ["train-1.1-a", "train-1.1-b"]
    (before,) = table.state.open.earlier
    assert before.orders["count-1.1-a"].content == Counts((("sst2", 100),))
    assert table.state.clients["a"].committed == "count-1.1-a" and not table.of(Combine)
    table.answer("a")
    assert opened(table.answer("b")) == ["RoundClosed", "RoundOpened"]
    assert table.state.completed_rounds == 1 and table.order("a").order_id == "count-2.1-a"


@pytest.mark.parametrize("phase", ["count", "train"])
def test_a_restart_issues_the_orders_of_the_open_phase_again_and_knows_what_was_answered_before(phase: str) -> None:
    table = counting()
    table.count("a", "sst2")
    if phase == "train":
        table.count("b", "qqp")
        table.answer("a")
    before = table.state.open
    table.restart()
    assert table.state.open.earlier == before.earlier
    assert {o.order_id: o.state for o in table.state.open.orders.values()} == {
        f"{phase}-1.1-{name}": OrderState.ISSUED for name in "ab"
    }


def test_the_bytes_that_travelled_are_durable_with_the_end_of_every_phase() -> None:
    table, traffic = counting(), Traffic(5, 7)
    table.count("a", "sst2")
    order = table.order("b")
    assert order is not None
    reply = Reply(order.order_id, (), 1.0, Counts((("qqp", 100),)))
    (commit,) = (e for e in table.apply(Answered(table.now, "b", reply, traffic)) if isinstance(e, Commit))
    assert traffic in commit.records
    table.restart()
    assert table.state.traffic == traffic


def test_an_answer_to_an_earlier_phase_changes_nothing_in_the_next_one() -> None:
    table = counting()
    table.count("a", "sst2")
    table.count("b", "qqp")
    state = table.state
    for examples in (100, 99):
        reply = Reply("count-1.1-a", (), 1.0, Counts((("sst2", examples),)))
        with pytest.raises(Refused, match="is committed; nothing is left to do"):
            table.apply(Answered(table.now, "a", reply))
    assert table.state == state


def test_a_lease_that_ends_in_the_second_phase_lets_the_others_close_the_round() -> None:
    table = counting()
    table.count("a", "sst2")
    table.count("b", "qqp")
    table.answer("a")
    table.now += table.settings.lease_seconds
    effects = table.apply(Tick(table.now, frozenset("a")))
    assert opened(effects)[:1] == ["RoundClosed"] and table.state.completed_rounds == 1


@pytest.mark.parametrize("phase", ["count", "train"])
def test_a_phase_without_its_quorum_at_the_deadline_abandons_the_round(phase: str) -> None:
    table = counting(quorum=1.0)
    table.count("a", "sst2")
    if phase == "train":
        table.count("b", "qqp")
        table.answer("a")
    table.now += table.settings.round_timeout_seconds
    table.apply(Tick(table.now, frozenset("ab")))
    assert table.order("a").order_id == "count-1.2-a" and table.state.completed_rounds == 0
    table.restart()
    assert table.order("a").order_id == "count-1.2-a"


def test_at_its_deadline_a_phase_with_a_quorum_goes_on_with_those_who_answered() -> None:
    table = counting()
    table.count("a", "sst2")
    table.now += table.settings.round_timeout_seconds
    table.apply(Tick(table.now, frozenset("ab")))
    assert table.order("a").order_id == "train-1.1-a" and table.order("b") is None
    table.apply(Left(table.now, "a"))
    assert table.state.attempt == 2


def test_an_answer_that_does_not_fit_is_refused_and_the_same_one_again_changes_nothing() -> None:
    table = counting()
    with pytest.raises(Refused, match="counts of sst2"):
        table.count("a", "qqp")
    table.count("a", "sst2")
    state = table.state
    reply = Reply("count-1.1-a", (), 1.0, Counts((("sst2", 100),)))
    assert table.apply(Answered(table.now, "a", reply)) == [] and table.state == state
    with pytest.raises(Refused, match="first answer stands"):
        table.apply(Answered(table.now, "a", replace(reply, content=Counts((("sst2", 99),)))))


def test_body_and_content_survive_the_wire() -> None:
    order = Order("count-1.1-a", 1, 0, (), 10.0, CountExamples(), ("sst2",))
    reply = messages.POLL_REPLY.decode(
        messages.POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=order))
    )
    assert reply.order == order and reply.order.needed == ()
    session = Session("run", "a", "token")
    answer = Reply(order.order_id, (), 1.0, Counts((("sst2", 7),)))
    call = PollCall(session, order.order_id, answer)
    assert messages.POLL_REQUEST.decode(messages.POLL_REQUEST.encode(call)) == call


ORDER = PollReply(PollKind.ORDER, UpdateState.NONE, order=Order("count-1.1-a", 1, 0, (), 10.0, CountExamples(), ("x",)))
ANSWER = PollCall(
    Session("run", "a", "token"), "count-1.1-a", Reply("count-1.1-a", (), 1.0, Counts((("x", 7), ("y", 9))))
)


@pytest.mark.parametrize(("codec", "value"), [(messages.POLL_REPLY, ORDER), (messages.POLL_REQUEST, ANSWER)])
def test_mutated_messages_with_a_further_body_do_no_harm(codec: Codec[Any], value: Any) -> None:
    whole = codec.encode(value)

    @quick
    @given(st.data())
    def check(data: st.DataObject) -> None:
        raw = bytearray(whole)
        at = data.draw(st.integers(0, len(raw)))
        raw[at : data.draw(st.integers(at, min(at + 8, len(raw))))] = data.draw(st.binary(max_size=8))
        survives(codec, bytes(raw))

    check()


CLIENTS = (("a", ("a0",), "1/2"), ("b", ("b1",), "1/2"), ("c", ("a0", "b1"), "2/2"))


def test_over_grpc_both_phases_come_to_the_model_of_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, build = array_config("federation.min_clients=3"), tests.federations.in_memory
    counted: list[str] = []
    alone = digest_of(asyncio.run(federate(config, tmp_path / "alone", CLIENTS)))

    def with_counting(*parts: Any, **named: Any) -> Any:
        coordinator = build(*parts, **named)
        coordinator.writer.settings = replace(coordinator.settings, protocol=BOTH)
        return coordinator

    def noted(job: Any, *others: Any) -> JobResult:
        counted.append(job.order.order_id)
        return _counted(job, *others)

    monkeypatch.setattr("tests.federations.in_memory", with_counting)
    monkeypatch.setitem(CARRIED_OUT, CountExamples, noted)
    assert digest_of(asyncio.run(federate(config, tmp_path / "grpc", CLIENTS, "grpc"))) == alone
    assert sorted(counted) == [f"count-{number}.1-{name}" for number in (1, 2) for name in "abc"]


def test_a_coordinator_that_dies_after_any_effect_of_both_phases_comes_to_the_model_of_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, restore = array_config(), tests.crashes.restore_run
    alone = digest_of(asyncio.run(federate(config, tmp_path / "alone", CLIENTS)))

    def with_counting(*parts: Any) -> Any:
        federation, settings, *rest = restore(*parts)
        return federation, replace(settings, protocol=BOTH), *rest

    monkeypatch.setattr("tests.crashes.restore_run", with_counting)
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    deaths: list[tuple[int | None, bool]] = [(None, False), (2, False), (3, False), (4, False), (6, False)]
    for number, clients_die in [*deaths, (4, True), (6, True)]:  # clients that die do so in the second phase
        place = tmp_path / f"{number}-{clients_die}"
        place.mkdir()
        digest, effects = asyncio.run(crash_and_recover(config, template, place, cast, number, clients_die))
        assert digest == alone
        if number is None:
            assert effects[:5] == ["Commit", "Wake", "Commit", "Wake", "Fold"]
            assert "count-1.1-a" in cast.executed and "train-1.1-a" in cast.executed
