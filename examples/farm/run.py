"""Farms that share a model of leaves and soil, though some have no camera.

The data is generated: `field_of` draws a plot's disease and soil, a picture of its leaf, and six soil measurements.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fedmtl

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


def scores(way: str, sites: Mapping[str, Any], rate: float, rounds: int) -> np.ndarray:
    """Accuracy of blight and error of harvest, for farms with a camera and without: (2, 2)."""
    encoder, plan = WAYS[way]
    only = encoder["several"]["parts"]
    mine = {
        site: {
            task: tuple({k: v for k, v in part.items() if k in only} if isinstance(part, dict) else part for part in x)
            for task, x in rows.items()
        }
        for site, rows in sites.items()
    }
    settings = {
        **{"sharing.plan": plan, "training.learning_rate": rate, "training.num_rounds": rounds, "client.threads": 1},
        **{"training.local_epochs": 5, "training.batch_size": 16, "run.seed": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        report = fedmtl.simulate(TASKS, mine, encoder, settings, Path(folder) / "run").report
    found = {site: client.scores for site, client in report.clients.items()}
    return np.array(
        [
            [
                np.mean([found[site][task].scores[metric] for site in CAMERAS if CAMERAS[site] is camera])
                for camera in (True, False)
            ]
            for task, metric in (("blight", "accuracy"), ("harvest", "mae"))
        ]
    )


def compared(plots: int, rounds: int, seeds: int) -> dict[str, tuple[float, np.ndarray]]:
    """The rate that served each way best on a year of its own (seed 0), and its mean scores in the years after."""
    year, found = farms(0, plots), {}
    for way in WAYS:
        tried = {rate: scores(way, year, rate, rounds) for rate in RATES}
        best = max(RATES, key=lambda rate: float(tried[rate][0].mean() - tried[rate][1].mean()))
        years = [scores(way, farms(seed, plots), best, rounds) for seed in range(1, seeds + 1)]
        found[way] = best, np.mean(years, axis=0)
    return found


def table(found: Mapping[str, tuple[float, np.ndarray]]) -> str:
    """The scores as Markdown."""
    lines = [
        "| | rate | blight, accuracy: with camera | without | harvest, mean error in t: with camera | without |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way, (rate, means) in found.items():
        lines.append(f"| {way} | {rate:g} | " + " | ".join(f"{value:.3f}" for value in means.flat) + " |")
    return "\n".join(lines)


def draw(found: Mapping[str, tuple[float, np.ndarray]], path: str) -> None:
    """Leaves of three plots, and the scores."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=[1, 1, 1, 3, 3])
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
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", type=int, default=80, help="of each farm to train on")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3, help="years to take the mean over")
    parser.add_argument("--picture", help="file to draw leaves and scores into, e.g. farm.png")
    args = parser.parse_args()
    found = compared(args.plots, args.rounds, args.seeds)
    print(table(found))
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
