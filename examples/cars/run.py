"""What every pixel of a street shows, how far it is, and how many cars there are, at sites that have two of the three.

The data is generated: see `examples.cars.scene`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import fedmtl
from examples.cars.scene import CLASSES, Streets, streets
from examples.runs import figure, markdown, options, report_of, spread

METRICS = {"parts": "iou", "depth": "rmse", "cars": "mae"}
TASKS = {
    "parts": fedmtl.dense_classification([*CLASSES], metrics=["iou"]),
    "depth": fedmtl.dense_regression(metrics=["rmse"]),
    "cars": fedmtl.regression(metrics=["mae"]),
}
LABELLED = {
    "north": ("parts", "depth"),
    "east": ("depth", "cars"),
    "south": ("cars", "parts"),
    "west": ("parts", "depth"),
}
"""Which labels each site has."""
ENCODER = {"conv2d": {"filters": [12, 24], "hidden": 32}}
WAYS = {"each site alone": "local", "shared": "hard", "learned relations": "adaptive"}
"""What is compared: sharing plans."""
RATE = 1e-2
"""Of 0.003 and 0.01 the one that served every way best on streets of its own (seed 0)."""


def labels_of(seen: Streets) -> dict[str, np.ndarray]:
    """What each task wants to know."""
    return {"parts": seen.classes, "depth": seen.depths, "cars": seen.cars}


def sites(seed: int, rows: int) -> dict[str, dict[str, Sequence[Any]]]:
    """Streets to train on, and twice as many to score on, of every site."""
    found = {}
    for number, (site, tasks) in enumerate(LABELLED.items()):
        mine, others = streets(rows, [seed, number, 0]), streets(2 * rows, [seed, number, 1])
        known, later = labels_of(mine), labels_of(others)
        found[site] = {task: (mine.pictures, known[task], others.pictures, later[task]) for task in tasks}
    return found


def scores(plan: str, rows: int, rounds: int, seed: int) -> np.ndarray:
    """The score of each task in the last version, over the streets of all its sites: (3,)."""
    settings = {
        **{"sharing.plan": plan, "training.learning_rate": RATE, "training.num_rounds": rounds, "run.seed": 1},
        **{"training.local_epochs": 2, "training.batch_size": 8},
    }
    found = report_of(TASKS, sites(seed, rows), ENCODER, settings).tasks
    return np.array([found[task].metrics[metric] for task, metric in METRICS.items()])


def compared(rows: int, rounds: int, seeds: int) -> dict[str, np.ndarray]:
    """Each way's scores on several draws of streets, (seeds, 3)."""
    return {
        way: np.array([scores(plan, rows, rounds, seed) for seed in range(1, seeds + 1)]) for way, plan in WAYS.items()
    }


def table(found: Mapping[str, np.ndarray]) -> str:
    """Means and deviations over the seeds as Markdown."""
    head = ["", "parts, mean IoU", "depth, error in m (RMSE)", "cars, mean error"]
    return markdown(head, [(way, spread(seeds)) for way, seeds in found.items()])


def draw(found: Mapping[str, np.ndarray], path: str) -> None:
    """A street with its labels, and the scores."""
    drawn, street = figure(9, 3.4), streets(1, [0, 0, 2])
    (top, bottom) = drawn.subplots(2, 3)
    shown = (
        ("street", street.pictures[0].transpose(1, 2, 0)),
        ("parts", street.classes[0]),
        ("depth", street.depths[0]),
    )
    for axis, (title, image) in zip(top, shown, strict=True):
        axis.imshow(image)
        axis.set_title(title)
        axis.set_axis_off()
    for number, (axis, (task, metric)) in enumerate(zip(bottom, METRICS.items(), strict=True)):
        for place, (way, seeds) in enumerate(found.items()):
            axis.bar(place, seeds[:, number].mean(), 0.8, label=way)
            axis.plot([place] * len(seeds), seeds[:, number], "k.", markersize=4)
        axis.set_xticks([])
        axis.set_title(f"{task}, {metric}", fontsize="small")
    drawn.legend(*bottom[0].get_legend_handles_labels(), fontsize="small", loc="outside lower center", ncols=3)
    drawn.savefig(path, dpi=150)


def main() -> None:
    """Print the table."""
    args = options(__doc__, "streets", 24, rounds=14, seeds=2).parse_args()
    found = compared(args.rows, args.rounds, args.seeds)
    print(table(found))
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
