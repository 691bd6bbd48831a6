"""The tables of a comparison, for Markdown and for the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from simulation.comparison.figures import LEAST_BASE, MARGIN, Against, Spread
from simulation.comparison.result import Comparison, MethodResult

WORSE = "▼"
MOST_CLIENT_ROWS = 200


@dataclass(frozen=True)
class Sheet:
    """A table; the first column names the row, the others are numbers unless they are `words`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


def summary(found: Comparison) -> Sheet:
    """One row per method: did sharing help on the whole, how many tasks pay for it, and what did it take."""
    gains = tuple(f"mean gain, {base}" for base in found.baselines)
    deltas = tuple(f"delta, {base}" for base in found.baselines)
    worse = tuple(f"{WORSE} {base}" for base in found.baselines)
    costs = ("model", "extra epochs", "MB up", "seconds")
    rows = []
    for name, method in found.methods.items():
        against = [(base, method.against[base]) for base in found.baselines]
        rows.append(
            (
                name,
                *("-" if base == name else _score(each.mean_gain, "+") for base, each in against),
                *("-" if base == name else _percent(each.delta) for base, each in against),
                *("-" if base == name else _worse(each) for base, each in against),
                method.model,
                str(method.extra_epochs),
                f"{method.bytes_up / 1e6:.2f}",
                f"{method.seconds:.1f}",
            )
        )
    return Sheet("Methods", ("method", *gains, *deltas, *worse, *costs), tuple(rows))


def changes(found: Comparison) -> Sheet:
    """What the configuration of each method says otherwise than plain federated averaging."""
    rows = []
    for name, method in found.methods.items():
        said = ", ".join(f"`{path}: {value}`" for path, value in method.changes.items())
        rows.append((name, "a federation per task" if method.by_task else said or "nothing"))
    return Sheet("Changes", ("method", "configuration"), tuple(rows), words=True)


def scores(found: Comparison) -> Sheet:
    """The primary metric of every task and method."""
    return _grid(found, "Scores", lambda task, name: _score(found.methods[name].scores[task][found.tasks[task].metric]))


def differences(found: Comparison, base: str) -> Sheet:
    """What every task gained against a baseline."""

    def cell(task: str, name: str) -> str:
        difference = found.methods[name].against[base].tasks[task]
        return _score(difference.gain, "+") + (f" {WORSE}" if difference.negative_transfer else "")

    return _grid(found, f"Gain against {base}", cell, base)


def other_metrics(found: Comparison) -> Sheet:
    """All metrics but the primary ones, and the loss."""
    names = tuple(found.methods)
    rows = tuple(
        (f"{task} {metric}", *(_score(found.methods[name].scores[task][metric]) for name in names))
        for task, facts in found.tasks.items()
        for metric in (*facts.metrics[1:], "loss")
    )
    return Sheet("Other metrics", ("task, metric", *names), rows)


def by_client(found: Comparison) -> Sheet | None:
    """The primary metric of every client on its own rows; None where each task has one client, or the table is long."""
    methods = found.methods
    held = [(client, task) for client, tasks in next(iter(methods.values())).clients.items() for task in tasks]
    if len(held) <= len(found.tasks) or len(held) > MOST_CLIENT_ROWS:
        return None
    rows = tuple(
        (
            f"{client}, {task}",
            *(_of_client(found, method, client, task) for method in methods.values()),
        )
        for client, task in held
    )
    return Sheet("Clients", ("client, task", *methods), rows)


def _of_client(found: Comparison, method: MethodResult, client: str, task: str) -> str:
    score = method.clients.get(client, {}).get(task, {}).get(found.tasks[task].metric)
    return "-" if score is None else _score(score)


def _grid(found: Comparison, title: str, cell: Callable[[str, str], str], without: str = "") -> Sheet:
    """Tasks against methods; the fewer are the columns, the methods where they are as many."""
    names = [name for name in found.methods if name != without]
    heads = {task: f"{task} {facts.metric}" for task, facts in found.tasks.items()}
    if len(names) <= len(heads):
        rows = tuple((head, *(cell(task, name) for name in names)) for task, head in heads.items())
        return Sheet(title, ("task, metric", *names), rows)
    return Sheet(
        title, ("method", *heads.values()), tuple((name, *(cell(task, name) for task in heads)) for name in names)
    )


