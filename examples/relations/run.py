"""Does it help to couple tasks? A tutorial's claim on its own data, and data where theory knows the answer.

`tutorial` draws the data of a tutorial on federated multi-task learning; `known` draws linear tasks whose relationship
is known. Both are generated.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fedmtl

FEATURES, CLASSES = 32, 10
LABELS = [str(number) for number in range(CLASSES)]
TASKS, CLIENTS = "abcde", 6
MEMBERS = [f"m{number}" for number in range(10)]
NEAR = {"x": MEMBERS[:5], "y": MEMBERS[5:]}
KINDS = ("related", "opposites", "unrelated")
CLAIMS = {"independent": "slow, 0.8", "clustered": "medium, 0.5", "fully connected": "fast, 0.4"}
WAYS: dict[str, Mapping[str, Any]] = {
    "independent": {"name": "mocha", "learn": "none"},
    "clustered": {"name": "clusters"},
    "fully connected": {"name": "mean"},
    "learned": {"name": "mocha", "floor": 0.05},
}
"""Relations. On known data `independent` has the pull to the first values that a learned one has for members that are
not related; in the tutorial nobody is pulled."""
ONE = "one base for all"
"""What the tutorial's program computes, whatever its table says: no relation, one base."""
SETTINGS: dict[str, Any] = {
    **{"training.optimizer": "sgd", "training.max_grad_norm": 0, "training.local_epochs": 5, "training.batch_size": 32},
    **{"client.threads": 1, "run.seed": 1, "model.keep.best": "none"},
}
Sites = dict[str, dict[str, Sequence[Any]]]


class Curve(NamedTuple):
    """Means over tasks, version by version from 0, and of the last round's local training."""

    held_out: list[float]
    training: float


