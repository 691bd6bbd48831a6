"""Four plants look for three rare faults in vibration, with one convolutional encoder.

No real machine is behind the data: `windows_of` generates it. Labels are drawn first, 2 % faults of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import fedmtl
from examples.runs import figure, markdown, options, report_of, spread

FAULTS = ("bearing", "gear", "shaft")
PLANTS = {"north": ("bearing", "gear"), "east": ("gear", "shaft"), "south": ("shaft", "bearing"), "west": FAULTS}
"""Which faults each plant has labels for."""
LENGTH, MILLISECOND, FAULTY, NOISE = 128, 1e-3, 0.02, 0.35
TASKS = {fault: fedmtl.classification(["ok", "fault"], class_weights="balanced", metrics=["auc"]) for fault in FAULTS}
ENCODERS: dict[str, dict[str, dict[str, Any]]] = {
    "conv1d": {"conv1d": {"filters": [16], "kernel": 15, "pooling": 8, "hidden": 32}},
    "mlp": {"mlp": {"hidden": [64, 32]}},
}
SETTINGS = {
    **{"training.local_epochs": 1, "training.batch_size": 32, "training.eval_batch_size": 256},
    **{"federation.min_clients": len(PLANTS), "client.threads": 1},
}


def windows_of(rng: np.random.Generator, count: int, slowest: float, has: Mapping[str, np.ndarray]) -> np.ndarray:
    """Windows (count, 128, 1) of a plant whose machines turn `slowest` to `slowest` + 8 times a second.

    A window is the shaft's tone and its second harmonic, the tone of the gear's teeth, and noise; phases are random.
    A bearing's fault adds a short ring at each pass over the damage, a gear's the second harmonic of its teeth, a
    shaft's a hum of 12 ms in each turn, as from a rub. Then the mean of every window is made 0 and its deviation 1, so
    that no fault shows in them.
    """

    def between(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1))

    def tone(cycles: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * (cycles + between(0, 1)))

    speed = between(slowest, slowest + 8)
    turns = speed * np.arange(LENGTH) * MILLISECOND + between(0, 1)
    passed = np.mod(3.6 * turns + between(0, 1), 1) / (3.6 * speed)
    rubbed = np.mod(turns + between(0, 1), 1) / speed
    adds = {
        "bearing": between(1.2, 2.0) * np.exp(-passed / 0.003) * np.sin(2 * np.pi * 380 * passed),
        "gear": between(0.4, 0.7) * tone(12 * turns),
        "shaft": between(0.8, 1.4) * (rubbed < 0.012) * np.sin(2 * np.pi * 250 * rubbed),
    }
    windows = tone(turns) + 0.3 * tone(2 * turns) + between(0.5, 0.9) * tone(6 * turns)
    windows += NOISE * rng.standard_normal((count, LENGTH)) + sum(has[fault][:, None] * adds[fault] for fault in FAULTS)
    windows = (windows - windows.mean(axis=1, keepdims=True)) / windows.std(axis=1, keepdims=True)
    return windows[..., None].astype(np.float32)


def plants(seed: int, count: int) -> dict[str, dict[str, Sequence[Any]]]:
    """Windows and labels of every plant, and as many others to score on."""
    sites: dict[str, dict[str, Sequence[Any]]] = {}
    for number, (plant, watched) in enumerate(PLANTS.items()):
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        halves = []
        for _ in range(2):
            has = {fault: rng.random(count) < FAULTY for fault in FAULTS}
            halves.append((windows_of(rng, count, 18.0 + 3 * number, has), has))
        sites[plant] = {
            fault: [part for x, has in halves for part in (x, np.where(has[fault], "fault", "ok"))] for fault in watched
        }
    return sites


def compared(count: int, rounds: int, seeds: int, more: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Pooled AUC of each encoder's last version, (seeds, faults); `more` are other settings."""
    found: dict[str, list[list[float]]] = {encoder: [] for encoder in ENCODERS}
    for seed in range(seeds):
        sites = plants(seed, count)
        for name, encoder in ENCODERS.items():
            settings = SETTINGS | {"run.seed": seed, "training.num_rounds": rounds, **more}
            last = report_of(TASKS, sites, encoder, settings).tasks
            found[name].append([float(last[fault].metrics["auc"] or 0.0) for fault in FAULTS])
    return {name: np.array(values) for name, values in found.items()}


def table(found: Mapping[str, np.ndarray]) -> str:
    """Means and deviations over the seeds as Markdown."""
    return markdown(["pooled AUC", *FAULTS], [(name, spread(seeds)) for name, seeds in found.items()])


def draw(found: Mapping[str, np.ndarray], path: str) -> None:
    """A window of every sort, and the scores of every seed."""
    drawn = figure(9, 3.2)
    left, right = drawn.subplots(1, 2)
    sorts = {"ok": np.zeros(4, bool)} | {
        fault: np.eye(4, dtype=bool)[number + 1] for number, fault in enumerate(FAULTS)
    }
    windows = windows_of(np.random.Generator(np.random.PCG64(0)), 4, 24.0, {fault: sorts[fault] for fault in FAULTS})
    for number, window in enumerate(windows):
        left.plot(window[:, 0] - 6 * number, "k", linewidth=0.8)
    left.set_yticks([-6 * number for number in range(4)], list(sorts))
    left.set_xlabel("milliseconds")
    for number, (name, seeds) in enumerate(found.items()):
        places = np.arange(len(FAULTS)) + 0.35 * number
        right.bar(places, seeds.mean(axis=0), 0.3, label=name)
        right.plot(np.tile(places, len(seeds)), seeds.ravel(), "k.", markersize=4)
    right.set_xticks(np.arange(len(FAULTS)) + 0.17, list(FAULTS))
    right.set_ylim(0.4, 1)
    right.set_ylabel("pooled AUC")
    drawn.legend(*right.get_legend_handles_labels(), fontsize="small", loc="outside right upper")
    drawn.savefig(path, dpi=150)


def main() -> None:
    """Print the table."""
    parser = options(__doc__, "windows", 800, rounds=6, seeds=3)
    parser.add_argument("--plan", default="hard", help="sharing.plan, e.g. adaptive or local")
    parser.add_argument("--relation", help="relation.name between members' copies, with --plan soft, e.g. mocha")
    parser.add_argument("--rate", type=float, default=1e-2, help="training.learning_rate")
    args = parser.parse_args()
    more = {"sharing.plan": args.plan, "training.learning_rate": args.rate}
    more |= {"relation.name": args.relation} if args.relation else {}
    more |= {"relation.floor": 0.05} if args.relation == "mocha" else {}
    found = compared(args.rows, args.rounds, args.seeds, more)
    print(table(found))
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
