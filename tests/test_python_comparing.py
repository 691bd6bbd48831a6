"""Methods and settings side by side from Python code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import fedmtl
from fedmtl import FedMTLError

TASKS = {"cough": fedmtl.classification(["no", "yes"], metrics=["accuracy"]), "age": fedmtl.regression()}
SETTINGS = {"training.num_rounds": 2, "training.learning_rate": 1e-2}
MLP = {"mlp": {"hidden": [8]}}


def rows(seed: int) -> tuple[Any, Any, Any]:
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(60, 4))
    return x, np.where(x[:, 0] > 0, "yes", "no"), 40 + 10 * x[:, 2]


(X1, Y1, A1), (X2, Y2, _) = rows(1), rows(2)
SITES = {"a": {"cough": (X1, Y1), "age": (X1, A1)}, "b": {"cough": (X2, Y2)}}


def largest(updates: Any, weights: Any) -> Any:
    """The update of the client with most rows."""
    return updates[max(sorted(weights), key=weights.__getitem__)]


def test_methods_run_on_the_rows_of_python_code(tmp_path: Path) -> None:
    methods = {"local": {}, "single_task": {}, "mine": {"aggregation.robust": largest}, "hard": {}}

    async def cell() -> Any:  # as in a notebook
        return fedmtl.compare(TASKS, SITES, MLP, methods, [42], SETTINGS, tmp_path / "compared")

    found = asyncio.run(cell())
    assert [*found.result.methods] == [*methods] and found.result.data == "given"
    alone = found.result.methods["hard"].against["local"].tasks["cough"].gain.values
    assert len(alone) == 1 and "# Does sharing help?" in found._repr_markdown_()
    again = fedmtl.simulate(TASKS, SITES, MLP, SETTINGS)
    score = found.result.methods["hard"].scores["age"]["rmse"].values
    assert score == (round(again.report.tasks["age"].metrics["rmse"] or 0, 6),)
    with pytest.raises(FedMTLError, match="compared' exists and is not empty; choose another"):
        fedmtl.compare(TASKS, SITES, MLP, run_dir=tmp_path / "compared")
    with pytest.raises(FedMTLError, match="--methods: 'harder' is unknown; known are local"):
        fedmtl.compare(TASKS, SITES, MLP, ["harder"])


def test_every_method_gets_its_best_setting_and_any_can_be_the_baseline() -> None:
    rates = [1e-6, 1e-2]
    found = fedmtl.compare(
        TASKS,
        SITES,
        MLP,
        ["local", "central"],
        [42],
        SETTINGS,
        tune={"training.learning_rate": rates},
        baseline=["central"],
        mean_of={"one": ["cough"]},
    ).result
    assert found.baselines == ("central",) and [*found.means] == ["all", "one"]
    for method in found.methods.values():
        assert method.tuning is not None and method.tuning.setting == {"training.learning_rate": 1e-2}
    assert {task: (facts.split, facts.rows) for task, facts in found.tasks.items()} == {
        "cough": ("validation", 30),
        "age": ("validation", 15),
    }


def test_a_sweep_is_a_table_with_the_best_and_the_failed(tmp_path: Path) -> None:
    over = {"training.learning_rate": [1e-9, 3e-2, -1.0], "training.local_epochs": [1, 4]}
    found = fedmtl.sweep(TASKS, SITES, MLP, over, {"training.num_rounds": 3}, run_dir=tmp_path / "sweep")
    assert [tuple(a.settings.values()) for a in found.attempts] == [(r, n) for r in (1e-9, 3e-2, -1.0) for n in (1, 4)]
    assert [bool(a.error) for a in found.attempts] == [False] * 4 + [True] * 2
    assert found.attempts[4].error.startswith("training.learning_rate: -1") and not found.attempts[4].scores
    assert found.best is found.attempts[3] and found.best.folder == tmp_path / "sweep" / "4"
    assert sum(a.is_best for a in found.attempts) == 1
    assert {name.split("/")[0] for name in found.best.scores} == {*TASKS}
    assert fedmtl.load(found.best.folder).report.status == "finished"
    assert isinstance(found.table, pandas.DataFrame) and found.table["best"].tolist() == [
        a.is_best for a in found.attempts
    ]


def test_what_names_nothing_is_refused() -> None:
    with pytest.raises(FedMTLError, match="over: no keys; name keys with their values"):
        fedmtl.sweep(TASKS, SITES, MLP, {})
    with pytest.raises(FedMTLError, match="by: 'cough/f1' is no task with its first metric; there are cough/accuracy"):
        fedmtl.sweep(TASKS, SITES, MLP, {"training.num_rounds": [1]}, by="cough/f1")
    failed = fedmtl.sweep(TASKS, SITES, MLP, {"training.num_rounds": [-1]})
    with pytest.raises(FedMTLError, match=r"sweep: every run failed; the first one: training\.num_rounds"):
        _ = failed.best