def tutorial(seed: int) -> Sites:
    """Five tasks of six clients with 50 to 149 rows each.

    Task t draws x ~ N(0, I) and y = (u + t) mod 10 with u uniform, and adds 2 to x_y. u + t is uniform too, so all
    tasks have one distribution: they are related by being the same.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    sites: Sites = {}
    for shift, task in enumerate(TASKS):
        for client in range(CLIENTS):
            parts: list[Any] = []
            for rows in (int(rng.integers(50, 150)), 200):
                x, y = rng.standard_normal((rows, FEATURES)), (rng.integers(0, CLASSES, rows) + shift) % CLASSES
                x[np.arange(rows), y] += 2.0
                parts += [x.astype(np.float32), y.astype(str)]
            sites[f"{task}{client}"] = {task: parts}
    return sites


def least_loss(rows: int = 200_000) -> float:
    """The least cross-entropy that any model can have on new rows of the tutorial: that of p(y | x), exp(2 x_y)."""
    rng = np.random.Generator(np.random.PCG64(0))
    x, y = rng.standard_normal((rows, CLASSES)), rng.integers(0, CLASSES, rows)
    x[np.arange(rows), y] += 2.0
    return float(np.mean(np.log(np.exp(2.0 * x).sum(axis=1)) - 2.0 * x[np.arange(rows), y]))


def known(kind: str, seed: int, rows: int) -> Sites:
    """Ten tasks of one client each, y ~ softmax(W_k'x); entries of W_k have variance 1.04, whatever the kind.

    All W_k are near one, or five near one and five near its opposite, or each is drawn for itself.
    """
    rng = np.random.Generator(np.random.PCG64([seed, KINDS.index(kind)]))
    centre, own = rng.normal(size=(FEATURES, CLASSES)), rng.normal(size=(len(MEMBERS), FEATURES, CLASSES))
    signs = [1.0 if name in NEAR["x"] or kind == "related" else -1.0 for name in MEMBERS]
    truth = 1.02 * own if kind == "unrelated" else np.multiply.outer(signs, centre) + 0.2 * own
    sites: Sites = {}
    for member, weights in zip(MEMBERS, truth, strict=True):
        parts: list[Any] = []
        for count in (rows, 500):
            x = rng.standard_normal((count, FEATURES))
            y = (x @ weights + rng.gumbel(size=(count, CLASSES))).argmax(axis=1)
            parts += [x.astype(np.float32), y.astype(str)]
        sites[member] = {"label": parts}
    return sites


def curve(sites: Sites, tasks: Sequence[str], hidden: Sequence[int], settings: Mapping[str, Any]) -> Curve:
    """Run a federation."""
    described = {task: fedmtl.classification(LABELS, metrics=["accuracy"]) for task in tasks}
    encoder = {"mlp": {"hidden": list(hidden)}}
    with tempfile.TemporaryDirectory() as folder:
        chosen = {**SETTINGS, "federation.min_clients": len(sites), **settings}
        report = fedmtl.simulate(described, sites, encoder, chosen, Path(folder) / "run").report
    versions: dict[int, list[float]] = {}
    last: dict[str, float] = {}
    for name, task in report.tasks.items():
        for entry in task.history:
            if (loss := entry.scores.get("loss")) is not None:
                versions.setdefault(entry.round, []).append(loss)
            if entry.local_training_loss_next_round is not None:
                last[name] = entry.local_training_loss_next_round
    held_out = [float(np.mean(versions[version])) for version in sorted(versions)]
    return Curve(held_out, float(np.mean(list(last.values()))))


def tried(job: tuple[str, str, int, int]) -> Curve:
    """One way on one kind of data; a job is (way, kind, seed, rounds)."""
    way, kind, seed, rounds = job
    settings: dict[str, Any] = {"training.num_rounds": rounds}
    if way != ONE and (way, kind) != ("independent", "tutorial"):
        settings |= {"relation": dict(WAYS[way]), "training.proximal_step": "proximal"}
    if kind == "tutorial":
        settings |= {"relation": "none"} if way == "independent" else {}
        settings |= {"training.learning_rate": 0.01, "federation.client_fraction": 0.3}
        settings |= {"sharing.plan": "hard" if way == ONE else "soft"}
        if way == "clustered":
            settings["relation"]["clusters"] = {"x": list(TASKS[:3]), "y": list(TASKS[3:])}
        return curve(tutorial(seed), TASKS, (64, 64), settings)
    settings |= {"training.learning_rate": 0.3, "sharing.members": "clients"}
    settings |= {"sharing.plan": "rules", "sharing.rules": [{"*": "member/{member}"}]}
    if way == "clustered":
        settings["relation"]["clusters"] = NEAR
    return curve(known(kind, seed, 60), ["label"], (), settings)


def compared(jobs: Sequence[tuple[str, str, int, int]], processes: int) -> list[Curve]:
    """All jobs, so many at a time."""
    if processes == 1:
        return [tried(job) for job in jobs]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return list(pool.map(tried, jobs))


def fallen(found: Curve, share: float = 0.05) -> str:
    """The first version whose held-out loss is below that of version 0 by a share of it."""
    first = found.held_out[0]
    return str(next((v for v, loss in enumerate(found.held_out) if loss < (1.0 - share) * first), "never"))


def table(found: Mapping[str, Curve]) -> str:
    """The tutorial's table with our numbers beside its claims, as Markdown."""
    lines = [
        "| relation | the tutorial's claim | rounds to lose 5 % | last training loss | held-out loss |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way, each in found.items():
        numbers = f"{fallen(each)} | {each.training:.3f} | {each.held_out[-1]:.3f}"
        lines.append(f"| {way} | {CLAIMS.get(way, '-')} | {numbers} |")
    return "\n".join(lines)


def known_table(found: Mapping[tuple[str, str], Sequence[Curve]]) -> str:
    """Held-out losses where the relationship is known, mean over seeds, as Markdown."""
    lines = ["| held-out loss | " + " | ".join(KINDS) + " |", "| --- " * (len(KINDS) + 1) + "|"]
    for way in WAYS:
        cells = (f"{np.mean([each.held_out[-1] for each in found[way, kind]]):.3f}" for kind in KINDS)
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: Mapping[str, Curve], path: str) -> None:
    """Held-out losses on the tutorial's data, by round."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--picture needs the package matplotlib: pip install 'fedmtl[pictures]'") from None
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    for way, each in found.items():
        axis.plot(each.held_out, label=way)
    axis.set_xlabel("round")
    axis.set_ylabel("held-out loss")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="of the tutorial; the other data has two fifths of them")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the other data to take the mean over")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--picture", help="file to draw curves into, e.g. relations.png")
    args = parser.parse_args()
    few = max(1, args.rounds * 2 // 5)
    jobs = [(way, "tutorial", 0, args.rounds) for way in (*WAYS, ONE)]
    jobs += [(way, kind, seed, few) for kind in KINDS for way in WAYS for seed in range(1, args.seeds + 1)]
    curves = dict(zip(jobs, compared(jobs, args.processes), strict=True))
    own = {way: curves[way, "tutorial", 0, args.rounds] for way in (*WAYS, ONE)}
    print(table(own))
    print(f"\nNo model can have a held-out loss below {least_loss():.3f}.\n")
    pairs = [(way, kind) for way in WAYS for kind in KINDS]
    print(known_table({(w, k): [curves[w, k, seed, few] for seed in range(1, args.seeds + 1)] for w, k in pairs}))
    if args.picture:
        draw(own, args.picture)


if __name__ == "__main__":
    main()
