"""The pictures of a comparison. It imports matplotlib, which is an optional package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.reporting.values import CosineMatrix
from simulation.comparison.result import Comparison, CurvePoint

DPI = 160
MOST_LABELS = 5
"""Lines that carry their names at their ends, and bands; more of them get a legend, and bands would hide each other."""

MOST_PANELS = 24
LEAST_COSINE = 0.02
"""Smaller cosines do not get the full colour, however small all the others are."""

INK, FAINT = "#222222", "#bbbbbb"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito, safe for colour-blind readers; without their yellow, which is faint on white."""

_Style = tuple[str, Any]
_ALONE: dict[str, _Style] = {"local": ("#000000", "-"), "single_task": ("#808080", (0, (4, 2)))}
_DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (9, 2)),
    (0, (5, 1.5, 1, 1.5, 1, 1.5)),
    (0, (2, 2)),
)


def draw(found: Comparison, folder: Path) -> list[str]:
    """Write all pictures that the comparison has figures for, and give their names."""
    drawn = {"curves.png": _curves(found)}
    base = next((name for name in found.baselines if len(found.methods) > 1), None)
    if base is not None:
        drawn["gains.png"] = _gains(found, base)
    knowing = [name for name, method in found.methods.items() if method.affinity is not None]
    if knowing:
        name = "task_balanced" if "task_balanced" in knowing else knowing[0]
        affinity = found.methods[name].affinity
        assert affinity is not None
        drawn["affinity.png"] = _affinity(affinity, f"{name}{_seeds(found)}")
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=DPI, facecolor="white")
    return list(drawn)


def styles(methods: Sequence[str]) -> dict[str, _Style]:
    """Colour and dashes of every method, the same in all panels; going alone is black and grey."""
    others = [name for name in methods if name not in _ALONE]
    pairs = ((colour, dash) for dash in cycle(_DASHES) for colour in COLOURS)
    given = dict(zip(others, pairs, strict=False))
    return {name: _ALONE.get(name) or given[name] for name in methods}


def _curves(found: Comparison) -> Figure:
    """The primary metric against the round: a panel per task, a line per method, a band from least to greatest."""
    tasks = list(found.tasks)[:MOST_PANELS]
    columns = len(tasks) if len(tasks) < 4 else 4 if len(tasks) > 6 else 3 if len(tasks) > 4 else 2
    rows, named = ceil(len(tasks) / columns), len(found.methods) <= MOST_LABELS
    figure = Figure(figsize=(3.3 * columns + 0.4, 2.5 * rows + (0.6 if named else 1.0)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    style, banded = styles(list(found.methods)), len(found.seeds) > 1 and len(found.methods) <= MOST_LABELS
    for panel, task in zip(panels, tasks, strict=False):
        ends = {}
        for name, method in found.methods.items():
            points = [point for point in method.curves[task] if point.score.mean is not None]
            if points:
                ends[name] = _line(panel, points, style[name], name, banded)
        lower = ", lower is better" if found.tasks[task].lower_is_better else ""
        panel.set_title(f"{task}, {found.tasks[task].metric}{lower}", loc="left", fontsize=10, color=INK)
        _plain(panel)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if named:
            _name_ends(panel, ends, {name: style[name][0] for name in ends}, found.rounds)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    for panel in panels[max(len(tasks) - columns, 0) : len(tasks)]:
        panel.set_xlabel("round", fontsize=9, color=INK)
    if not named:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), frameon=False, fontsize=9)
    band = "; bands: least to greatest" if banded else ""
    left = f"; the first {len(tasks)} of {len(found.tasks)} tasks" if len(tasks) < len(found.tasks) else ""
    figure.suptitle(f"Scores after each round{_seeds(found)}{band}{left}", x=0.01, ha="left", fontsize=12, color=INK)
    return figure


def _line(panel: Axes, points: Sequence[CurvePoint], style: _Style, name: str, banded: bool) -> float:
    """Draw one method's line and band, and give its last value."""
    rounds = [point.round for point in points]
    values = [[value for value in point.score.values if value is not None] for point in points]
    means = [fmean(each) for each in values]
    panel.plot(rounds, means, color=style[0], linestyle=style[1], linewidth=1.6, label=name)
    if banded:
        panel.fill_between(rounds, [*map(min, values)], [*map(max, values)], color=style[0], alpha=0.12, linewidth=0)
    return means[-1]


