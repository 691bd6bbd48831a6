"""Four hospitals with a hundred images each, and three diagnoses with label spaces of their own.

The images are the handwritten digits that come with scikit-learn (1797 of 8 x 8 pixels; Alpaydin and Kaynak 1998), or
scans that `scans` generates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import fedmtl
from examples.runs import figure, markdown, options, report_of, spread, tuned

HOSPITALS = ("north", "east", "south", "west")
TRAINED, SCORED = 100, 100
"""Images of each hospital."""
EDGE = 12
LESIONS = ("none", "nodule", "ring", "streak")
ENCODER = {"conv2d": {"filters": [16, 32], "hidden": 64}}
WAYS = {"each alone": "local", "shared": "hard"}
RATES = (3e-3, 6e-3)
SETTINGS = {
    **{"training.local_epochs": 5, "training.batch_size": 25, "training.eval_batch_size": 256},
    "federation.min_clients": len(HOSPITALS),
}
Answers = dict[str, np.ndarray]


def digits(seed: int, count: int) -> tuple[np.ndarray, Answers]:
    """Digits in another order for each seed: which one, whether it is odd, and whether it is larger than 4."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit(
            "digits need the package scikit-learn: pip install scikit-learn; or use --data scans"
        ) from None
    images, numbers = load_digits(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(images))[:count]
    x = (images[order] / 16).reshape(count, 1, 8, 8).astype(np.float32)
    y = numbers[order]
    return x, {"digit": y.astype(str), "odd": np.where(y % 2, "yes", "no"), "large": np.where(y > 4, "yes", "no")}


def scans(seed: int, count: int) -> tuple[np.ndarray, Answers]:
    """Generated: tissue is noise, fine or smoothed to be coarse; a lesion of one of three shapes may lie in it.

    Answers are the lesion's shape, the tissue, and whether it is urgent: a ring, or a streak in coarse tissue.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    kind, coarse = rng.integers(len(LESIONS), size=count), rng.random(count) < 0.5
    noise = rng.standard_normal((count, EDGE, EDGE))
    smooth = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, (1, 1), (1, 2))) / 2
    x = 0.35 * np.where(coarse[:, None, None], smooth, noise)
    rows, columns = np.mgrid[:EDGE, :EDGE]
    for image, shape, (row, column), angle in zip(
        x, kind, rng.uniform(4, EDGE - 5, (count, 2)), rng.uniform(0, np.pi, count), strict=True
    ):
        away = np.hypot(rows - row, columns - column)
        along = np.abs((rows - row) * np.cos(angle) - (columns - column) * np.sin(angle))
        lesion = (away > EDGE, away < 2, np.abs(away - 3) < 0.8, (along < 0.7) & (away < 5))[shape]
        image += lesion
    urgent = (kind == 2) | ((kind == 3) & coarse)
    answers = {"lesion": np.array(LESIONS)[kind], "tissue": np.where(coarse, "coarse", "fine")}
    return x[:, None].astype(np.float32), answers | {"urgent": np.where(urgent, "yes", "no")}


DATA = {"digits": digits, "scans": scans}
LABELS: dict[str, dict[str, Sequence[str]]] = {
    "digits": {"digit": "0123456789", "odd": ["no", "yes"], "large": ["no", "yes"]},
    "scans": {"lesion": LESIONS, "tissue": ["fine", "coarse"], "urgent": ["no", "yes"]},
}


def hospitals(data: str, seed: int, trained: int) -> dict[str, dict[str, Sequence[Any]]]:
    """Each hospital's images to train and to score on; no image comes twice."""
    each = trained + SCORED
    x, answers = DATA[data](seed, each * len(HOSPITALS))
    sites: dict[str, dict[str, Sequence[Any]]] = {}
    for number, name in enumerate(HOSPITALS):
        start = each * number
        train, score = slice(start, start + trained), slice(start + trained, start + each)
        sites[name] = {task: (x[train], y[train], x[score], y[score]) for task, y in answers.items()}
    return sites


def scores(data: str, plan: str, images: int, rounds: int, rate: float, seed: int) -> np.ndarray:
    """The accuracy of each task in the last version, over the images of all hospitals: (3,)."""
    tasks = {task: fedmtl.classification(labels, metrics=["accuracy"]) for task, labels in LABELS[data].items()}
    settings = SETTINGS | {
        **{"sharing.plan": plan, "training.learning_rate": rate, "training.num_rounds": rounds, "run.seed": 1},
    }
    found = report_of(tasks, hospitals(data, seed, images), ENCODER, settings).tasks
    return np.array([found[task].metrics["accuracy"] for task in tasks])


def compared(data: str, images: int, rounds: int, seeds: int) -> dict[str, tuple[float, np.ndarray]]:
    """Each way's own rate, and its scores on draws after that by which it was chosen, (seeds, 3)."""
    return {
        way: tuned(lambda rate, seed, plan=plan: scores(data, plan, images, rounds, rate, seed), RATES, seeds)  # type: ignore[misc]
        for way, plan in WAYS.items()
    }


def table(data: str, found: Mapping[str, tuple[float, np.ndarray]]) -> str:
    """Means and deviations over the seeds as Markdown."""
    rows = [(way, [f"{rate:g}", *spread(seeds)]) for way, (rate, seeds) in found.items()]
    return markdown(["accuracy", "rate", *LABELS[data]], rows)


def draw(data: str, found: Mapping[str, tuple[float, np.ndarray]], path: str) -> None:
    """Three images, and the scores."""
    drawn = figure(9, 3)
    axes = drawn.subplots(1, 4, width_ratios=[1, 1, 1, 3])
    x, answers = DATA[data](0, 3)
    for number, axis in enumerate(axes[:3]):
        axis.imshow(x[number, 0], cmap="Greys_r")
        axis.set_title("\n".join(f"{task} {y[number]}" for task, y in answers.items()), fontsize=7)
        axis.set_axis_off()
    for number, (way, (_, seeds)) in enumerate(found.items()):
        places = np.arange(len(answers)) + 0.4 * number
        axes[3].bar(places, seeds.mean(axis=0), 0.35, label=way)
        axes[3].plot(np.tile(places, len(seeds)), seeds.ravel(), "k.", markersize=4)
    axes[3].set_xticks(np.arange(len(answers)) + 0.2, list(answers))
    axes[3].set_ylim(0.5, 1)
    axes[3].set_ylabel("accuracy")
    axes[3].legend(fontsize="small", loc="lower right")
    drawn.savefig(path, dpi=150)


def main() -> None:
    """Print the table."""
    parser = options(__doc__, "images", TRAINED, rounds=6, seeds=2)
    parser.add_argument("--data", choices=DATA, default="digits")
    args = parser.parse_args()
    found = compared(args.data, args.rows, args.rounds, args.seeds)
    print(table(args.data, found))
    if args.picture:
        draw(args.data, found, args.picture)


if __name__ == "__main__":
    main()
