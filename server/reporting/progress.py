"""A run as people watch it: what happens, who is there, and a table of scores after every round."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.log_fields import about
from common.orders import FederationStatus
from common.plain_text import plain
from common.stopping import at_the_end
from common.tasks import TaskDefinition, is_better
from server.core.answers import SHOWN
from server.core.dual_facts import Certificate
from server.core.effects import RoundClosed, TaskCosines
from server.core.open_round import OpenRound
from server.reporting.metrics_file import MetricsFile
from server.reporting.report import round_scores
from server.reporting.values import RoundScores

log = logging.getLogger("fedmtl.server")


REFRESH_SECONDS = 0.2
TABLE_SECONDS = 1.0
"""Rounds that close faster than anybody reads get no table each; `metrics.jsonl` has them all."""


class RunProgress:
    """Writes `metrics.jsonl` and, with a console, shows the run; a terminal also gets a live view of the clients."""

    def __init__(
        self,
        tasks: Sequence[TaskDefinition],
        num_rounds: int,
        metrics: Path | None,
        console: Console | None,
        known: Iterable[OpenRound] | None = None,
        on_withdrawal: Callable[[], None] = lambda: None,
    ) -> None:
        """`known` are the rounds of a resumed run that its journal has; None: whatever `metrics.jsonl` has."""
        self._on_withdrawal = on_withdrawal
        self._tasks = tasks
        self._num_rounds = num_rounds
        self._metrics = MetricsFile(metrics, known, time.time) if metrics is not None else None
        self._console = console
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console and console.is_terminal else None
        )
        self._open = ExitStack()
        self._before: Mapping[str, RoundScores] = {}
        self._waiting_for = ""
        self._refresh_at = 0.0
        self._table_at = 0.0

    def __enter__(self) -> RunProgress:
        if self._live is not None and self._console is not None:
            self._live.start()
            self._open.enter_context(at_the_end(self._console.show_cursor))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if self._live is not None:
            self._live.stop()

    def notice(self, text: str, warning: bool) -> None:
        """Notices go to the log; nothing more is shown."""

    def withdrew(self) -> None:
        """Have written down what there is of the client."""
        self._on_withdrawal()

    def changed(self, waiting: bool, describe: Callable[[], FederationStatus]) -> None:
        """Refresh the live view, not too often; log what a waiting run waits for, once."""
        due = self._live is not None and time.monotonic() >= self._refresh_at
        if not (due or waiting or self._waiting_for):
            return
        status = describe()
        waiting_for = status.waiting_for if waiting else ""
        if waiting_for and waiting_for != self._waiting_for:
            waits = about(event="waiting", round=status.round, reason=waiting_for)
            log.info("waiting for %s", waiting_for, extra=waits)
        self._waiting_for = waiting_for
        if self._live is not None and due:
            self._refresh_at = time.monotonic() + REFRESH_SECONDS
            self._live.update(_overview(status), refresh=True)

    def closed(
        self, record: RoundClosed, cosines: Sequence[TaskCosines] = (), certificate: Certificate | None = None
    ) -> None:
        """Append the round's scores to `metrics.jsonl` and show them; the log tells how its tasks agreed."""
        for matrix in cosines:
            log.info("%s", _agreement(matrix), extra=about(event="tasks_compared", round=matrix.round))
        scores = round_scores(self._tasks, record.round)
        if self._metrics is not None:
            self._metrics.append(record, scores, cosines, certificate)
        last = not record.round.phase.publishes or record.round.number == self._num_rounds
        if self._console is not None and scores and (last or time.monotonic() >= self._table_at):
            self._console.print(self._table(record, scores))
            self._table_at = time.monotonic() + TABLE_SECONDS
            self._before = scores

    def _table(self, record: RoundClosed, scores: Mapping[str, RoundScores]) -> Table:
        version = record.round.version
        model = f"the model of round {version}" if version else "the initial model"
        if not record.round.phase.publishes:
            title = f"Final scores: {model}"
        else:
            title = f"Round {record.round.number} of {self._num_rounds} closed. On arrival, {model} scored"
        table = Table(title=_text(title, "bold"), title_justify="left")
        table.add_column("task")
        table.add_column("scores on validation rows", min_width=40)
        for name in ("loss", "rows", "clients", "local training loss"):
            table.add_column(name, justify="right")
        for task in self._tasks:
            if task.name in scores:
                table.add_row(*self._row(task, scores[task.name]))
        return table

    def _row(self, task: TaskDefinition, row: RoundScores) -> list[RenderableType]:
        text, before = Text(), self._before.get(task.name, RoundScores(0)).scores
        for name in task.metrics:
            now, then = row.scores.get(name), before.get(name)
            text.append(f"{', ' if text else ''}{name} {_number(now)}")
            if now is not None and then is not None and now != then:
                text.append(f" ({now - then:+.3f})", style="green" if is_better(name, now, then) else "red")
        found = (row.scores.get("loss"), row.validation_examples, row.clients, row.local_training_loss_next_round)
        counts = map(_number, found)
        label = f"{task.name} (auxiliary)" if task.auxiliary else task.name
        return [_text(label), text, *map(_text, counts)]


def _agreement(matrix: TaskCosines) -> str:
    """One line about the cosines of every two tasks, the lowest first."""
    pairs = [
        (matrix.values[i][j], f"{first}, {second}")
        for i, first in enumerate(matrix.tasks)
        for j, second in enumerate(matrix.tasks[:i])
    ]
    text = "; ".join(f"{names} {value:+.3f}" for value, names in sorted(pairs))
    return f"round {matrix.round}, cosines between the steps of tasks in {matrix.scope}: {text}"


def _overview(status: FederationStatus) -> RenderableType:
    head = f"{status.phase}, round {status.round} of {status.num_rounds}; waits for {status.waiting_for}"
    table = Table(box=None, pad_edge=False, show_header=False)
    for client in status.clients[:SHOWN]:
        mark = Text("●", "green") if client.present else Text("○", "red")
        table.add_row(mark, _text(client.client_id), _text(", ".join(client.tasks)), _text(client.activity))
    hidden = status.client_count - SHOWN
    return Group(_text(head, "bold"), table, *([_text(f"and {hidden} more")] if hidden > 0 else []))


def _text(shown: str, style: str = "") -> Text:
    """Text that is only text: a plain `str` would be read as markup."""
    return Text(plain(shown), style)


def _number(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value == 0.0 or abs(value) >= 0.0005 else f"{value:.1e}"
