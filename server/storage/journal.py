"""The journal: what happened, in one SQLite file, one transaction per step that must not be lost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from common.errors import RunFolderError
from common.metrics import TaskStatistics
from common.orders import OrderKind, ScopeVersion, TaskResult
from common.parameters.circles import BySlot
from server.core.closing import mean_losses, trends
from server.core.effects import (
    Guarded,
    MemberRecord,
    Record,
    Related,
    RoundClosed,
    RoundOpened,
    RunEnded,
    TaskCosines,
    UnitsFixed,
)
from server.core.guard import standing
from server.core.state import FederationState, Member, OpenOrder, OpenRound, OrderState, Phase, Tally
from server.core.units import FACT, units_in

KEPT_VERSIONS = 2
"""Model versions that are kept: the published one and the one before it."""

_TABLES = """
CREATE TABLE IF NOT EXISTS models (version INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    client_id TEXT PRIMARY KEY, tasks TEXT NOT NULL, examples TEXT NOT NULL, capabilities TEXT NOT NULL,
    settled TEXT NOT NULL, left_run INTEGER NOT NULL, tally TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (
    kind TEXT NOT NULL, number INTEGER NOT NULL, attempt INTEGER NOT NULL, version INTEGER NOT NULL,
    closed INTEGER NOT NULL, published INTEGER, totals TEXT NOT NULL,
    PRIMARY KEY (kind, number, attempt));
CREATE TABLE IF NOT EXISTS orders (
    order_id TEXT PRIMARY KEY, kind TEXT NOT NULL, number INTEGER NOT NULL, attempt INTEGER NOT NULL,
    client_id TEXT NOT NULL, tasks TEXT NOT NULL, scopes TEXT NOT NULL, state TEXT NOT NULL, digest TEXT NOT NULL,
    weights TEXT NOT NULL, results TEXT NOT NULL, nbytes INTEGER NOT NULL, seconds REAL NOT NULL, note TEXT NOT NULL,
    encoding TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS task_cosines (
    number INTEGER NOT NULL, scope TEXT NOT NULL, tasks TEXT NOT NULL, cosines TEXT NOT NULL,
    PRIMARY KEY (number, scope));
CREATE TABLE IF NOT EXISTS relations (
    number INTEGER NOT NULL, slot TEXT NOT NULL, mu TEXT NOT NULL, state TEXT NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (number, slot));
CREATE TABLE IF NOT EXISTS guarded (
    number INTEGER NOT NULL, task TEXT NOT NULL, received REAL, isolated REAL, behind INTEGER NOT NULL,
    fallen INTEGER NOT NULL, final INTEGER NOT NULL, gap REAL NOT NULL, PRIMARY KEY (task, number, final));
"""

# What journals of earlier versions lack; all their updates were dense.
_ORDER_ENCODING = "ALTER TABLE orders ADD COLUMN encoding TEXT NOT NULL DEFAULT 'dense-float32'"


class Journal:
    """Commits records durably and tells after a restart where the run stood. `:memory:` is its in-memory twin."""

    def __init__(self, path: Path | str) -> None:
        self._model: tuple[int, bytes] | None = None
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
            if "encoding" not in {column[1] for column in self._db.execute("PRAGMA table_info(orders)")}:
                self._db.execute(_ORDER_ENCODING)
        except sqlite3.DatabaseError as error:
            raise RunFolderError(f"{path}: not a journal ({error}); start a new run") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def facts(self) -> dict[str, str]:
        """The run's own facts (id, name, seed, ...)."""
        return dict(self._db.execute("SELECT key, value FROM run"))

    def commit(self, records: Iterable[Record], facts: Mapping[str, str] | None = None) -> None:
        """Write records and facts in one durable transaction.

        Raises:
            RunFolderError: they cannot be written, on a full disk for instance; nothing of them is.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            latest: dict[str, MemberRecord] = {}  # a commit that closes and opens names most members twice
            for record in records:
                if isinstance(record, MemberRecord):
                    latest[record.member.client_id] = record
                else:
                    self._write(record)
            for member in latest.values():
                self._write(member)
            self._db.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", list((facts or {}).items()))
            if self._model is not None:
                self._db.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", self._model)
                self._db.execute("DELETE FROM models WHERE version <= ?", (self._model[0] - KEPT_VERSIONS,))
            self._db.execute("COMMIT")
            self._model = None
        except sqlite3.Error as error:
            raise RunFolderError(
                f"the journal cannot be written ({error}); free space, then go on with --resume"
            ) from None
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def enclose(self, version: int, data: bytes) -> None:
        """Let the next commit hold a small model version too."""
        self._model = (version, data)

    def model(self, version: int) -> bytes | None:
        """A model version, if the journal holds it."""
        row = self._db.execute("SELECT data FROM models WHERE version = ?", (version,)).fetchone()
        return None if row is None else row[0]

    def _write(self, record: Record) -> None:
        match record:
            case MemberRecord(m):
                row = (
                    m.client_id,
                    _json(m.tasks),
                    _json(m.examples),
                    _json(m.capabilities),
                    m.settled,
                    m.left,
                    _json(asdict(m.tally)),
                )
                self._db.execute("INSERT OR REPLACE INTO members VALUES (?,?,?,?,?,?,?)", row)
            case RoundOpened(r):
                self._write_round(r, closed=False, published=None, totals={})
            case RoundClosed(r, totals, published, _):
                self._write_round(r, closed=True, published=published, totals=totals)
            case RunEnded(phase, reason):
                ended = {"ended": phase.value, "reason": reason}
                self._db.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", list(ended.items()))
            case UnitsFixed(task, units):
                self._db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (f"{FACT}{task}", _json(asdict(units))))
            case TaskCosines(number, scope, tasks, values):
                cells = (number, scope, _json(tasks), _json(values))
                self._db.execute("INSERT OR REPLACE INTO task_cosines VALUES (?,?,?,?)", cells)
            case Related(number, slot, mu, state, note):
                entry = (number, slot, _json(mu), state, note)
                self._db.execute("INSERT OR REPLACE INTO relations VALUES (?,?,?,?,?)", entry)
            case Guarded():
                self._db.execute("INSERT OR REPLACE INTO guarded VALUES (?,?,?,?,?,?,?,?)", astuple(record))

    def _write_round(self, r: OpenRound, closed: bool, published: int | None, totals: Mapping[str, int]) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO rounds VALUES (?,?,?,?,?,?,?)",
            (r.kind.value, r.number, r.attempt, r.version, closed, published, _json(totals)),
        )
        rows = [
            (
                *(o.order_id, r.kind.value, r.number, r.attempt, o.client_id, _json(o.tasks)),
                _json([[s.scope, s.version, *(["fixed"] if s.scope in o.fixed else [])] for s in o.scopes]),
                *(o.state.value, o.digest, _json(o.weights), _json([asdict(result) for result in o.results])),
                *(o.nbytes, o.seconds, o.note, o.encoding),
            )
            for o in r.orders.values()
        ]
        self._db.executemany("INSERT OR REPLACE INTO orders VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", rows)

    def restore(self, scopes: Iterable[str], round_timeout_seconds: float) -> FederationState:
        """The state as of the last commit; an open round's orders are all outstanding again."""
        versions = BySlot(dict.fromkeys(scopes, 0))
        completed = 0
        for published, totals in self._db.execute(
            "SELECT published, totals FROM rounds WHERE published IS NOT NULL ORDER BY number"
        ):
            versions.update(dict.fromkeys(json.loads(totals), published))
            completed = published
        losses = self._losses()
        open_, attempt = self._open_round(completed, round_timeout_seconds)
        facts = self.facts()
        phase = Phase(facts.get("ended", Phase.WAITING.value))
        if open_ is not None:
            phase = Phase.TRAINING if open_.kind is OrderKind.TRAIN else Phase.EVALUATING
        members = {member.client_id: member for member in self._members()}
        stand = standing(self.guarded())
        return FederationState(
            *(versions, phase, completed, attempt),
            members=members,
            open=open_,
            failure=facts.get("reason", ""),
            losses=losses[-1],
            trends=tuple(trends(before, now) for before, now in pairwise(losses)),
            behind=stand.behind,
            gaps=stand.gaps,
            fallen=stand.fallen,
            units=units_in(facts),
        )

    def _losses(self) -> list[Mapping[str, float]]:
        """The tasks' training losses of every published round, with none before the first."""
        rows = self._db.execute(
            "SELECT number, results FROM orders o JOIN rounds r USING (kind, number, attempt) "
            "WHERE r.published IS NOT NULL AND o.state = ? ORDER BY number, order_id",
            (OrderState.ACCEPTED.value,),
        )
        found: list[Mapping[str, float]] = [{}]
        for _, orders in groupby(rows, key=itemgetter(0)):
            items = (item for _, results in orders for item in json.loads(results))
            found.append(mean_losses(TaskResult(i["task"], i["examples"], i["train_loss"], None) for i in items))
        return found

    def rounds(self) -> list[OpenRound]:
        """Every closed round with its orders, in the order in which they closed."""
        rows = self._db.execute("SELECT kind, number, attempt, version FROM rounds WHERE closed = 1 ORDER BY rowid")
        return [self._round(OrderKind(k), number, attempt, v, 0.0) for k, number, attempt, v in rows.fetchall()]

    def cosines(self) -> list[TaskCosines]:
        """How the tasks agreed, round by round."""
        rows = self._db.execute("SELECT number, scope, tasks, cosines FROM task_cosines ORDER BY number, scope")
        return [
            TaskCosines(number, scope, tuple(json.loads(tasks)), tuple(tuple(row) for row in json.loads(values)))
            for number, scope, tasks, values in rows
        ]

    def relations(self) -> list[Related]:
        """What relations did, round by round."""
        rows = self._db.execute("SELECT number, slot, mu, state, note FROM relations ORDER BY number, slot")
        return [Related(number, slot, json.loads(mu), state, note) for number, slot, mu, state, note in rows]

    def guarded(self) -> list[Guarded]:
        """How tasks fared beside their isolated models, round by round."""
        rows = self._db.execute(
            "SELECT number, task, received, isolated, behind, fallen, final, gap FROM guarded "
            "ORDER BY number, final, task"
        )
        return [
            Guarded(n, task, a, b, streak, bool(fell), bool(end), g) for n, task, a, b, streak, fell, end, g in rows
        ]

    def members(self) -> list[Member]:
        """Every client that ever took part, by id."""
        return list(self._members())

    def _open_round(self, completed: int, deadline: float) -> tuple[OpenRound | None, int]:
        row = self._db.execute("SELECT kind, number, attempt, version FROM rounds WHERE closed = 0").fetchone()
        if row is not None:
            kind, number, attempt, version = row
            open_ = self._round(OrderKind(kind), number, attempt, version, deadline)
            fresh = {
                name: OpenOrder(name, o.client_id, o.tasks, o.scopes, encoding=o.encoding, fixed=o.fixed)
                for name, o in open_.orders.items()
            }
            return OpenRound(number, attempt, open_.kind, version, deadline, fresh), attempt
        abandoned = "SELECT max(attempt) FROM rounds WHERE kind = 'train' AND number = ? AND published IS NULL"
        (attempt,) = self._db.execute(abandoned, (completed + 1,)).fetchone()
        return None, (attempt or 0) + 1

    def _round(self, kind: OrderKind, number: int, attempt: int, version: int, deadline: float) -> OpenRound:
        rows = self._db.execute(
            "SELECT order_id, client_id, tasks, scopes, state, digest, weights, results, nbytes, seconds, note, "
            "encoding FROM orders WHERE kind = ? AND number = ? AND attempt = ? ORDER BY order_id",
            (kind.value, number, attempt),
        )
        return OpenRound(number, attempt, kind, version, deadline, {row[0]: _order(*row) for row in rows})

    def _members(self) -> Iterable[Member]:
        query = (
            "SELECT client_id, tasks, examples, capabilities, settled, left_run, tally FROM members ORDER BY client_id"
        )
        for client_id, tasks, examples, capabilities, settled, left, tally in self._db.execute(query):
            counts = Tally(**json.loads(tally))
            yield Member(
                client_id,
                tuple(json.loads(tasks)),
                json.loads(examples),
                tuple(json.loads(capabilities)),
                token="",
                last_seen=0.0,
                present=False,
                left=bool(left),
                settled=settled,
                tally=counts,
            )


def _order(
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
    encoding: str,
) -> OpenOrder:
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
        encoding,
        frozenset(scope for scope, _, *marks in json.loads(scopes) if marks),
    )


def _result(
    task: str,
    examples: int,
    train_loss: float | None,
    validation: dict[str, Any] | None,
    personal: dict[str, Any] | None = None,  # journals of earlier versions lack it
) -> TaskResult:
    return TaskResult(task, examples, train_loss, _statistics(validation), _statistics(personal))


def _statistics(found: dict[str, Any] | None) -> TaskStatistics | None:
    if found is None:
        return None
    means = tuple((name, value, count) for name, value, count in found["means"])
    return TaskStatistics(
        *(found["examples"], found["loss_sum"], found["right"]),
        *(tuple(found["labels"]), tuple(found["moments"]), means),
    )


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
