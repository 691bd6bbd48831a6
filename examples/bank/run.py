"""Three banks share a model of their customers; heads stay private, and what leaves a bank is printed.

The data is generated: `customers` draws them, with categories, gaps, and a mix of its own for every bank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import fedmtl
from client.disclosure import what_leaves
from common.config import load_config
from examples.runs import figure, markdown, options, report_of, spread, tuned

BANKS = {"north": (0.2, 1.0), "south": (0.7, 0.4), "online": (0.5, 2.5)}
"""Of each bank: the share of customers in town, and what incomes are multiplied by."""
JOBS = ("clerk", "farmer", "nurse", "owner")
COLUMNS: dict[str, Any] = {
    "age": "number", "income": "log", "years": "number", "home": ["rented", "own"], "job": list(JOBS),
    "place": ["town", "country"],
}  # fmt: skip
ENCODER = {"tabular": {"columns": COLUMNS, "hidden": [32]}}
TASKS = {name: fedmtl.classification(["no", "yes"], metrics=["auc", "accuracy"]) for name in ("default", "churn")}
WAYS = {
    "each bank alone": ("local", "site"),
    "shared, heads too": ("hard", "federation"),
    "shared, private heads": ("private_heads", "federation"),
}
"""What is compared: a sharing plan, and by what rows numbers are standardised."""
RATES = (1e-3, 3e-3, 1e-2)


def customers(rng: np.random.Generator, count: int, bank: str) -> tuple[dict[str, list[Any]], list[str], list[str]]:
    """Columns, defaults and churn. A tenth of every column is missing; both answers hang on what lies behind them."""
    town, wealth = BANKS[bank]
    age, years = rng.uniform(20, 70, count), rng.exponential(5, count)
    income = wealth * np.exp(rng.normal(7.5, 0.8, count))
    home, job, place = rng.random(count) < 0.4, rng.integers(len(JOBS), size=count), rng.random(count) < town
    strain = 2.5 - np.log(income / wealth) / 3 - 1.2 * home + np.array([0.0, 1.0, -0.6, 0.3])[job] - (age - 45) / 40
    restless = 1.0 * place - years / 4 + np.array([0.4, -0.8, 0.0, 0.6])[job] - (age - 45) / 30 + 0.4 * home
    answers = []
    for score in (strain + 0.5 * place, restless + 0.6 * strain):
        answers.append(np.where(score + 0.6 * rng.normal(size=count) > np.quantile(score, 0.75), "yes", "no").tolist())
    columns = {
        "age": age.round(1), "income": income.round(), "years": years.round(1), "home": np.where(home, "own", "rented"),
        "job": np.array(JOBS)[job], "place": np.where(place, "town", "country"),
    }  # fmt: skip
    gaps = rng.random((len(columns), count)) < 0.1
    told = {
        name: [None if gap else cell for cell, gap in zip(cells.tolist(), gaps[at], strict=True)]
        for at, (name, cells) in enumerate(columns.items())
    }
    return told, *answers


def banks(seed: int, count: int) -> dict[str, dict[str, Sequence[Any]]]:
    """Customers to train on, and five times as many to score on, of every bank."""
    sites: dict[str, dict[str, Sequence[Any]]] = {}
    for number, bank in enumerate(BANKS):
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        x, *known = customers(rng, count, bank)
        xv, *later = customers(rng, 5 * count, bank)
        sites[bank] = {task: (x, y, xv, yv) for task, y, yv in zip(TASKS, known, later, strict=True)}
    return sites


def settings_of(way: str, rate: float, rounds: int) -> dict[str, object]:
    """The settings of one way."""
    plan, statistics = WAYS[way]
    return {
        **{"sharing.plan": plan, "data.statistics": statistics, "training.learning_rate": rate},
        **{"training.num_rounds": rounds, "training.local_epochs": 3, "training.batch_size": 16},
    }


def scores(way: str, count: int, rounds: int, rate: float, seed: int) -> np.ndarray:
    """The area under the curve by task, the mean over banks of their own customers: (2,)."""
    clients = report_of(TASKS, banks(seed, count), ENCODER, settings_of(way, rate, rounds)).clients.values()
    return np.array([np.mean([client.scores[task].scores["auc"] for client in clients]) for task in TASKS])


def compared(count: int, rounds: int, seeds: int) -> dict[str, tuple[float, np.ndarray]]:
    """Each way's own rate, and its scores on customers after those by whom it was chosen, (seeds, 2)."""
    return {
        way: tuned(lambda rate, seed, way=way: scores(way, count, rounds, rate, seed), RATES, seeds)  # type: ignore[misc]
        for way in WAYS
    }


def table(found: Mapping[str, tuple[float, np.ndarray]]) -> str:
    """The scores as Markdown."""
    rows = [(way, [f"{rate:g}", *spread(seeds)]) for way, (rate, seeds) in found.items()]
    return markdown(["AUC", "rate", *TASKS], rows)


def audit(rounds: int) -> str:
    """What leaves a bank that shares with private heads, as `--mode check` prints it."""
    settings = settings_of("shared, private heads", RATES[0], rounds)
    given = {"model.server_model": "tabular", "model.tabular": ENCODER["tabular"], "tasks": TASKS, **settings}
    return "\n".join(what_leaves(load_config(None, given=given), list(TASKS)))


def draw(found: Mapping[str, tuple[float, np.ndarray]], path: str) -> None:
    """The scores as bars, and every seed as a dot."""
    drawn = figure(7, 3.2)
    axes = drawn.subplots()
    for number, (way, (_, seeds)) in enumerate(found.items()):
        places = np.arange(len(TASKS)) + 0.27 * (number - 1)
        axes.bar(places, seeds.mean(axis=0), 0.25, label=way)
        axes.plot(np.tile(places, len(seeds)), seeds.ravel(), "k.", markersize=4)
    axes.set_xticks(range(len(TASKS)), list(TASKS))
    axes.set_ylim(0.5, 1)
    axes.set_ylabel("AUC, mean of three banks")
    axes.legend(fontsize="small")
    drawn.savefig(path, dpi=150)


def main() -> None:
    """Print what leaves a bank, and the table."""
    args = options(__doc__, "customers", 80, rounds=8, seeds=3).parse_args()
    print(audit(args.rounds), end="\n\n")
    found = compared(args.rows, args.rounds, args.seeds)
    print(table(found))
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
