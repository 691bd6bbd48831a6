"""Records of the core as rows of the journal's tables, and rows as what they were."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from operator import attrgetter
from typing import Any, assert_never

from common.bodies import ScopeVersion
from common.capabilities import Capabilities, Capacity
from common.inputs.header import Header
from common.orders import DualSums, ReplyContent, TaskResult
from common.privacy.accounting import Mechanism
from common.standardising import InputScale
from common.statistics import TaskStatistics
from common.targets import TargetUnits
from common.wire.extensions import decode_content, encode_content
from server.core.conduct import Conduct, Norms
from server.core.dual_facts import Block, Certificate, Dual, HeadRows, Relationship
from server.core.effects import (
    ClientChanged,
    Guarded,
    HeaderFixed,
    PhaseClosed,
    Record,
    RoundClosed,
    RoundOpened,
    RunEnded,
    ScaleFixed,
    TaskCosines,
    UnitsFixed,
)
from server.core.facts import RunBegan, RunConfiguration, RunFacts, Traffic
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.phases import Phase
from server.core.privacy_facts import Charges, Ledger
from server.core.state import ClientRecord, Related, Tally
from server.core.sum_facts import RoundSums
from server.storage.tables import Row

_HEADER, _UNITS, _SCALE = "header/", "units/", "scale/"
"""Begin the keys of the run's facts that hold a task's header, the units of its head, and the scale of its rows."""
_SUMS = "sums/"
"""Begins the keys of what the sums of a round said: `sums/<kind>-<number>.<attempt>`."""
_LEFT_FOR_GOOD = 2
"""In the column that says whether a client has left."""
_LEDGER = "ledger"
"""The key of what was published under noise: no round's, since going back to an earlier version takes nothing back."""
_NORMS = "norms/"
"""Begins the keys of how long the updates of published rounds were: `norms/<number>`."""
_CONDUCT = "conduct"
"""The key of what clients were refused for, and who is in quarantine: no round's either."""


def rows_of(record: Record) -> Iterator[Row]:
    """The rows that a record replaces or adds."""
    match record:
        case ClientChanged(m):
            lists = json_of(m.tasks), json_of(m.examples), json_of(m.capabilities)
            yield (
                "clients",
                (m.client_id, *lists, m.committed, _LEFT_FOR_GOOD if m.withdrawn else int(m.left), json_of(m.tally)),
            )
        case RoundOpened(r):
            yield from _round_rows(r, closed=0, published=None, totals={})
        case PhaseClosed(r):
            yield from _round_rows(r, closed=1, published=None, totals={})
        case RoundClosed(r, totals, published, _):
            yield from _round_rows(r, closed=1, published=published, totals=totals)
            if r.sums is not None:
                yield "run", (f"{_SUMS}{r.phase.name}-{r.number}.{r.attempt}", json_of(r.sums))
        case RunBegan():
            yield "run", ("began", json_of(record))
        case RunConfiguration():
            yield "run", ("settings", json_of(record))
        case Traffic():
            yield "run", ("traffic", json_of(record))
        case RunEnded(phase, reason):
            yield "run", ("ended", phase.value)
            yield "run", ("reason", reason)
        case HeaderFixed(task, header):
            yield "run", (f"{_HEADER}{task}", json_of(header))
        case UnitsFixed(task, units):
            yield "run", (f"{_UNITS}{task}", json_of(units))
        case ScaleFixed(task, scale):
            yield "run", (f"{_SCALE}{task}", json_of(scale))
        case Ledger():
            yield "run", (_LEDGER, json_of(record))
        case Norms(number, lengths):
            yield "run", (f"{_NORMS}{number}", json_of(lengths))
        case Conduct():
            yield "run", (_CONDUCT, json_of(record))
        case TaskCosines(number, scope, tasks, values):
            yield "task_cosines", (number, scope, json_of(tasks), json_of(values))
        case Related(number, template, mu, state, note):
            yield "relations", (number, template, json_of(mu), state, note)
        case Dual(number, relationship, blocks, _):
            yield "duals", (number, json_of(relationship), json_of(blocks))
        case Certificate(number, primal, value, silent):
            yield "certificates", (number, float(primal), float(value), silent)
        case Guarded(number, task, received, isolated, behind, fell_back, final, gap):
            scores = _real(received), _real(isolated)
            yield "guarded", (number, task, int(final), *scores, behind, int(fell_back), float(gap))
        case _:
            assert_never(record)


def sums_of(rows: Mapping[str, str]) -> dict[tuple[str, int, int], RoundSums]:
    """What the sums of rounds said, by kind, number and attempt, out of the rows of `run` by their keys."""
    found = {_round_in(key): json.loads(value) for key, value in rows.items() if key.startswith(_SUMS)}
    return {
        key: RoundSums(tuple(_result(**item) for item in said["results"]), said["weights"])
        for key, said in found.items()
    }


def later_keys(keys: Collection[str], number: int) -> list[str]:
    """Those among the keys of `run` that are of rounds after this one."""
    found = {key: _round_in(key)[1] for key in keys if key.startswith(_SUMS)}
    found |= {key: int(key.removeprefix(_NORMS)) for key in keys if key.startswith(_NORMS)}
    return [key for key, of in found.items() if of > number]


def _round_in(key: str) -> tuple[str, int, int]:
    kind, _, of = key.removeprefix(_SUMS).rpartition("-")
    number, attempt = of.split(".")
    return kind, int(number), int(attempt)


def dual_from(number: int, relationship: str, blocks: str, certificate: Certificate | None) -> Dual:
    """A row of `duals`, with the newest of `certificates`."""
    said = json.loads(relationship)
    heads = {scope: HeadRows(**found) for scope, found in said.pop("heads").items()}
    held = {
        scope: {client: Block(**block) for client, block in found.items()}
        for scope, found in json.loads(blocks).items()
    }
    return Dual(number, Relationship(heads, **said), held, certificate)


