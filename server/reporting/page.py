"""A run as one HTML page that needs nothing else: no server, no script, no file beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from math import log10

from common.privacy.promise import NOT_COVERED
from server.reporting.pictures import curve, matrix
from server.reporting.relations import Relations
from server.reporting.values import Report, TaskReport, to_json

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --faint: #767680; --page: #ffffff; --line: #0060a8; --less: #b34700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --faint: #9a9aa4; --page: #17181b; --line: #6cb6ff; --less: #ff9f5a; }
}
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2em auto;
  max-width: 62em; padding: 0 1em; }
h2 { margin-top: 2em; }
table { border-collapse: collapse; margin: 1em 0; }
caption { color: var(--faint); padding-bottom: .4em; text-align: left; }
th, td { border-bottom: 1px solid color-mix(in srgb, var(--faint) 35%, transparent); padding: .25em .8em;
  text-align: left; vertical-align: top; overflow-wrap: break-word; }
tbody th { white-space: nowrap; }
td.n { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
.curves { display: flex; flex-wrap: wrap; gap: 1.5em; }
figure { margin: 0; } figcaption { font-weight: 600; }
.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.axis { fill: none; stroke: var(--faint); } .line { fill: none; stroke: var(--line); stroke-width: 2; }
.dot { fill: var(--line); } .ring { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.more { fill: var(--line); stroke: var(--faint); } .less { fill: var(--less); stroke: var(--faint); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""
NO_BREAK = "\N{NO-BREAK SPACE}"
MOST_CERTIFICATES = 20
"""So many of the newest are listed."""
MOST_OUTLIERS = 50


def page_of(report: Report, relations: Relations | None, leaves: Sequence[str]) -> str:
    """The page. `leaves` are lines that say what leaves a client."""
    parts = [
        _head(report),
        "<h2>Tasks</h2>",
        _scores(report),
        '<div class="curves">' + "".join(_curves(report)) + "</div>",
        *(_certified(report)),
        *(_transfer(report)),
        *(_personalised(report)),
        "<h2>Clients</h2>",
        _clients(report),
        *(_outliers(report)),
        *(_relations(relations)),
        *(_moved(report)),
        "<h2>Settings</h2>",
        _settings(report),
        "<h2>What leaves a client</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in leaves) + "</ul>",
    ]
    title = escape(f"Run {report.run}")
    start = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
    start += f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f"{start}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"


def _head(report: Report) -> str:
    facts = [
        f"{report.status} after {report.rounds_completed} rounds",
        *([report.reason] if report.reason else []),
        f"{report.seconds:.1f} s, {_bytes(report.bytes_down)} down, {_bytes(report.bytes_up)} up",
        f"data: {report.data or 'not said'}",
    ]
    return f"<h1>Run {escape(report.run)}</h1><p>{escape('; '.join(facts))}</p>"


def _scores(report: Report) -> str:
    rows = []
    for name, task in report.tasks.items():
        metric = next(iter(task.metrics))
        best = report.best.get(f"{name}/{metric}")
        found = "-" if best is None else f"{_number(best.scores[name])} (version {best.version})"
        label = f"{name} (auxiliary)" if task.auxiliary else name
        newest = _number(task.metrics[metric])
        if task.guard is not None and task.guard.model == "isolated":
            newest += " (isolated models)"
        rows.append([label, metric, newest, found, task.scored_round, task.examples])
    mean = report.best.get("mean")
    caption = "Scores on validation rows of all clients together"
    caption += "" if mean is None else f"; the best mean over tasks had version {mean.version}"
    return _table(
        caption, ["task", "metric", "newest", "best published", "newest scored version", "training rows"], rows
    )


def _curves(report: Report) -> Iterable[str]:
    for name, task in report.tasks.items():
        metric = next(iter(task.metrics))
        points = [(entry.round, v) for entry in task.history if (v := entry.scores.get(metric)) is not None]
        best = report.best.get(f"{name}/{metric}")
        if points:
            drawn = curve(name, metric, sorted(points), None if best is None else best.version)
            ring = "" if best is None else f"; ring: best, version {best.version}"
            yield f"<figure>{drawn}<figcaption>{escape(f'{name}, {metric}{ring}')}</figcaption></figure>"


def _certified(report: Report) -> Iterable[str]:
    """Primal, dual and gap of the newest versions of a run that solves a dual, and how the gap fell."""
    if not report.certificates:
        return
    names = ["version", "primal", "dual", "gap", "silent clients"]
    shown = report.certificates[-MOST_CERTIFICATES:]
    rows = [[f.version, *(f"{value:.6g}" for value in (f.primal, f.dual, f.gap)), f.silent] for f in shown]
    points = [(found.version, log10(found.gap)) for found in report.certificates if found.gap > 0]
    drawn = curve("certificates", "log10 of the gap", points, None) if points else ""
    yield "<h2>Certificates</h2>" + drawn + _table("The optimum lies between dual and primal", names, rows)


def _transfer(report: Report) -> Iterable[str]:
    guarded = {name: task.guard for name, task in report.tasks.items() if task.guard is not None}
    rows = [
        [
            name,
            g.metric,
            _number(g.received),
            _number(g.isolated),
            g.model,
            "-" if g.fallen_back is None else g.fallen_back,
        ]
        for name, g in guarded.items()
    ]
    if rows:
        names = ["task", "metric", "shared", "alone", "its clients use", "fell back after round"]
        yield "<h2>Shared against alone</h2>" + _table("The guard's last comparison, on the same rows", names, rows)


def _personalised(report: Report) -> Iterable[str]:
    """Where clients have models of their own and no guard compares: the newest scores of both, on the same clients."""
    rows: list[list[object]] = []
    for name, task in report.tasks.items():
        metric = next(iter(task.metrics))
        newest = next((entry for entry in reversed(task.history) if entry.personal is not None), None)
        if task.guard is None and newest is not None and newest.personal is not None:
            found = newest.scores.get(metric), newest.personal.scores.get(metric)
            rows.append([name, metric, *map(_number, found), newest.personal.clients, newest.round])
    if rows:
        names = ["task", "metric", "shared", "own", "clients with their own", "version"]
        caption = "Blends of both models" if report.blend.get("enabled") else "Models that clients trained beside it"
        yield "<h2>Shared against clients' own</h2>" + _table(f"{caption}, on validation rows", names, rows)


def _clients(report: Report) -> str:
    names = [
        "client",
        "tasks",
        "training rows",
        "sent",
        "orders",
        "completed",
        "failed",
        "expired",
        "refused",
        "last scores",
    ]
    rows: list[Sequence[object]] = []
    for name, client in report.clients.items():
        scores = "; ".join(_said(task, report.tasks[task], found.scores) for task, found in client.scores.items())
        counts = [client.assigned, client.rounds, client.failed, client.expired, client.refused]
        brought = (
            sum(client.examples.values()) if client.examples else None,
            _bytes(client.bytes).replace(" ", NO_BREAK),
        )
        rows.append([name, ", ".join(client.tasks), *brought, *counts, scores or "-"])
    return _table("Everybody who took part, with scores on their own rows", names, rows)


def _outliers(report: Report) -> Iterable[str]:
    """Who sent much longer updates than the others, and who is in quarantine."""
    found = ((r, name, length) for r in report.norms or () if r.median for name, length in r.outliers.items())
    rows = [[r.round, name, f"{length:.4g}", f"{length / (r.median or 1.0):.3g}"] for r, name, length in found]
    if rows:
        caption = f"Updates much longer than the others', of {MOST_OUTLIERS} at most the newest"
        yield _table(caption, ["round", "client", "length", "medians"], rows[-MOST_OUTLIERS:])
    closed = [[name, client.quarantined] for name, client in report.clients.items() if client.quarantined]
    if closed:
        yield _table("In quarantine", ["client", "why"], closed)


def _said(name: str, task: TaskReport, scores: object) -> str:
    metric = next(iter(task.metrics))
    value = scores.get(metric) if isinstance(scores, dict) else None
    return f"{name} {metric} {_number(value)}"


def _relations(found: Relations | None) -> Iterable[str]:
    if found is None:
        return
    rows = [
        [name, *(found.said(value, 3) for value in row)] for name, row in zip(found.names, found.matrix, strict=True)
    ]
    yield f'<h2>Relations</h2><div class="wide">{matrix(found)}</div>{_table(found.kind, ["", *found.names], rows)}'


def _moved(report: Report) -> Iterable[str]:
    """How far members' models are from their first values, where the relation says so."""
    newest = {found.template: found.moved for found in report.relations if found.moved is not None}
    for template, moved in newest.items():
        rows = [[name, f"{length:.4g}"] for name, length in moved.items()]
        yield _table(f"How far each member has moved from the first values of {template}", ["member", "length"], rows)


def _settings(report: Report) -> str:
    rows: list[Sequence[object]] = [["seed", report.seed], ["sharing plan", report.sharing_plan]]
    rows += [["first weights", report.encoder_init], ["run id", report.run_id]]
    rows += [["model digest", report.model_digest]] if report.model_digest else []
    if report.privacy is not None:
        rows.append(["privacy", f"{json.dumps(to_json(report.privacy))}. {NOT_COVERED}"])
    if report.secure_aggregation is not None:
        rows.append(["secure_aggregation", json.dumps(to_json(report.secure_aggregation))])
    for name in ("training", "aggregation", "guard", "blend", "relation"):
        rows.append([name, json.dumps(getattr(report, name))])
    return _table("The configuration that the run was started with last", ["key", "value"], rows)


def _table(caption: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(map(_cell, range(len(row)), row))}</tr>" for row in rows)
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _cell(place: int, value: object) -> str:
    text = escape("-" if value is None else str(value))
    if place == 0:
        return f'<th scope="row">{text}</th>'
    return f'<td class="n">{text}</td>' if isinstance(value, int | float) else f"<td>{text}</td>"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
