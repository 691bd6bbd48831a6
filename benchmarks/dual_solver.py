"""MOCHA's local solver: a visit of one coordinate, compiled and in numpy, and many tasks to a small duality gap.

One thread, no network, made-up rows. Visits of the first table are of one task and go on from where the last ones
ended; compiled and interpreted loops take turns, the interpreted one with fewer visits. The second table solves all
tasks in rounds, with Sigma = ((1 - r) I + r 11') / m for a correlation r between any two tasks, so that sigma' is
1 + r (m - 1): seconds are those of local work and certificate together, on one core, after the loop was compiled.
Scores have a noise of standard deviation 1 beside a signal of 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from benchmarks.sheet import Sheet
from benchmarks.spread import interleaved
from client.training.coordinate_loop import compiles
from client.training.design import DesignMatrix
from client.training.sdca import Subproblem, measure, solve
from common.methods.dual_losses import DUAL_LOSSES, DualLoss
from common.seeds import derive_seed

VISITS = {"layout": "rows", "loss": "loss", "numpy_us": "numpy us", "compiled_us": "compiled us", "ratio": "ratio"}
ROUNDS = {
    "loss": "loss",
    "solver": "loop",
    "coupling": "sigma'",
    "rounds": "rounds",
    "seconds": "seconds",
    "gap": "gap",
    "primal": "primal",
    "visits": "visits in all",
    "visit_us": "us per visit",
}
SHARES = {"dense": 1.0, "5 % not zero": 0.05}

Matrix = NDArray[np.float64]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--tasks", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=10_000, help="of each task (default: %(default)s)")
    parser.add_argument("--features", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--losses", default=",".join(DUAL_LOSSES), help="default: %(default)s")
    parser.add_argument("--strength", type=float, default=1e-3, help="lambda (default: %(default)s)")
    parser.add_argument("--correlation", type=float, default=0.01, help="of two tasks (default: %(default)s)")
    parser.add_argument("--gap", type=float, default=1e-3, help="where the rounds end (default: %(default)s)")
    parser.add_argument("--most", type=int, default=200, help="rounds at most (default: %(default)s)")
    parser.add_argument("--passes", type=float, default=1.0, help="over a task's rows per round (default: %(default)s)")
    parser.add_argument("--numpy_visits", type=int, default=10_000, help="of the numpy loop (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of the visits (default: %(default)s)")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """A row per layout and loss, then a row per loss."""
    losses = [DUAL_LOSSES[name]() for name in options.losses.split(",")]
    sheet.columns(VISITS)
    for layout, share in SHARES.items():
        for loss in losses:
            compare(task(options, loss, 0, share), layout, options, sheet)
    sheet.note(f"The numpy loop was timed on {options.numpy_visits} visits per repeat, never on whole rounds.")
    sheet.columns(ROUNDS)
    for loss in losses:
        to_gap([task(options, loss, t) for t in range(options.tasks)], options, sheet)


def task(options: argparse.Namespace, loss: DualLoss, number: int, share: float = 1.0) -> Subproblem:
    """The rows of one task: entries of variance 1 (where they are not zero), a model of which half is common to all."""
    rng = np.random.Generator(np.random.PCG64(derive_seed(0, "rows", number)))
    common = np.random.Generator(np.random.PCG64(0)).standard_normal(options.features)
    x = rng.standard_normal((options.rows, options.features))
    x *= rng.random(x.shape) < share
    model = (common + rng.standard_normal(options.features)) / np.sqrt(2.0 * share * options.features)
    z = x @ model + rng.standard_normal(options.rows)
    y = np.where(z > 0.0, 1.0, -1.0) if loss.for_classes else z
    ones, coupling = np.ones(options.rows), 1.0 + options.correlation * (options.tasks - 1)
    return Subproblem(DesignMatrix.of(x), y, ones, loss, options.rows, options.strength, 1.0 / options.tasks, coupling)


def compare(problem: Subproblem, layout: str, options: argparse.Namespace, sheet: Sheet) -> None:
    """Seconds per visit of both loops."""
    visits = {"numpy": options.numpy_visits, "compiled": max(10 * options.numpy_visits, options.rows)}
    if not compiles():
        del visits["compiled"]
    found = interleaved({name: worker(problem, name, count) for name, count in visits.items()}, options.repeats)
    times = {name: seconds.scaled(1e6 / visits[name]) for name, seconds in found.items()}
    ratio = times["numpy"].median / times["compiled"].median if "compiled" in times else None
    sheet.row(
        layout=layout, loss=problem.loss.name, numpy_us=times["numpy"], compiled_us=times.get("compiled"), ratio=ratio
    )


def worker(problem: Subproblem, name: str, visits: int) -> Callable[[], None]:
    """Work that goes on from its last dual variables."""
    alpha, calls = np.zeros(len(problem.rows)), [0]

    def work() -> None:
        calls[0] += 1
        w = problem.factor * problem.rows.support(alpha)
        alpha[:] = solve(problem, w, alpha, calls[0], visits, compiled=name == "compiled").alpha

    return work


def to_gap(problems: list[Subproblem], options: argparse.Namespace, sheet: Sheet) -> None:
    """Rounds of all tasks until the duality gap is small."""
    first = problems[0]
    alphas = [np.zeros(options.rows) for _ in problems]
    b: Matrix = np.zeros((options.features, options.tasks))
    sigma = np.full((options.tasks, options.tasks), options.correlation / options.tasks)
    np.fill_diagonal(sigma, 1.0 / options.tasks)
    w: Matrix = b.copy()
    visits = round(options.passes * options.rows)
    solve(first, w[:, 0].copy(), alphas[0], 0, 1)  # compiles
    began, number, gap, primal, working = perf_counter(), 0, np.inf, np.inf, 0.0
    while gap > options.gap and number < options.most:
        number += 1
        for t, problem in enumerate(problems):
            since = perf_counter()
            solved = solve(problem, w[:, t].copy(), alphas[t], derive_seed(0, number, t), visits)
            working += perf_counter() - since
            alphas[t], b[:, t] = solved.alpha, solved.support / options.rows
        w = b @ sigma / options.strength
        sums = [measure(problem, w[:, t].copy(), alphas[t]) for t, problem in enumerate(problems)]
        penalty = float(np.sum(w * b)) / 2.0
        primal = sum(part.loss_sum for part in sums) / options.rows + penalty
        gap = primal - sum(part.dual_sum for part in sums) / options.rows + penalty
    done = number * visits * options.tasks
    sheet.row(
        loss=first.loss.name,
        solver="compiled" if compiles() else "numpy",
        coupling=first.coupling,
        rounds=number,
        seconds=perf_counter() - began,
        gap=gap,
        primal=primal,
        visits=done,
        visit_us=working / done * 1e6,
    )
