"""The tables of a comparison, for Markdown and for the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from simulation.comparison.bootstrap import DRAWS, Interval
from simulation.comparison.figures import LEAST_BASE, MARGIN, Against, Spread
from simulation.comparison.methods import BASELINES
from simulation.comparison.options import ALL, WEIGHTED
from simulation.comparison.result import Comparison, MethodResult

WORSE = "▼"
MOST_CLIENT_ROWS = 200
SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Sheet:
    """A table; the first column names the row, the others are numbers unless they are `words`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


def summary(found: Comparison) -> Sheet:
    """One row per method: its means over tasks, and what it took."""
    means = _means(found)
    rows = (
        (
            name,
            *(_score(method.means[mean]) for mean in means),
            method.model,
            str(method.extra_epochs),
            f"{method.bytes_up / 1e6:.2f}",
            f"{method.seconds:.1f}",
        )
        for name, method in found.methods.items()
    )
    heads = (_mean_of(name) for name in means)
    return Sheet("Methods", ("method", *heads, "model", "extra epochs", "MB up", "seconds"), tuple(rows))


def against(found: Comparison, base: str) -> Sheet:
    """One row per method: did it help on the whole, and how many tasks pay for it."""
    means = _means(found)
    rows = []
    for name, method in found.methods.items():
        each = method.against[base]
        gains = (_gain(each.means[mean].gain, each.means[mean].interval) for mean in means)
        if name != base:
            rows.append((name, *gains, _percent(each.delta), _worse(each), _worst(found, each)))
    return Sheet(
        f"Against {base}", ("method", *map(_mean_of, means), "delta", f"{WORSE} tasks", "worst task"), tuple(rows)
    )


def _means(found: Comparison) -> list[str]:
    """Those without errors, which have units."""
    return [name for name, weights in found.means.items() if not any(found.tasks[t].lower_is_better for t in weights)]


def _mean_of(name: str) -> str:
    return {ALL: "mean", WEIGHTED: "weighted mean"}.get(name, f"mean of {name}")


def tuning(found: Comparison) -> Sheet | None:
    """What every setting came to on validation rows, and which one was picked; None where nothing was tuned."""
    tuned = {name: method.tuning for name, method in found.methods.items() if method.tuning is not None}
    if not tuned:
        return None
    first = next(iter(tuned.values()))
    heads = [", ".join(f"{path}={value}" for path, value in each.setting.items()) for each in first.trials]
    rows = []
    for name, each in tuned.items():
        cells = ("failed" if trial.value is None else f"{trial.value:.4f}" for trial in each.trials)
        marked = (f"**{cell}**" if at == each.picked else cell for at, cell in enumerate(cells))
        rows.append((name, *marked))
    return Sheet("Tuning", ("method", *heads), tuple(rows))


def changes(found: Comparison) -> Sheet:
    """What the configuration of each method says otherwise than plain federated averaging."""
    rows = []
    for name, method in found.methods.items():
        said = ", ".join(f"`{path}: {value}`" for path, value in method.changes.items())
        whose = [said] * bool(said) + ["a federation per task"] * method.by_task
        rows.append((name, "; ".join(whose + ["one client has all rows"] * method.central) or "nothing"))
    return Sheet("Changes", ("method", "configuration"), tuple(rows), words=True)


def scores(found: Comparison) -> Sheet:
    """The primary metric of every task and method."""
    return _grid(found, "Scores", lambda task, name: _score(found.methods[name].scores[task][found.tasks[task].metric]))


def differences(found: Comparison, base: str) -> Sheet:
    """What every task gained against a baseline."""

    def cell(task: str, name: str) -> str:
        difference = found.methods[name].against[base].tasks[task]
        return _gain(difference.gain, difference.interval) + (f" {WORSE}" if difference.negative_transfer else "")

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
    heads = {task: f"{task} {facts.metric} (n={facts.rows})" for task, facts in found.tasks.items()}
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


def _gain(found: Spread, within: Interval | None) -> str:
    """A gain with its interval, or with its spread where there is none."""
    if found.mean is None or within is None:
        return _score(found, "+")
    low, high = (f"{round(end, 3) + 0.0:+.3f}" for end in within)
    return f"{round(found.mean, 3) + 0.0:+.3f} [{low}, {high}]"


def _worst(found: Comparison, against: Against) -> str:
    if not against.worst:
        return "-"
    difference = against.tasks[against.worst]
    shown = difference.relative if found.tasks[against.worst].lower_is_better else difference.gain
    value = _percent(Spread((), shown.mean, None)) if shown is difference.relative else _score(shown, "+").split(" ")[0]
    return f"{against.worst} {value}"


def _percent(found: Spread) -> str:
    if found.mean is None:
        return "-"
    return f"{round(100 * found.mean, 1) + 0.0:+.1f}" + (f" ± {100 * found.sd:.1f} %" if found.sd is not None else " %")


