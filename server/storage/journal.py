"""The journal: what happened, in one SQLite file, one transaction per step that must not be lost."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import chain, groupby, pairwise
from operator import itemgetter
from pathlib import Path

from common.errors import RunFolderError
from common.orders import TaskResult
from common.parameters.scope import ByTemplate
from server.core.bodies import PHASES
from server.core.closing import mean_losses, trends
from server.core.conduct import NOT_MEASURED
from server.core.dual_facts import Certificate, Dual
from server.core.effects import ClientChanged, Guarded, Record, TaskCosines
from server.core.facts import RunFacts
from server.core.guard import standing
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.phases import EVALUATE, RoundPhase
from server.core.state import ClientRecord, FederationState, Related
from server.core.sum_facts import RoundSums
from server.storage.files import unwritable
from server.storage.flushing import Flusher
from server.storage.log import Entry, LogWriter, write_log
from server.storage.mending import log_of, mend, snapshot, sound, write_out
from server.storage.rows import client_from, dual_from, facts_of, json_of, later_keys, order_of, rows_of, sums_of
from server.storage.tables import TABLES, Row, create, forget_after, position, put, text_of
from server.storage.versions import KEPT_VERSIONS

log = logging.getLogger("fedmtl.server")

_MEMORY = ":memory:"


class Journal:
    """Commits records durably and tells after a restart where the run stood. `:memory:` is its in-memory twin.

    Every commit goes into the tables, durably, and then as a line into a log beside them; what damage took from one
    of them when a journal is opened is mended from the other, with a warning.

    Raises:
        RunFolderError: it is damaged beyond that, or the disk does not take it.
    """

    def __init__(self, path: Path | str) -> None:
        self.findings: tuple[str, ...] = ()
        self._path = None if path == _MEMORY else Path(path)
        self._model: tuple[int, bytes] | None = None
        self._kept: Collection[int] = ()
        self._after: Callable[[], None] | None = None
        self._files: dict[str, Row] = {}
        self._log: LogWriter | None = None
        self._flusher: Flusher | None = None
        try:
            if self._path is not None:
                self.findings = mend(self._path) if self._path.parent.is_dir() else ()
                self.tell()
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA temp_store=MEMORY")
            self._db.execute("PRAGMA journal_size_limit=0")  # a WAL that begins anew is short again
            if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                create(self._db)
            self._number, self._digest = position(self._db)
        except sqlite3.Error as error:
            raise RunFolderError(f"{path}: not a journal ({error}); start a new run") from error
        if self._path is not None:
            self._inode = self._path.stat().st_ino
            self._log = LogWriter(log_of(self._path))
            self._flusher = Flusher(self._path, self._sync, KEPT_VERSIONS)

    def _sync(self) -> None:
        if self._log is not None:
            self._log.sync()

    @classmethod
    def read(cls, path: Path) -> Journal:
        """A journal as it is on the disk, in memory: for those who only read, also while the run goes on.

        `findings` says what damage was found, and made up for in memory.
        """
        journal = cls(_MEMORY)
        journal._db.close()
        found = sound(path)
        journal._db, journal.findings = found.db, found.findings
        journal._number, journal._digest = position(found.db)
        return journal

    def tell(self) -> None:
        """Log what damage was found."""
        for finding in self.findings:
            log.warning("%s", finding)

    def close(self) -> None:
        """Finish what follows on commits, and close the file."""
        if self._flusher is not None:
            self._flusher.close()
        if self._log is not None:
            self._log.close()
        self._db.close()

    def facts(self) -> RunFacts:
        """What there is to know of the run as a whole."""
        return facts_of(self._of_run())

    def _of_run(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT key, value FROM run"))

    def commit(self, records: Iterable[Record]) -> None:
        """Write records in one durable transaction.

        Raises:
            RunFolderError: they cannot be written, on a full disk for instance; nothing of them is.
        """
        rows: dict[Row, Row] = {}  # by their keys: a commit that closes and opens names most clients twice
        for record in records:
            rows |= {_key(row): row for row in rows_of(record)}
        rows |= {_key(row): row for row in self._files.values()}
        texts = [text_of(row) for row in rows.values()]
        entry = Entry.of(self._number + 1, self._digest, texts)
        digest = entry.digest
        try:
            self._require_in_place()
            self._db.execute("BEGIN IMMEDIATE")
            put(self._db, zip(rows.values(), texts, strict=True))
            self._db.execute("INSERT INTO chain VALUES (?, ?)", (entry.number, digest))
            if self._model is not None:
                self._db.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", self._model)
                old = "version <= ? AND version NOT IN (SELECT value FROM json_each(?))"
                stay = self._model[0] - KEPT_VERSIONS, json_of(sorted(self._kept))
                self._db.execute(f"DELETE FROM models WHERE {old}", stay)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise RunFolderError(
                f"the journal cannot be written ({error}); free space, then go on with --resume"
            ) from None
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._number, self._digest = entry.number, digest
        after, self._model, self._after, self._files = self._after, None, None, {}
        if self._log is not None and self._flusher is not None:
            self._log.append(entry, digest)
            self._flusher.ask(after)

    def _require_in_place(self) -> None:
        """A deleted folder takes writes as if nothing had happened, and nobody would ever find them."""
        if self._path is None:
            return
        try:
            found = self._path.stat().st_ino
        except OSError as error:
            raise unwritable(self._path, error) from None
        if found != self._inode:
            raise RunFolderError(f"{self._path} is not the run's any more: it was replaced while the run goes on")

    def enclose(
        self, version: int, data: bytes, after: Callable[[], None] | None = None, kept: Collection[int] = ()
    ) -> None:
        """Let the next commit hold a small model version too; `after` is called in another thread once it does.

        `kept` are older versions that stay besides the newest ones.
        """
        self._model, self._after, self._kept = (version, data), after, kept

    def model(self, version: int) -> bytes | None:
        """A model version, if the journal holds it."""
        row = self._db.execute("SELECT data FROM models WHERE version = ?", (version,)).fetchone()
        return None if row is None else row[0]

    def models(self) -> set[int]:
        """The versions that the journal holds."""
        return {version for (version,) in self._db.execute("SELECT version FROM models")}

    def note(self, name: str, digests: Iterable[str], content: str = "") -> None:
        """Let the next commit say what a file of the run folder may contain: its digests, and a copy if it is small."""
        self._files[name] = ("files", (name, json_of(sorted(set(digests))), content))

    def digests(self, name: str) -> frozenset[str]:
        """The digests that a file of the run folder may have; none where nothing was noted."""
        row = self._db.execute("SELECT digests FROM files WHERE name = ?", (name,)).fetchone()
        return frozenset(json.loads(row[0])) if row is not None else frozenset()

    def copy(self, name: str) -> str:
        """The copy of a small file of the run folder, as it was noted; empty where there is none."""
        row = self._db.execute("SELECT content FROM files WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row is not None else ""

    def completed(self) -> int:
        """The version that was published last."""
        row = self._db.execute("SELECT max(published) FROM rounds").fetchone()
        return int(row[0] or 0)

    def go_back(self, version: int) -> None:
        """Forget every round after the one that published a version: they are done again.

        Raises:
            RunFolderError: the disk does not take it.
        """
        committed: dict[str, str] = {}
        for round_ in self.rounds():
            if round_.number <= version and not round_.phase.is_stage:
                accepted = (o for o in round_.orders.values() if o.state is OrderState.ACCEPTED)
                committed |= {order.client_id: order.order_id for order in accepted}
        clients = [replace(client, committed=committed.get(client.client_id, "")) for client in self.clients()]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            forget_after(self._db, version)
            self._db.execute("DELETE FROM models WHERE version > ?", (version,))
            gone = ["ended", "reason", *later_keys(self._of_run(), version)]
            self._db.executemany("DELETE FROM run WHERE key = ?", [(key,) for key in gone])
            put(self._db, ((row, text_of(row)) for client in clients for row in rows_of(ClientChanged(client))))
            whole = snapshot(self._db)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise RunFolderError(f"the journal cannot be written ({error}); free space, then try again") from None
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._number, self._digest = whole.number, whole.digest
        if self._path is not None and self._log is not None:
            self._log.close()
            write_log(log_of(self._path), whole)
            self._log = LogWriter(log_of(self._path))

    def copy_to(self, path: Path) -> None:
        """Write the journal to a new file and a log beside it, whole and durable.

        Raises:
            RunFolderError: the disk does not take it.
        """
        try:
            whole = snapshot(self._db)
            write_out(self._db, path)
            write_log(log_of(path), whole)
        except sqlite3.Error as error:
            raise RunFolderError(f"{path} cannot be written ({error}); free space, then try again") from None

    def restore(self, scopes: Iterable[str], round_timeout_seconds: float) -> FederationState:
        """The state as of the last commit; an open round's orders are all outstanding again."""
        versions = ByTemplate(dict.fromkeys(scopes, 0))
        completed = 0
        for published, totals in self._db.execute(
            "SELECT published, totals FROM rounds WHERE published IS NOT NULL ORDER BY number"
        ):
            versions.update(dict.fromkeys(json.loads(totals), published))
            completed = published
        losses = self._losses()
        open_, attempt = self._open_round(completed, round_timeout_seconds)
        facts = self.facts()
        phase = facts.ended
        if open_ is not None:
            phase = open_.phase.during
        clients = {client.client_id: client for client in self.clients()}
        stand = standing(self.guarded())
        return FederationState(
            *(versions, phase, completed, attempt),
            clients=clients,
            open=open_,
            reason=facts.reason,
            losses=losses[-1],
            trends=tuple(trends(before, now) for before, now in pairwise(losses)),
            behind=stand.behind,
            gaps=stand.gaps,
            fallback_tasks=stand.fallback_tasks,
            units=facts.units,
            scales=facts.scales,
            headers=facts.headers,
            traffic=facts.traffic,
            relations={record.template: record for record in self.relations()},
            dual=self._dual(),
            ledger=facts.ledger,
            norms=facts.norms[-1] if facts.norms else NOT_MEASURED,
            conduct=facts.conduct,
        )

    def _losses(self) -> list[Mapping[str, float]]:
        """The tasks' training losses of every published round, with none before the first."""
        rows = self._db.execute(
            "SELECT kind, number, attempt, results FROM orders o JOIN rounds r USING (kind, number, attempt) "
            "WHERE r.published IS NOT NULL AND o.state = ? ORDER BY number, order_id",
            (OrderState.ACCEPTED.value,),
        )
        found, sums = list[Mapping[str, float]]([{}]), sums_of(self._of_run())
        for name, orders in groupby(rows, key=itemgetter(0, 1, 2)):
            items = (item for *_, results in orders for item in json.loads(results))
            each = (TaskResult(i["task"], i["examples"], i["train_loss"], None) for i in items)
            summed = sums.get(name, RoundSums())
            found.append(mean_losses(chain(each, summed.results)))
        return found

    def totals(self) -> dict[int, dict[str, int]]:
        """The weight sums of the scopes that every published round changed."""
        rows = self._db.execute("SELECT published, totals FROM rounds WHERE published IS NOT NULL ORDER BY number")
        return {number: json.loads(totals) for number, totals in rows}

    def rounds(self) -> list[OpenRound]:
        """Every closed round with its orders, in the order in which they closed."""
        return self._closed("closed = 1")

    def scored_rounds(self) -> list[OpenRound]:
        """Those of them that brought all the scores they could: that published a version, or were held to score one."""
        return self._closed("closed = 1 AND (published IS NOT NULL OR kind = ?)", EVALUATE.name)

    def _closed(self, which: str, *values: str) -> list[OpenRound]:
        rows = self._db.execute(
            f"SELECT kind, number, attempt, version FROM rounds WHERE {which} ORDER BY rowid", values
        ).fetchall()
        sums = sums_of(self._of_run())
        return [
            replace(self._round(PHASES[k].phase, number, attempt, v, 0.0), sums=sums.get((k, number, attempt)))
            for k, number, attempt, v in rows
        ]

    def cosines(self) -> list[TaskCosines]:
        """How the tasks agreed, round by round."""
        rows = self._db.execute("SELECT number, scope, tasks, cosines FROM task_cosines ORDER BY number, scope")
        return [
            TaskCosines(number, scope, tuple(json.loads(tasks)), tuple(tuple(row) for row in json.loads(values)))
            for number, scope, tasks, values in rows
        ]

    def relations(self) -> list[Related]:
        """What relations did, round by round."""
        rows = self._db.execute("SELECT number, template, mu, state, note FROM relations ORDER BY number, template")
        return [Related(number, name, json.loads(mu), state, note) for number, name, mu, state, note in rows]

    def certificates(self) -> list[Certificate]:
        """What was certain of the versions, one after the other."""
        rows = self._db.execute("SELECT number, primal, dual, silent FROM certificates ORDER BY number")
        return [Certificate(*row) for row in rows]

    def _dual(self) -> Dual | None:
        found = self._db.execute(
            "SELECT number, relationship, blocks FROM duals ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if found is None:
            return None
        number, relationship, blocks = found
        certificates = self.certificates()
        return dual_from(number, relationship, blocks, certificates[-1] if certificates else None)

    def guarded(self) -> list[Guarded]:
        """How tasks fared beside their isolated models, round by round."""
        rows = self._db.execute(
            "SELECT number, task, received, isolated, behind, fell_back, final, gap FROM guarded "
            "ORDER BY number, final, task"
        )
        return [
            Guarded(n, task, a, b, streak, bool(fell), bool(end), g) for n, task, a, b, streak, fell, end, g in rows
        ]

    def clients(self) -> list[ClientRecord]:
        """Every client that ever took part, by id."""
        rows = self._db.execute(
            "SELECT client_id, tasks, examples, capabilities, committed, left_run, tally FROM clients"
            " ORDER BY client_id"
        )
        return [client_from(*row) for row in rows]

    def _open_round(self, completed: int, deadline: float) -> tuple[OpenRound | None, int]:
        row = self._db.execute(
            "SELECT kind, number, attempt, version, variates FROM rounds WHERE closed = 0"
        ).fetchone()
        if row is not None:
            kind, number, attempt, version, variates = row
            open_ = self._round(PHASES[kind].phase, number, attempt, version, deadline)
            fresh = {
                name: OpenOrder(name, o.client_id, o.tasks, o.scopes, codec=o.codec, untrained=o.untrained)
                for name, o in open_.orders.items()
            }
            earlier = self._db.execute(
                "SELECT kind FROM rounds WHERE closed AND number = ? AND attempt = ? AND version = ? ORDER BY rowid",
                (number, attempt, version),
            ).fetchall()
            past = tuple(self._round(PHASES[name].phase, number, attempt, version, 0.0) for (name,) in earlier)
            return replace(open_, orders=fresh, variates=json.loads(variates), earlier=past), attempt
        abandoned = "SELECT max(attempt) FROM rounds WHERE number = ? AND published IS NULL"
        (attempt,) = self._db.execute(abandoned, (completed + 1,)).fetchone()
        return None, (attempt or 0) + 1

    def _round(self, phase: RoundPhase, number: int, attempt: int, version: int, deadline: float) -> OpenRound:
        rows = self._db.execute(
            "SELECT order_id, client_id, tasks, scopes, state, digest, weights, results, nbytes, seconds, note, "
            "codec, content FROM orders WHERE kind = ? AND number = ? AND attempt = ? ORDER BY order_id",
            (phase.name, number, attempt),
        )
        return OpenRound(number, attempt, phase, version, deadline, {row[0]: order_of(*row) for row in rows})


def _key(row: Row) -> Row:
    table, cells = row
    return table, cells[: TABLES[table].key]
