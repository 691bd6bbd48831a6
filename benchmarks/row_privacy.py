"""Noise that hides single rows, on schools: every school alone, one model for all, and MR-MTL between the two.

Each of 139 schools is a client with a linear model of examination scores (`--data` holds `school/all.npz`: x, y, task).
`local` shares nothing, `fedavg` averages everything (`sharing.plan: full`), and `mr_mtl` pulls the schools' own models
to their mean (`sharing.plan: soft`, `relation: mean`): Liu et al., NeurIPS 2022, "On privacy and personalization in
cross-silo federated learning", say that under noise of this kind it beats both ends. Columns are divided by 100 where
they are percentages, and scores by 70, less a half: numbers that are known without the rows. A step takes all rows of a
school.

Every fourth row is for test. Of the others, every fourth says which clip, rate, steps and strength each method gets:
the best of one grid, mean of three draws of noise, by the same steps in one process. Then each method is trained by the
product on all rows that are not for test, once for each seed; noise and first values differ, rows do not. What tuning
tells of rows is not within epsilon.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from time import perf_counter
from typing import Any

import numpy as np

import fedmtl
from benchmarks.mocha_rows import Matrix, Rows, read
from benchmarks.sheet import Sheet
from common.errors import RunFolderError
from common.privacy.accounting import noise_multiplier_for
from common.seeds import derive_seed

CHOSEN = {
    "method": "method",
    "clip": "clip",
    "rate": "learning rate",
    "steps": "steps of a round",
    "strength": "strength",
    "tuned": "error on validation rows",
}
FOUND = {
    "method": "method",
    "shown": "mean squared error on test rows",
    "lowest": "least to greatest",
    "rmse": "points",
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "local": {"sharing.plan": "local"},
    "fedavg": {"sharing.plan": "full", "aggregation.weights": "uniform"},
    "mr_mtl": {"sharing.plan": "soft", "sharing.members": "clients"},
}
CLIPS = (0.2, 0.4, 0.8, 1.6)
RATES = (0.1, 0.3, 1.0, 3.0)
STEPS = (2, 4, 8)
STRENGTHS = (0.03, 0.1, 0.3, 0.9, 3.0)
"""Of MR-MTL alone; times the rate they must stay below 1."""
DRAWS = 3
"""Of the noise, for every choice that is tried."""
POINTS = 70.0
"""The highest score."""
PERCENTAGES = (3, 4)
"""Pupils with free meals and in the highest band of verbal reasoning."""
CONSTANT = 27
"""A column of ones, for which the head has a bias."""
BATCH = 256
"""More than a school's rows: all of them take part in every step, and sums of gradients are divided by it."""


@dataclass(frozen=True)
class Choice:
    """What is tuned."""

    clip: float
    rate: float
    steps: int
    """Of a round."""
    strength: float = 0.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--data", type=Path, required=True, help="folder with school")
    parser.add_argument("--epsilon", type=float, default=6.0, help="of each school's rows (default: %(default)s)")
    parser.add_argument("--delta", type=float, default=1e-3, help="below one in a school's rows (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method (default: %(default)s)")
    parser.add_argument("--tasks", type=int, help="only so many of the schools")
    parser.add_argument("--rounds", type=int, default=12, help="of every run (default: %(default)s)")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """A row for what each method was given, one for each seed, and one for each method."""
    tasks = [public(rows) for rows in read(options.data / "school" / "all.npz")[: options.tasks]]
    train, test = parted(tasks)
    sheet.columns(CHOSEN)
    choices = {}
    for method in METHODS:
        choices[method], error = chosen(method, train, options)
        strength = choices[method].strength if method == "mr_mtl" else None
        sheet.row(method=method, tuned=f"{error:.5f}", **{**asdict(choices[method]), "strength": strength})
    sheet.columns({"seed": "seed", **dict(zip(METHODS, METHODS, strict=True)), "seconds": "s"})
    errors: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in range(1, options.seeds + 1):
        began = perf_counter()
        for method, choice in choices.items():
            errors[method].append(federated(method, choice, train, test, seed, options))
        shown = {method: f"{found[-1]:.5f}" for method, found in errors.items()}
        sheet.row(seed=seed, seconds=perf_counter() - began, **shown)
    sheet.columns(FOUND)
    for method, found in errors.items():
        mean, deviation = fmean(found), stdev(found) if len(found) > 1 else 0.0
        sheet.row(
            method=method,
            shown=f"{mean:.5f} ± {deviation:.5f}",
            lowest=f"{min(found):.5f} to {max(found):.5f}",
            rmse=POINTS * mean**0.5,
            error=mean,
            deviation=deviation,
        )


def public(rows: Rows) -> Rows:
    """Rows with columns and scores of at most 1, brought there by numbers that no row tells."""
    x = rows.x.copy()
    x[:, PERCENTAGES] /= 100.0
    return Rows(x[:, :CONSTANT], rows.y / POINTS - 0.5)