def _worse(against: Against) -> str:
    flagged = [task for task, difference in against.tasks.items() if difference.negative_transfer]
    return f"{len(flagged)} of {len(against.tasks)}"


def markdown(found: Comparison, pictures: Sequence[str]) -> str:
    """The content of `comparison.md`; pictures are the names of files beside it."""
    sheets = [summary(found), scores(found), *_gains(found)]
    sheets += [sheet for sheet in (tuning(found), other_metrics(found), by_client(found)) if sheet is not None]
    parts = ["# Does sharing help?", "\n".join(_preface(found))]
    for sheet in sheets:
        parts += [f"## {sheet.title}", _as_markdown(sheet)]
    parts += ["## What each method changes", _as_markdown(changes(found)), *(f"![{name}]({name})" for name in pictures)]
    return "\n\n".join(parts) + "\n"


def _preface(found: Comparison) -> Iterator[str]:
    seeds = ", ".join(map(str, found.seeds))
    yield f"{found.clients} clients, {len(found.tasks)} tasks, data: {found.data}. Encoder: {found.encoder}."
    yield f"Every method: the same rows, {found.rounds} rounds x {found.local_epochs} local epochs, seeds {seeds}."
    yield from _rows_told(found)
    if any(method.tuning is not None for method in found.methods.values()):
        yield "Each method has the setting that was its best on validation rows, by the mean over tasks of primary"
        yield "metrics (of an error: minus its ratio to that of the first setting): see Tuning."
        edges = [name for name, method in found.methods.items() if method.tuning and method.tuning.at_the_edge]
        if edges:
            yield f"Picked at the edge of what was tried, so that more values may give more: {', '.join(edges)}."
    yield "Scores are those of the model that a client would use after the last round: its own one where the method has"
    yield "one (`personal`), else the received one. Extra epochs are what a method computes beyond the common budget."
    yield "Scores have their standard deviation over the seeds. Gains are paired by row and seed; positive is better."
    yield f"In brackets: what covers 95 % of {DRAWS} draws of rows and seeds with replacement (paired bootstrap)."
    if len(found.seeds) == 1:
        yield "With one seed, intervals tell nothing of how much another seed would change."
    yield f"{WORSE} marks negative transfer: the interval of a task's gain lies below zero, and the loss exceeds"
    yield f"{100 * MARGIN:g} point ({100 * MARGIN:g} % where lower is better). n is the number of scored rows."
    for name, weights in found.means.items():
        if name == ALL:
            continue
        said = ", ".join(task if weight == 1.0 else f"{task} x {weight:g}" for task, weight in weights.items())
        yield f"The {_mean_of(name)} is over {said}."
    yield "Delta is the mean over tasks of gain divided by the baseline's score (FMTL-Bench)."
    for base in found.baselines:
        left = next(iter(found.methods.values())).against[base].left_out
        if left:
            names = ", ".join(left)
            yield f"Left out of the delta to {base}, whose score there is below {LEAST_BASE:g} or undefined: {names}."
    absent = [base for base in BASELINES if base not in found.methods]
    if absent:
        yield f"Not compared with {' and '.join(absent)}, which did not run."


def _rows_told(found: Comparison) -> Iterator[str]:
    """Which rows the figures are of."""
    by_split = {split: [t for t, facts in found.tasks.items() if facts.split == split] for split in SPLITS}
    if not by_split["test"]:
        yield "**The figures are of validation rows**, since no task has test rows; tuning is by the same rows."
    elif not by_split["validation"]:
        yield "The figures are of the test rows of every task."
    else:
        without = ", ".join(by_split["validation"])
        yield f"The figures are of test rows; of validation rows in tasks without test rows: {without}."


def _as_markdown(sheet: Sheet) -> str:
    lines = [sheet.columns, ("---", *("---" if sheet.words else "---:" for _ in sheet.columns[1:])), *sheet.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def for_console(found: Comparison) -> list[Table]:
    """Summary, scores and gains as tables for a terminal."""
    return [_as_table(sheet) for sheet in (summary(found), scores(found), *_gains(found))]


def _gains(found: Comparison) -> list[Sheet]:
    """Against each baseline, on the whole and task by task; of a method alone there is nothing to say."""
    both = [(against(found, base), differences(found, base)) for base in found.baselines]
    return [sheet for sheets in both for sheet in sheets if len(found.methods) > 1]


def _as_table(sheet: Sheet) -> Table:
    table = Table(title=Text(sheet.title, "bold"), title_justify="left")
    table.add_column(Text(sheet.columns[0]), min_width=max(len(row[0]) for row in sheet.rows))
    for number, column in enumerate(sheet.columns[1:], start=1):
        table.add_column(Text(column), justify="right", min_width=max(len(row[number]) for row in sheet.rows))
    for row in sheet.rows:
        table.add_row(*(Text(cell, style="red" if cell.endswith(WORSE) else "") for cell in row))
    return table
