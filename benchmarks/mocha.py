"""MOCHA on its own problems: land mines (AUC) and schools (RMSE), against heads alone and one head for all.

`--data` holds `landmine/all.npz` and `school/all.npz` (x, y, task). Each method solves the same objective, a mean loss
per task and (lambda / 2) tr(W Omega W'), in a simulated federation of one site per task: `local` with Sigma = I/m,
`mean` with every head pulled to the mean of all, and `mocha` with a Sigma that is learned. `pooled` is one head at one
site with the rows of all: what giving up the data would bring. Columns are standardised by training rows, each field's
by its own and the schools' by those of all; class weights are balanced by them, and scores have mean 0 and deviation 1
in every school. Lambda and the relation's parameter are the best in cross-validation on the training rows of the first
shuffle, by the same solver in one process. The gap is the certificate of the version that is scored.
`landmine_mlp` is the first of them with a network, see `benchmarks/mocha_deep.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

import fedmtl
from benchmarks import mocha_deep
from benchmarks.mocha_rows import Matrix, Problem, Rows, derive_folds, read, together
from benchmarks.sheet import Sheet
from benchmarks.spread import Spread
from client.training.design import DesignMatrix
from client.training.sdca import Subproblem, solve
from common.class_weights import balanced_classes
from common.export.graph import TaskGraph
from common.methods.covariance import independent
from common.methods.dual_losses import DUAL_LOSSES
from common.methods.relation import Relation
from common.methods.relations import RELATIONS
from common.seeds import derive_seed
from server.runs.saved import SavedRun, load_run

TABLE = {
    "problem": "problem",
    "method": "method",
    "strength": "lambda",
    "rate": "learning rate",
    "score": "score on test rows",
    "gap": "gap",
    "rounds": "rounds",
    "seconds": "s",
}


PROBLEMS = (
    Problem("landmine", "auc", "hinge", 0.2, False, (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)),
    Problem("school", "rmse", "squared", 0.0, True, (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)),
)
NAMES = (*(problem.name for problem in PROBLEMS), mocha_deep.NAME)
ROUNDS = 30
"""Of the solver in one process."""
METHODS: Mapping[str, Sequence[Mapping[str, Any] | None]] = {
    "local": (None,),
    "pooled": (None,),
    "mean": tuple({"name": "mean", "strength": strength} for strength in (3.0, 10.0, 30.0, 100.0)),
    "mocha": tuple({"name": "mocha", "floor": floor, "every": 5} for floor in (0.001, 0.01, 0.1)),
}
"""The relations that cross-validation chooses from."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--data", type=Path, required=True, help="folder with landmine and school")
    parser.add_argument(
        "--problems", type=_problems, default=[*NAMES], help=f"of {', '.join(NAMES)}, with commas; default: all"
    )
    parser.add_argument("--shuffles", type=int, default=3, help="of landmine (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation (default: %(default)s)")
    parser.add_argument("--tasks", type=int, help="only so many of the tasks")
    parser.add_argument("--rounds", type=int, default=100, help="at most (default: %(default)s)")
    parser.add_argument("--gap", type=float, default=0.02, help="where runs end, per task (default: %(default)s)")


def _problems(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted({*names} - {*NAMES}):
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(NAMES)}")
    return names


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """A row for each problem and method."""
    sheet.columns(TABLE)
    for problem in PROBLEMS:
        if problem.name not in options.problems:
            continue
        tasks = read(options.data / problem.name / "all.npz")[: options.tasks]
        shuffles = range(1, (options.shuffles if problem.share else 1) + 1)
        splits = [problem.split(tasks, shuffle) for shuffle in shuffles]
        for method, relations in METHODS.items():
            began = perf_counter()
            strength, relation = chosen(problem, method, relations, splits[0][0], options.folds)
            found = [federated(problem, method, strength, relation, *split, options) for split in splits]
            scores, gaps, rounds = zip(*found, strict=True)
            sheet.row(
                problem=f"{problem.name} ({problem.metric})",
                method=f"{method} {dict(relation)}" if relation else method,
                strength=strength,
                score=Spread.of(list(scores)),
                gap=max(gaps),
                rounds=max(rounds),
                seconds=perf_counter() - began,
            )
    if mocha_deep.NAME in options.problems:
        mocha_deep.run(PROBLEMS[0], options, sheet)


def chosen(
    problem: Problem, method: str, relations: Sequence[Mapping[str, Any] | None], train: Sequence[Rows], count: int
) -> tuple[float, Mapping[str, Any] | None]:
    """Lambda and relation that are best on rows that were held out of the training rows, all `count` folds together."""
    folds = [derive_folds(rows, place, count) for place, rows in enumerate(train)]
    found = []
    for relation in relations:
        for strength in problem.strengths:
            said = [np.zeros(len(rows.y)) for rows in train]
            for fold in range(count):
                kept = [rows.at(np.flatnonzero(side != fold)) for rows, side in zip(train, folds, strict=True)]
                fitted = central(problem, method, strength, relation, kept)
                for task, (rows, side) in enumerate(zip(train, folds, strict=True)):
                    said[task][side == fold] = fitted[task].scores(rows.x[side == fold])
            found.append((problem.better(problem.score(said, train)), strength, relation))
    return max(found, key=lambda item: item[0])[1:]


