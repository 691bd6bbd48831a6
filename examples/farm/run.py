"""Farms that share a model of leaves and soil, though some have no camera.

The data is generated: `field_of` draws a plot's disease and soil, a picture of its leaf, and six soil measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import fedmtl
from examples.runs import figure, markdown, options, report_of, tuned

EDGE, SOIL = 8, 6
CAMERAS = {"north": True, "south": True, "east": False, "west": False}
IMAGE = {"conv2d": {"shape": [1, EDGE, EDGE], "filters": [8], "hidden": 16}}
TABLE = {"mlp": {"features": SOIL, "hidden": [32]}}
BOTH: dict[str, Any] = {"several": {"parts": {"image": IMAGE, "soil": TABLE}, "hidden": 32}}
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "each farm alone": (BOTH, "local"),
    "shared, soil only": ({"several": {"parts": {"soil": TABLE}, "hidden": 32}}, "hard"),
    "shared, with parts": (BOTH, "hard"),
}
"""What is compared: an encoder and a sharing plan."""
METRICS = (("blight", "accuracy"), ("harvest", "mae"))
RATES = (3e-3, 1e-2)
TASKS = {
    "blight": fedmtl.classification(["no", "yes"], metrics=["accuracy"]),
    "harvest": fedmtl.regression(metrics=["mae"]),
}


def field_of(rng: np.random.Generator, plots: int, camera: bool) -> tuple[dict[str, Any], Any, Any]:
    """Plots of one farm: what is measured, whether there is blight, and the harvest in tonnes.

    A leaf has bright spots, more of them the sicker it is, on noise. Blight comes with sickness and with the first two
    measurements; the harvest falls with sickness and follows the next two.
    """
    sick, soil = rng.normal(size=plots), rng.normal(size=(plots, SOIL)).astype(np.float32)
    blight = sick + soil[:, 0] - soil[:, 1] + 0.3 * rng.normal(size=plots) > 0
    harvest = 6 + np.tanh(soil[:, 2]) + 0.7 * soil[:, 3] - 0.8 * sick + 0.3 * rng.normal(size=plots)
    x: dict[str, Any] = {"soil": soil}
    if camera:
        leaves = 0.3 * rng.normal(size=(plots, 1, EDGE, EDGE)).astype(np.float32)
        for leaf, spots in zip(leaves, rng.poisson(np.exp(0.7 * sick + 1)), strict=True):
            for row, column in rng.integers(EDGE - 1, size=(spots, 2)):
                leaf[0, row : row + 2, column : column + 2] += 1
        x["image"] = leaves
    return x, np.where(blight, "yes", "no"), harvest


def farms(seed: int, plots: int) -> dict[str, dict[str, Sequence[Any]]]:
    """Rows to train on, and five times as many to score on, of every farm."""
    sites: dict[str, dict[str, Sequence[Any]]] = {}
    for number, (name, camera) in enumerate(CAMERAS.items()):
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        x, blight, harvest = field_of(rng, plots, camera)
        xv, blight_v, harvest_v = field_of(rng, 5 * plots, camera)
        sites[name] = {"blight": (x, blight, xv, blight_v), "harvest": (x, harvest, xv, harvest_v)}
    return sites


def scores(way: str, plots: int, rounds: int, rate: float, seed: int) -> np.ndarray:
    """Accuracy of blight and error of harvest, for farms with a camera and without: (2, 2)."""
    encoder, plan = WAYS[way]
    only = encoder["several"]["parts"]
    mine = {
        site: {
            task: tuple({k: v for k, v in part.items() if k in only} if isinstance(part, dict) else part for part in x)
            for task, x in rows.items()
        }
        for site, rows in farms(seed, plots).items()
    }
    settings = {
        **{"sharing.plan": plan, "training.learning_rate": rate, "training.num_rounds": rounds, "run.seed": 1},
        **{"training.local_epochs": 4, "training.batch_size": 16},
    }
    clients = report_of(TASKS, mine, encoder, settings).clients
    return np.array(
        [
            [
                np.mean([clients[site].scores[task].scores[metric] for site in CAMERAS if CAMERAS[site] is camera])
                for camera in (True, False)
            ]
            for task, metric in METRICS
        ]
    )


def compared(plots: int, rounds: int, seeds: int) -> dict[str, tuple[float, np.ndarray]]:
    """Each way's own rate, and its mean scores in the years after that by which it was chosen."""
    found = {}
    for way in WAYS:
        rate, years = tuned(
            lambda rate, seed, way=way: scores(way, plots, rounds, rate, seed),  # type: ignore[misc]
            RATES,
            seeds,
            lambda year: float(year[0].mean() - year[1].mean()),
        )
        found[way] = rate, years.mean(axis=0)
    return found


def table(found: Mapping[str, tuple[float, np.ndarray]]) -> str:
    """The scores as Markdown."""
    head = ["", "rate", "blight, accuracy: with camera", "without", "harvest, mean error in t: with camera", "without"]
    rows = [(way, [f"{rate:g}", *(f"{value:.3f}" for value in means.flat)]) for way, (rate, means) in found.items()]
    return markdown(head, rows)


def draw(found: Mapping[str, tuple[float, np.ndarray]], path: str) -> None:
    """Leaves of three plots, and the scores."""
    drawn = figure(9, 3.2)
    axes = drawn.subplots(1, 5, width_ratios=[1, 1, 1, 3, 3])
    leaves = field_of(np.random.Generator(np.random.PCG64(3)), 3, camera=True)[0]["image"]
    for axis, leaf in zip(axes, leaves, strict=False):
        axis.imshow(leaf[0], cmap="Greens_r")
        axis.set_axis_off()
    for axis, side, title in zip(axes[3:], (0, 1), ("blight, accuracy", "harvest, mean error in t"), strict=True):
        for number, (way, (_, means)) in enumerate(found.items()):
            axis.bar(np.arange(2) + 0.27 * (number - 1), means[side], 0.25, label=way)
        axis.set_xticks([0, 1], ["with camera", "without"])
        axis.set_title(title)
    axes[3].set_ylim(0.5, 1)
    axes[4].legend(fontsize="small", loc="lower right")
    drawn.savefig(path, dpi=150)


def main() -> None:
    """Print the table."""
    args = options(__doc__, "plots", 80, rounds=6, seeds=2).parse_args()
    found = compared(args.rows, args.rounds, args.seeds)
    print(table(found))
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
