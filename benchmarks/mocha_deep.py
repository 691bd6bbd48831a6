"""Land mines with a multilayer perceptron: MOCHA's relation beside fields alone, one encoder, and one that is split.

Each field is a site with a task and a head of its own, over an encoder with one hidden layer. `local` trains a model
per field, `hard` averages one encoder, `adaptive` starts with that and parts fields whose steps disagree. In `mocha`
every field has its own encoder, pulled to others by a Sigma that is learned of them (`sharing.plan: soft`). Each method
has the learning rate that is best in cross-validation on the training rows of the first shuffle. Scores are those of
the last version, on test rows.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

import fedmtl
from benchmarks.mocha_rows import Problem, Rows, derive_folds, read
from benchmarks.sheet import Sheet
from benchmarks.spread import Spread
from fedmtl.configured import Settings

NAME = "landmine_mlp"
ENCODER = {"mlp": {"hidden": [16]}}
RATES = (1e-3, 3e-3, 1e-2)
ROUNDS = 20
METHODS: Mapping[str, Settings] = {
    "local": {"sharing.plan": "local"},
    "hard": {},
    "adaptive": {"sharing.plan": "adaptive"},
    "mocha": {"sharing.plan": "soft", "relation": {"name": "mocha", "floor": 0.05}},
}
SETTINGS = {"training.local_epochs": 2, "training.batch_size": 16, "training.eval_batch_size": 1024}


def run(problem: Problem, options: argparse.Namespace, sheet: Sheet) -> None:
    """A row for each method."""
    tasks = read(options.data / problem.name / "all.npz")[: options.tasks]
    splits = [problem.split(tasks, shuffle) for shuffle in range(1, options.shuffles + 1)]
    rounds = min(ROUNDS, options.rounds)
    for method, settings in METHODS.items():
        began = perf_counter()
        rates = {rate: {**settings, "training.learning_rate": rate, "training.num_rounds": rounds} for rate in RATES}
        rate = max(RATES, key=lambda rate: validated(rates[rate], splits[0][0], options.folds))
        sheet.row(
            problem=f"{NAME} ({problem.metric})",
            method=method,
            rate=rate,
            score=Spread.of([mean_area(rates[rate], *split) for split in splits]),
            rounds=rounds,
            seconds=perf_counter() - began,
        )


def validated(settings: Settings, train: Sequence[Rows], count: int) -> float:
    """The mean area in cross-validation with so many folds."""
    folds = [derive_folds(rows, task, count) for task, rows in enumerate(train)]
    found = []
    for fold in range(count):
        kept, held = (
            [rows.at(np.flatnonzero((side != fold) == is_kept)) for rows, side in zip(train, folds, strict=True)]
            for is_kept in (True, False)
        )
        found.append(mean_area(settings, kept, held))
    return float(np.mean(found))


def mean_area(settings: Settings, train: Sequence[Rows], test: Sequence[Rows]) -> float:
    """Over the fields that have both classes to score."""
    kind = fedmtl.classification(["no", "yes"], class_weights="balanced", metrics=["auc_mean"])
    names = [f"field{number}" for number in range(len(train))]
    sites = {
        name: {name: (seen.x, seen.y, unseen.x, unseen.y)}
        for name, seen, unseen in zip(names, train, test, strict=True)
    }
    all_settings = {**SETTINGS, "federation.min_clients": len(sites), **settings}
    with tempfile.TemporaryDirectory() as folder:
        done = fedmtl.simulate(dict.fromkeys(names, kind), sites, ENCODER, all_settings, Path(folder) / "run")
    found = [done.report.tasks[name].metrics["auc_mean"] for name in names]
    return float(np.mean([area for area in found if area is not None]))