def _name_ends(panel: Axes, ends: Mapping[str, float], colours: Mapping[str, str], last: int) -> None:
    """Write names at the ends of lines, moved apart where they would cover each other."""
    low, high = panel.get_ylim()
    order = sorted(ends, key=lambda name: ends[name])
    for name, place in zip(order, apart([ends[name] for name in order], (high - low) * 0.1), strict=True):
        panel.annotate(
            name,
            (last, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colours[name],
            annotation_clip=False,
        )


def apart(values: Sequence[float], least: float) -> list[float]:
    """Ascending values moved as little as possible (least squares) until neighbours are `least` apart."""
    blocks: list[list[float]] = []  # pool adjacent violators, on values without their due distance
    for number, value in enumerate(values):
        blocks.append([value - number * least])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = [fmean(block) for block in blocks for _ in block]
    return [value + number * least for number, value in enumerate(level)]


def _gains(found: Comparison, base: str) -> Figure:
    """What each task gained against going alone, in points; percent where lower is better."""
    names = [name for name in found.methods if name not in found.baselines] or [n for n in found.methods if n != base]
    points = {(t, name): _points(found, base, t, name) for t in found.tasks for name in names}
    order = sorted(found.tasks, key=lambda task: -fmean(points[task, name] or 0.0 for name in names))
    bad = {key for key in points if found.methods[key[1]].against[base].tasks[key[0]].negative_transfer}
    heads = {t: f"{t}, {found.tasks[t].metric}{' (%)' if found.tasks[t].lower_is_better else ''}" for t in order}
    texts = {key: "-" if v is None else _signed(v, 1) + " ▼" * (key in bad) for key, v in points.items()}
    title = f"Gain against {base}, points{_seeds(found)}{'; ▼ negative transfer' if bad else ''}"
    if len(names) > len(order):  # the longer list runs down
        values = [[points[task, name] or 0.0 for task in order] for name in names]
        return _heatmap(values, [[texts[t, name] for t in order] for name in names], names, [*heads.values()], title)
    values = [[points[task, name] or 0.0 for name in names] for task in order]
    return _heatmap(values, [[texts[task, n] for n in names] for task in order], [*heads.values()], names, title)


def _points(found: Comparison, base: str, task: str, name: str) -> float | None:
    difference = found.methods[name].against[base].tasks[task]
    lower = found.tasks[task].lower_is_better
    mean = difference.relative.mean if lower else difference.gain.mean
    return None if mean is None else 100 * mean


def _affinity(affinity: CosineMatrix, title: str) -> Figure:
    """Cosines between the tasks' steps; the diagonal is left empty."""
    values = [[0.0 if i == j else v for j, v in enumerate(row)] for i, row in enumerate(affinity.values)]
    shown = [["" if i == j else _signed(v, 3) for j, v in enumerate(row)] for i, row in enumerate(affinity.values)]
    title = f"How far the tasks' steps agree (cosine): {title}"
    return _heatmap(values, shown, affinity.tasks, affinity.tasks, title, LEAST_COSINE)


def _heatmap(
    values: Sequence[Sequence[float]],
    shown: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    least: float = 1.0,
) -> Figure:
    """Numbers on colours: purple above zero, orange below, white at zero; full colour from `least` on or later."""
    most = max(least, *(abs(value) for row in values for value in row))
    heads = [name.replace(", ", "\n") for name in columns]
    longest = max(len(line) for head in heads for line in head.split("\n"))
    width, height = 1.9 + max(0.85, 0.09 * longest) * len(columns), 1.5 + 0.36 * len(rows)
    figure = Figure(figsize=(max(width, 0.082 * len(title)), height), layout="constrained")
    panel = figure.subplots()
    panel.imshow(values, cmap="PuOr", norm=TwoSlopeNorm(0.0, -most, most), aspect="auto")
    for i, row in enumerate(shown):
        for j, text in enumerate(row):
            dark = abs(values[i][j]) > 0.6 * most
            panel.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else INK)
    panel.set_xticks(range(len(heads)), heads)
    panel.set_yticks(range(len(rows)), rows)
    panel.tick_params(length=0, labelsize=9, labelcolor=INK, top=False, labeltop=True, bottom=False, labelbottom=False)
    panel.set_xticks([x - 0.5 for x in range(1, len(columns))], minor=True)
    panel.set_yticks([y - 0.5 for y in range(1, len(rows))], minor=True)
    panel.grid(which="minor", color="white", linewidth=1.5)
    panel.tick_params(which="minor", length=0)
    panel.spines[:].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    return figure


def _signed(value: float, digits: int) -> str:
    """With a sign as wide as a digit, and none for zero."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if rounded else f"{0:.{digits}f}"


def _plain(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.tick_params(color=FAINT, labelcolor=INK, labelsize=8)
    panel.grid(axis="y", color="#eeeeee", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.margins(x=0)


def _seeds(found: Comparison) -> str:
    return f", mean over {len(found.seeds)} seeds" if len(found.seeds) > 1 else f", seed {found.seeds[0]}"