def parted(tasks: Sequence[Rows]) -> tuple[list[Rows], list[Rows]]:
    """Every task's rows but every fourth, and these."""
    places = [np.arange(len(rows.y)) for rows in tasks]
    kept = [rows.at(place[place % 4 != 3]) for rows, place in zip(tasks, places, strict=True)]
    return kept, [rows.at(place[place % 4 == 3]) for rows, place in zip(tasks, places, strict=True)]


def chosen(method: str, rows: Sequence[Rows], options: argparse.Namespace) -> tuple[Choice, float]:
    """What is best on every fourth of these rows, and its error there."""
    train, held = (Stacked.of(side) for side in parted(rows))
    found = [(tried(method, choice, train, held, options), choice) for choice in grid(method)]
    error, choice = min(found, key=lambda item: item[0])
    return choice, error


def grid(method: str) -> Iterator[Choice]:
    """All that is tried for a method."""
    strengths = STRENGTHS if method == "mr_mtl" else (0.0,)
    for clip, rate, steps, strength in product(CLIPS, RATES, STEPS, strengths):
        if strength * rate < 1.0:
            yield Choice(clip, rate, steps, strength)


@dataclass(frozen=True)
class Stacked:
    """The rows of all schools, float64 x (schools, rows, columns with a one) and y; those that are missing are zero."""

    x: Matrix
    y: Matrix

    @classmethod
    def of(cls, tasks: Sequence[Rows]) -> Stacked:
        """Of rows by school."""
        most = max(len(rows.y) for rows in tasks)
        x, y = np.zeros((len(tasks), most, tasks[0].x.shape[1] + 1)), np.zeros((len(tasks), most))
        for place, rows in enumerate(tasks):
            x[place, : len(rows.y)] = np.append(rows.x, np.ones((len(rows.y), 1)), axis=1)
            y[place, : len(rows.y)] = rows.y
        return cls(x, y)

    def misses(self, weights: Matrix) -> Matrix:
        """What models (schools, columns) say too much, of each row; missing rows have 0."""
        return np.asarray(np.matmul(self.x, weights[:, :, None])[:, :, 0] - self.y)

    def error(self, weights: Matrix) -> float:
        """The mean square of these over all rows that there are."""
        return float((self.misses(weights) ** 2).sum() / self.x[:, :, -1].sum())


def tried(method: str, choice: Choice, train: Stacked, held: Stacked, options: argparse.Namespace) -> float:
    """The error on other rows, mean of some draws of noise, by the steps that the product takes."""
    schools, _, columns = train.x.shape
    multiplier = noise_multiplier_for(options.epsilon, options.delta, options.rounds * choice.steps)
    lengths = np.linalg.norm(train.x, axis=2)
    found = []
    for draw in range(DRAWS):
        rng = np.random.Generator(np.random.PCG64(derive_seed(draw, "row_privacy")))
        weights, anchor = np.zeros((schools, columns)), np.zeros(columns)
        for step in range(options.rounds * choice.steps):
            if step % choice.steps == 0:
                anchor = weights.mean(axis=0)
                weights = np.broadcast_to(anchor, weights.shape) if method == "fedavg" else weights
            slopes = 2.0 * train.misses(weights)
            slopes *= choice.clip / np.maximum(np.abs(slopes) * lengths, choice.clip)
            total = np.matmul(slopes[:, None, :], train.x)[:, 0, :]
            total += rng.normal(0.0, multiplier * choice.clip, total.shape)
            weights = weights - choice.rate * (total / BATCH + choice.strength * (weights - anchor))
        if method == "fedavg":
            weights = np.broadcast_to(weights.mean(axis=0), weights.shape)
        found.append(held.error(weights))
    return fmean(found)


def federated(
    method: str, choice: Choice, train: Sequence[Rows], test: Sequence[Rows], seed: int, options: argparse.Namespace
) -> float:
    """The error on test rows of a simulated federation with a client for each school.

    Its clients tell the simulation their errors on test rows, which is for this measurement alone.
    """
    sites = {
        f"school-{place}": {"score": (seen.x, seen.y, unseen.x, unseen.y)}
        for place, (seen, unseen) in enumerate(zip(train, test, strict=True))
    }
    settings = {
        **METHODS[method],
        "run.seed": seed,
        "training.num_rounds": options.rounds,
        "training.local_epochs": choice.steps,
        "training.batch_size": BATCH,
        "training.eval_batch_size": BATCH,
        "training.optimizer": "sgd",
        "training.learning_rate": choice.rate,
        "federation.min_clients": len(sites),
        "model.keep.best": "none",
        "privacy.noise": "rows",
        "privacy.clip": choice.clip,
        "privacy.epsilon": options.epsilon,
        "privacy.delta": options.delta,
        "privacy.scores": "exact",
    }
    if method == "mr_mtl":
        settings["relation"] = {"name": "mean", "strength": choice.strength}
    encoder = {"mlp": {"hidden": [], "dropout": 0.0}}
    with tempfile.TemporaryDirectory() as folder:
        done = fedmtl.simulate({"score": fedmtl.regression()}, sites, encoder, settings, Path(folder) / "run")
    found = done.report.tasks["score"].metrics["rmse"]
    if found is None:
        raise RunFolderError(f"{method}: the last version has no score")
    return float(found) ** 2
