"""What all examples need: the same options, a federation that leaves no files, and a learning rate for each way."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fedmtl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from server.reporting.values import Report


def options(about: str | None, rows: str, count: int, rounds: int, seeds: int) -> argparse.ArgumentParser:
    """The options of an example, which may add its own: how many `rows` a site trains on, and the rest."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(f"--{rows}", dest="rows", type=int, default=count, help="of each site to train on")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seeds", type=int, default=seeds, help="draws of data to take the mean over")
    parser.add_argument("--picture", metavar="FILE", help="draw data and scores into it (needs the extra pictures)")
    return parser


def report_of(tasks: Mapping[str, Any], sites: Mapping[str, Any], encoder: Any, settings: Mapping[str, Any]) -> Report:
    """The report of a federation whose folder is gone again."""
    with tempfile.TemporaryDirectory() as folder:
        return fedmtl.simulate(tasks, sites, encoder, {"client.threads": 1, **settings}, Path(folder) / "run").report


def tuned(
    scores: Callable[[float, int], np.ndarray],
    rates: Sequence[float],
    seeds: int,
    worth: Callable[[np.ndarray], float] = np.mean,
) -> tuple[float, np.ndarray]:
    """The rate that served best on the draw with seed 0, and its scores on the draws after: (seeds, ...).

    Args:
        scores: of a rate on the draw with this seed.
        rates: what is tried.
        seeds: draws.
        worth: one number of scores; higher is better.
    """
    tried = {rate: float(worth(scores(rate, 0))) for rate in rates}
    best = max(rates, key=lambda rate: tried[rate])
    return best, np.array([scores(best, seed) for seed in range(1, seeds + 1)])


def markdown(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table; each row has a name and cells."""
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)])


def spread(seeds: np.ndarray) -> list[str]:
    """Mean and deviation over the first axis."""
    return [f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in zip(seeds.mean(0), seeds.std(0), strict=True)]


def figure(width: float, height: float) -> Figure:
    """An empty picture, in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--picture needs the package matplotlib: pip install 'fedmtl[pictures]'") from None
    return Figure(figsize=(width, height), layout="constrained")