def _score(found: Spread, sign: str = "") -> str:
    if found.mean is None:
        return "-"
    return f"{round(found.mean, 3) + 0.0:{sign}.3f}" + (f" ± {found.sd:.3f}" if found.sd is not None else "")


def _percent(found: Spread) -> str:
    if found.mean is None:
        return "-"
    return f"{round(100 * found.mean, 1) + 0.0:+.1f}" + (f" ± {100 * found.sd:.1f} %" if found.sd is not None else " %")


def _worse(against: Against) -> str:
    flagged = [task for task, difference in against.tasks.items() if difference.negative_transfer]
    return f"{len(flagged)} of {len(against.tasks)}"


def markdown(found: Comparison, pictures: Sequence[str]) -> str:
    """The content of `comparison.md`; pictures are the names of files beside it."""
    sheets = [summary(found), scores(found), *(differences(found, base) for base in found.baselines)]
    clients = by_client(found)
    sheets += [other_metrics(found), *([clients] if clients else [])]
    parts = ["# Does sharing help?", "\n".join(_preface(found))]
    for sheet in sheets:
        parts += [f"## {sheet.title}", _as_markdown(sheet)]
    parts += ["## What each method changes", _as_markdown(changes(found)), *(f"![{name}]({name})" for name in pictures)]
    return "\n\n".join(parts) + "\n"


def _preface(found: Comparison) -> Iterator[str]:
    seeds = ", ".join(map(str, found.seeds))
    yield f"{found.clients} clients, {len(found.tasks)} tasks, data: {found.data}. Encoder: {found.encoder}."
    yield f"Every method: the same rows, {found.rounds} rounds x {found.local_epochs} local epochs, seeds {seeds}."
    yield "Scores are those of the model that a client would use after the last round: its own one where the method has"
    yield "one (`personal`), else the received one. Extra epochs are what a method computes beyond the common budget."
    if len(found.seeds) > 1:
        yield "Mean ± standard deviation over the seeds. Gains are paired by seed; positive is better."
        rule = "every seed is worse, and the mean loss exceeds the standard deviation of the differences"
    else:
        yield "One seed, so there is no spread. Positive gains are better."
        rule = f"the loss exceeds {100 * MARGIN:g} point ({100 * MARGIN:g} % where lower is better)"
    yield f"{WORSE} marks negative transfer: {rule}."
    yield "The mean gain is that over tasks; delta is the mean of gain divided by the baseline's score (FMTL-Bench)."
    for base in found.baselines:
        left = next(iter(found.methods.values())).against[base].left_out
        if left:
            names = ", ".join(left)
            yield f"Left out of the delta to {base}, whose score there is below {LEAST_BASE:g} or undefined: {names}."
    absent = [base for base in ("local", "single_task") if base not in found.methods]
    if absent:
        yield f"Not compared with {' and '.join(absent)}, which did not run."


def _as_markdown(sheet: Sheet) -> str:
    lines = [sheet.columns, ("---", *("---" if sheet.words else "---:" for _ in sheet.columns[1:])), *sheet.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def for_console(found: Comparison) -> list[Table]:
    """Summary, scores and gains as tables for a terminal."""
    gains = [differences(found, base) for base in found.baselines]
    return [_as_table(sheet) for sheet in (summary(found), scores(found), *gains)]


def _as_table(sheet: Sheet) -> Table:
    table = Table(title=Text(sheet.title, "bold"), title_justify="left")
    table.add_column(Text(sheet.columns[0]), min_width=max(len(row[0]) for row in sheet.rows))
    for number, column in enumerate(sheet.columns[1:], start=1):
        table.add_column(Text(column), justify="right", min_width=max(len(row[number]) for row in sheet.rows))
    for row in sheet.rows:
        table.add_row(*(Text(cell, style="red" if cell.endswith(WORSE) else "") for cell in row))
    return table
