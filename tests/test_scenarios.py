"""Transcripts of the core: what happens, and what the coordinator does about it, in text for people.

Every file in `tests/scenarios` is a story. A line at the margin is an event, and the indented lines below it are the
effects of `step` in their order, then where the run stands, if that is new. After a change of the core
`pytest tests/test_scenarios.py --rewrite` writes them anew; read the difference.

| event | what happens |
| --- | --- |
| `run KEY=VALUE ...` | it starts; `margin`, `rounds`: the guard's; `best`, `every`: what is kept; `added`: a new task |
| `join CLIENT TASK ...` | a client joins, `examples=N` of each task |
| `poll CLIENT [ORDER]` | a client that holds the answer to ORDER polls |
| `answer CLIENT` | it answers its order; `right=N`: with N of 10 rows right, `alone=N`: by its isolated model |
| `repeat CLIENT` | it sends its last answer again |
| `fail CLIENT`, `leave CLIENT`, `drain` | it gives its order back, it leaves, the operator stops the coordinator |
| `wait SECONDS CLIENT ...` | the clock goes on; these clients have a call open |
| `restart KEY=VALUE ...` | the coordinator is killed and comes back with what was committed |
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import Refused
from common.orders import Reply, UpdateHeader
from common.statistics import TaskStatistics
from common.tasks import KNOWN_TASKS
from server.core.answers import answer_poll
from server.core.best import recalled
from server.core.effects import (
    ClientChanged,
    Combine,
    Commit,
    Effect,
    Fold,
    Guarded,
    InstallVersion,
    Notice,
    Record,
    RoundClosed,
    RoundOpened,
    RunEnded,
    StoreVersion,
)
from server.core.events import Answered, DrainRequested, Event, Left, OrderFailed, Started, Tick
from server.core.facts import Keep, Traffic
from server.core.open_round import OpenRound
from server.core.state import Guard
from server.storage.journal import Journal
from tests.core_cases import RULES, SCHEMAS, Table, rules

STORIES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


class Story:
    """A core whose commits go into a journal, driven by lines of text."""

    def __init__(self) -> None:
        self.journal = Journal(":memory:")
        self.table = Table()
        self.sent: dict[str, UpdateHeader | Reply] = {}
        self.stood = ""

    def tell(self, line: str) -> list[str]:
        """What an event leads to, in lines."""
        word, *rest = line.split()
        named = dict(part.split("=", 1) for part in rest if "=" in part)
        try:
            effects = list(getattr(self, word)(*(part for part in rest if "=" not in part), **named))
        except Refused as refusal:
            return [f"refused as {refusal.reason.value}: {refusal.message}"]
        before, self.stood = self.stood, self.standing()
        return [*effects, *([self.stood] if self.stood != before else [])]

    def standing(self) -> str:
        """Where the run stands."""
        state = self.table.state
        versions = ", ".join(f"{scope} {version}" for scope, version in sorted(state.versions.items()))
        return f"= {state.phase.value} after {state.completed_rounds} rounds; versions: {versions}"

    def apply(self, event: Event) -> Iterator[str]:
        """Apply an event, and commit what the core wants committed."""
        return self.shown(self.table.apply(event))

    def shown(self, effects: Sequence[Effect]) -> Iterator[str]:
        """The effects of a step, a line or more for each."""
        for effect in effects:
            match effect:
                case Notice(text, warning):
                    yield f"{'warn' if warning else 'tell'}: {text}"
                case Fold(order, weights):
                    yield f"fold {order}: {counts(weights)}"
                case Combine(version, totals):
                    yield f"combine version {version}: {counts(totals)}"
                case StoreVersion(version, kept):
                    stay = ", ".join(map(str, sorted(kept)))
                    yield f"store version {version}" + (f"; kept: {stay}" if stay else "")
                case InstallVersion(version):
                    yield f"install version {version}"
                case Commit(records):
                    self.journal.commit(records)
                    yield "commit"
                    yield from (f"  {line}" for record in records if (line := recorded(record)))
                case _:
                    yield type(effect).__name__

    def run(self, **settings: str) -> Iterator[str]:
        """See the table above."""
        guard = Guard(float(settings.pop("margin")), int(settings.pop("rounds"))) if "margin" in settings else None
        keep = Keep(settings.pop("best", ""), int(settings.pop("every", "0")) or None)
        added = [KNOWN_TASKS["mrpc"]] if settings.pop("added", "") else []
        schemas = SCHEMAS | {f"task/{task.name}": ("c" * 64, 40) for task in added}
        numbers = {key: float(value) if "." in value else int(value) for key, value in settings.items()}
        self.table = Table(rules(guard=guard, keep=keep, tasks=(*RULES.tasks, *added), schemas=schemas, **numbers))
        return iter(())

    def restart(self, **settings: str) -> Iterator[str]:
        """See the table above."""
        now, scopes = self.table.now, self.table.settings
        if settings:
            self.run(**settings)
            scopes = self.table.settings
        self.table.now = now
        state = self.journal.restore(scopes.schemas, scopes.round_timeout_seconds)
        scored = recalled(self.table.settings, state.fallback_tasks, self.journal.scored_rounds())
        self.table.state = replace(state, scored=scored)
        return self.apply(Started(now))

    def join(self, client: str, *tasks: str, examples: str = "100") -> Iterator[str]:
        """See the table above."""
        return self.shown(self.table.join(client, *tasks, examples=int(examples)))

    def poll(self, client: str, pending: str = "") -> Iterator[str]:
        """See the table above."""
        table = self.table
        reply = answer_poll(table.settings, table.state, table.state.clients[client], pending, table.now)
        order = reply.order
        if order is not None:
            scopes = ", ".join(f"{scope.scope} {scope.version}" for scope in order.scopes)
            yield f"order {order.order_id} to {type(order.body).__name__.lower()} {scopes}"
        else:
            yield reply.kind.value
        if pending:
            yield f"{pending} is {reply.update_state.value}"

    def answer(self, client: str, examples: str = "100", right: str = "", alone: str = "") -> Iterator[str]:
        """See the table above."""
        answer: UpdateHeader | Reply = self.table.header(client, int(examples))
        if right:
            answer = replace(answer, results=tuple(replace(r, validation=rightly(int(right))) for r in answer.results))
        if alone:
            results = tuple(replace(result, personal=rightly(int(alone))) for result in answer.results)
            answer = replace(answer, results=results)
        self.sent[client] = answer
        return self.repeat(client)

    def repeat(self, client: str) -> Iterator[str]:
        """See the table above."""
        return self.apply(Answered(self.table.now, client, self.sent[client]))

    def fail(self, client: str) -> Iterator[str]:
        """See the table above."""
        order = self.table.order(client)
        assert order is not None
        return self.apply(OrderFailed(self.table.now, client, order.order_id, "no memory"))

    def leave(self, client: str) -> Iterator[str]:
        """See the table above."""
        return self.apply(Left(self.table.now, client))

    def drain(self) -> Iterator[str]:
        """See the table above."""
        return self.apply(DrainRequested(self.table.now))

    def wait(self, seconds: str, *connected: str) -> Iterator[str]:
        """See the table above."""
        self.table.now += float(seconds)
        return self.apply(Tick(self.table.now, frozenset(connected)))


def counts(numbers: object) -> str:
    """Numbers by name."""
    assert isinstance(numbers, dict)
    return ", ".join(f"{name} {number}" for name, number in numbers.items()) or "nothing"


def rightly(right: int) -> TaskStatistics:
    """Scores of ten rows, five of each label, of which so many were predicted rightly."""
    first = min(right, 5)
    other = right - first
    return TaskStatistics(10, 5.0, right, (first, 5, first + 5 - other, other, 5, other + 5 - first))


def recorded(record: Record) -> str:
    """A record in a line; those of clients stand in the records of rounds already."""
    match record:
        case RoundOpened(round_):
            return f"opened {named(round_)}, until {round_.deadline:g}: {', '.join(round_.orders)}"
        case RoundClosed(round_, totals, published):
            what = f"published as version {published}: {counts(totals)}" if published else "nothing published"
            states = ", ".join(f"{order.client_id} {order.state.value}" for order in round_.orders.values())
            return f"closed {named(round_)} ({states}), {what}"
        case RunEnded(phase, reason):
            return f"ended: {phase.value} {reason}".rstrip()
        case Guarded():
            falls = ", falls back" if record.fell_back else ""
            return f"guard: {record.task} {record.received} received, {record.isolated} alone{falls}"
        case ClientChanged() | Traffic():
            return ""
        case _:
            return type(record).__name__


def named(round_: OpenRound) -> str:
    """A round in a few words."""
    return f"{round_.phase.name} {round_.number}.{round_.attempt}"


def transcript(text: str) -> str:
    """A story told again: its events, and what they lead to today."""
    story, lines = Story(), []
    for line in text.splitlines():
        if line.startswith(" "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"    {effect}" for effect in story.tell(line)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_core_does_what_its_transcripts_say(path: Path, request: pytest.FixtureRequest) -> None:
    written = path.read_text(encoding="utf-8")
    told = transcript(written)
    if request.config.getoption("--rewrite"):
        path.write_text(told, encoding="utf-8")
    else:
        assert told == written


def test_a_transcript_that_says_something_else_is_noticed() -> None:
    text = STORIES[0].read_text(encoding="utf-8")
    assert transcript(text.replace("commit", "forget", 1)) == transcript(text)