def facts_of(rows: Mapping[str, str]) -> RunFacts:
    """The rows of `run`, by their keys."""
    headers, units, scales = (
        {key.removeprefix(start): json.loads(rows[key]) for key in sorted(rows) if key.startswith(start)}
        for start in (_HEADER, _UNITS, _SCALE)
    )
    return RunFacts(
        RunBegan(**json.loads(rows["began"])) if "began" in rows else None,
        RunConfiguration(**json.loads(rows.get("settings", "{}"))),
        Traffic(**json.loads(rows.get("traffic", "{}"))),
        Phase(rows.get("ended", Phase.WAITING.value)),
        rows.get("reason", ""),
        {
            task: Header(said["count"], said["digest"], tuple(said["names"]), tuple(said["shape"]))
            for task, said in headers.items()
        },
        {
            task: TargetUnits(said["mean"], said["scale"], said["weights"] and tuple(said["weights"]))
            for task, said in units.items()
        },
        {task: InputScale(tuple(said["means"]), tuple(said["scales"])) for task, said in scales.items()},
        _ledger_of(json.loads(rows[_LEDGER])) if _LEDGER in rows else None,
        tuple(sorted(_norms_in(rows), key=attrgetter("round"))),
        Conduct(**json.loads(rows.get(_CONDUCT, "{}"))),
    )


def _norms_in(rows: Mapping[str, str]) -> Iterator[Norms]:
    for key, value in rows.items():
        if key.startswith(_NORMS):
            yield Norms(int(key.removeprefix(_NORMS)), json.loads(value))


def _ledger_of(said: dict[str, Any]) -> Ledger:
    earlier = tuple(Charges(Mechanism(**found["mechanism"]), found["releases"]) for found in said.pop("earlier"))
    return Ledger(Mechanism(**said.pop("mechanism")), earlier=earlier, open=tuple(said.pop("open")), **said)


def _round_rows(r: OpenRound, closed: int, published: int | None, totals: Mapping[str, int]) -> Iterator[Row]:
    yield (
        "rounds",
        (r.phase.name, r.number, r.attempt, r.version, closed, published, json_of(totals), json_of(r.variates)),
    )
    for o in r.orders.values():
        scopes = json_of([[s.scope, s.version, *(["untrained"] if s.scope in o.untrained else [])] for s in o.scopes])
        brought = o.digest, json_of(o.weights), json_of(o.results)
        yield (
            "orders",
            (
                *(o.order_id, r.phase.name, r.number, r.attempt, o.client_id, json_of(o.tasks), scopes),
                *(o.state.value, *brought, o.nbytes, float(o.seconds), o.note, o.codec, _content_text(o.content)),
            ),
        )


def _real(value: float | None) -> float | None:
    """A value as a column of floats gives it back."""
    return None if value is None else float(value)


def client_from(
    client_id: str, tasks: str, examples: str, capabilities: str, committed: str, left: int, tally: str
) -> ClientRecord:
    """A row of `clients`: nobody is present after a restart."""
    said = json.loads(capabilities)
    capacity = said["capacity"]
    return ClientRecord(
        client_id,
        tuple(json.loads(tasks)),
        json.loads(examples),
        Capabilities(tuple(said["codecs"]), said["data"], Capacity(**capacity | {"lacks": tuple(capacity["lacks"])})),
        token="",
        last_seen=0.0,
        present=False,
        left=bool(left),
        withdrawn=left == _LEFT_FOR_GOOD,
        committed=committed,
        tally=Tally(**json.loads(tally)),
    )


def order_of(
    name: str,
    client: str,
    tasks: str,
    scopes: str,
    state: str,
    digest: str,
    weights: str,
    results: str,
    nbytes: int,
    seconds: float,
    note: str,
    codec: str,
    content: str,
) -> OpenOrder:
    """A row of `orders`, without the columns that say which round it is of."""
    return OpenOrder(
        name,
        client,
        tuple(json.loads(tasks)),
        tuple(ScopeVersion(scope, version) for scope, version, *_ in json.loads(scopes)),
        OrderState(state),
        digest,
        tuple(_result(**item) for item in json.loads(results)),
        json.loads(weights),
        nbytes,
        seconds,
        note,
        codec,
        frozenset(scope for scope, _, *marks in json.loads(scopes) if marks),
        _content_of(content),
    )


def _content_text(content: ReplyContent | None) -> str:
    if content is None:
        return ""
    name, data = encode_content(content)
    return json_of([name, data.hex()])


def _content_of(text: str) -> ReplyContent | None:
    if not text:
        return None
    name, data = json.loads(text)
    return decode_content(name, bytes.fromhex(data))


def _result(
    task: str,
    examples: int,
    train_loss: float | None,
    validation: dict[str, Any] | None,
    personal: dict[str, Any] | None,
    dual: dict[str, Any] | None,
) -> TaskResult:
    sums = None if dual is None else DualSums(**dual)
    return TaskResult(task, examples, train_loss, _statistics(validation), _statistics(personal), sums)


def _statistics(found: dict[str, Any] | None) -> TaskStatistics | None:
    if found is None:
        return None
    means = tuple((name, value, count) for name, value, count in found["means"])
    return TaskStatistics(
        found["examples"],
        found["loss_sum"],
        found["right"],
        tuple(found["labels"]),
        tuple(found["moments"]),
        means,
        tuple((name, tuple(values)) for name, values in found["sums"]),
        found.get("noised", False),  # journals of older versions have no such scores
    )


def json_of(value: object) -> str:
    """A value of a column that holds JSON."""
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=vars)
"""Dataclasses are objects with their fields."""