@dataclass(frozen=True)
class Fitted:
    """A head in the units of its task."""

    weights: Matrix
    mean: float
    scale: float

    def scores(self, x: Matrix) -> Matrix:
        """What it says of rows."""
        return self.mean + self.scale * (with_bias(x) @ self.weights)


def central(
    problem: Problem, method: str, strength: float, relation: Mapping[str, Any] | None, train: Sequence[Rows]
) -> list[Fitted]:
    """The heads of all tasks, solved in one process, one task after the other; rows of `pooled` are one task's."""
    parts = [together(train)] if method == "pooled" else train
    units = [problem.unit(r) for r in parts]
    row = RELATIONS[relation["name"]].of({k: v for k, v in relation.items() if k != "name"}) if relation else None
    ids = tuple(map(str, range(len(parts))))
    sigma = covariance(row, ids, None)
    problems = [subproblem(problem, r, strength, unit) for r, unit in zip(parts, units, strict=True)]
    supports, alphas = np.zeros((len(parts), problems[0].rows.features)), [np.zeros(len(r.y)) for r in parts]
    for number in range(ROUNDS):
        if row is not None and row.learns_after(number):
            weights = sigma @ supports / strength
            sigma = covariance(row, ids, weights @ weights.T)
        for t, part in enumerate(problems):
            local = replace(part, sigma=float(sigma[t, t]))
            solved = solve(local, sigma[t] @ supports / strength, alphas[t], derive_seed(number, t), 2 * part.count)
            alphas[t], supports[t] = solved.alpha, solved.support / part.count
    weights = sigma @ supports / strength
    heads = [Fitted(w, *unit) for w, unit in zip(weights, units, strict=True)]
    return heads * len(train) if method == "pooled" else heads


def covariance(row: Relation | None, ids: tuple[str, ...], gram: Matrix | None) -> Matrix:
    """Sigma as the relation says."""
    found = row.covariance(ids, gram) if row is not None else None
    return independent(len(ids)) if found is None else found


def subproblem(problem: Problem, rows: Rows, strength: float, unit: tuple[float, float]) -> Subproblem:
    """A task's problem, not yet related to others."""
    y = np.where(rows.y > 0.0, 1.0, -1.0) if problem.has_classes else (rows.y - unit[0]) / unit[1]
    counts = [float((rows.y <= 0.0).sum()), float((rows.y > 0.0).sum())]
    weights = balanced_classes(counts, len(y)) if problem.has_classes else (1.0, 1.0)
    each = np.where(y > 0.0, weights[1], weights[0]) if problem.has_classes else np.ones(len(y))
    return Subproblem(DesignMatrix.of(with_bias(rows.x)), y, each, DUAL_LOSSES[problem.loss](), len(y), strength, 1.0)


def with_bias(x: Matrix) -> Matrix:
    """Rows with a constant number at the end."""
    return np.append(x, np.ones((len(x), 1)), axis=1)


def federated(
    problem: Problem,
    method: str,
    strength: float,
    relation: Mapping[str, Any] | None,
    train: Sequence[Rows],
    test: Sequence[Rows],
    options: argparse.Namespace,
) -> tuple[float, float, int]:
    """Score on the test rows, gap and rounds of a simulated federation with a site for each task."""
    balanced = {"class_weights": "balanced", "metrics": ["auc_mean"]}
    kind = fedmtl.classification(["no", "yes"], **balanced) if problem.has_classes else fedmtl.regression()
    parts = [together(train)] if method == "pooled" else train
    names, units = [f"task{number}" for number in range(len(parts))], [problem.unit(r) for r in parts]
    targets = [(r.y - mean) / scale for r, (mean, scale) in zip(parts, units, strict=True)]
    sites = {f"site-{name}": {name: (r.x, y, r.x[:1], y[:1])} for name, r, y in zip(names, parts, targets, strict=True)}
    solver = {"name": "sdca", "loss": problem.loss, "strength": strength, "passes": 10.0}
    settings = {
        "training.procedure": solver,
        "training.num_rounds": options.rounds,
        "training.stop_at_gap": options.gap * len(names),
        "relation": dict(relation) if relation else "none",
        "federation.min_clients": len(sites),
        "model.keep.best": "none",
    }
    run = fedmtl.simulate(dict.fromkeys(names, kind), sites, {"mlp": {"hidden": []}}, settings)
    saved = load_run(run.folder)
    heads = list(zip(names, units, strict=True)) * (len(test) if method == "pooled" else 1)
    said = [
        mean + scale * scores_of(saved, problem, name, rows.x)
        for (name, (mean, scale)), rows in zip(heads, test, strict=True)
    ]
    certificate = run.report.certificates[-1]
    return problem.score(said, test), certificate.gap, certificate.version


def scores_of(run: SavedRun, problem: Problem, task: str, x: Matrix) -> Matrix:
    """How much class `yes` is more likely than the other, or a regression's number."""
    with torch.inference_mode():
        outputs = TaskGraph(run.trained(task))(torch.from_numpy(x).float()).double().numpy()
    return np.asarray(outputs[:, 1] - outputs[:, 0] if problem.has_classes else outputs[:, 0])
