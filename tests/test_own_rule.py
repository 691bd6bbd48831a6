"""An aggregation rule that is a function of a person's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedmtl
from common.methods import own_rule
from fedmtl import FedMTLError, FinishedRun

FREE = "127.0.0.1:0"
TASKS = {"age": fedmtl.regression()}
CALLS: list[tuple[dict[str, int], set[str]]] = []


def rows(seed: int, count: int) -> tuple[Any, Any]:
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(count, 4))
    return x, 40 + 10 * x[:, 2]


SITES = {"a": {"age": rows(1, 80)}, "b": {"age": rows(2, 40)}, "c": {"age": rows(3, 12)}}


def mean(updates: Mapping[str, Any], weights: Mapping[str, int]) -> dict[str, Any]:
    """Federated averaging."""
    CALLS.append((dict(weights), {*next(iter(updates.values()))}))
    total = sum(weights.values())
    names = next(iter(updates.values()))
    return {n: sum(weights[c] * updates[c][n].astype(np.float64) for c in updates) / total for n in names}


def median(updates: Mapping[str, Any], weights: Mapping[str, int]) -> dict[str, Any]:
    names = next(iter(updates.values()))
    return {name: np.median(np.stack([own[name] for own in updates.values()]).astype(float), axis=0) for name in names}


def trained(rule: Any, run_dir: Path | None = None, **more: object) -> FinishedRun:
    chosen = {"training.num_rounds": 2, "training.learning_rate": 1e-2, "aggregation.robust": rule, **more}
    return fedmtl.simulate(TASKS, SITES, {"mlp": {"hidden": [8]}}, chosen, run_dir)


def values(run: FinishedRun) -> Any:
    return np.concatenate([value.detach().numpy().ravel() for value in run.model("age").parameters()])


def test_a_rule_that_averages_is_federated_averaging() -> None:
    CALLS.clear()
    found = values(trained(mean))
    np.testing.assert_allclose(found, values(trained("none")), atol=1e-6)
    assert len(CALLS) == 4  # encoder and head, in two rounds
    assert CALLS[0] == ({"a": 60, "b": 30, "c": 9}, {"encoder.layers.0.weight", "encoder.layers.0.bias"})
    assert {name for _, names in CALLS[1:2] for name in names} == {"heads.age.linear.weight", "heads.age.linear.bias"}


def test_a_median_of_ones_own_is_the_median() -> None:
    uniform = {"aggregation.weights": "uniform"}
    assert trained(median, **uniform).report.model_digest == trained("median", **uniform).report.model_digest


def test_the_run_folder_names_the_rule_and_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(mean, tmp_path / "run")
    recorded = run.report.aggregation["robust"]
    assert recorded == {"name": "function", "function": "mean", "sha256": own_rule.own_rule(mean).sha256}
    assert fedmtl.load(tmp_path / "run").predict("age", rows(4, 3)[0]).shape == (3,)  # type: ignore[union-attr]

    def resumed(rule: Any) -> None:
        chosen = {"training.num_rounds": 9, "aggregation.robust": rule}
        given = {"shape": (4,), "settings": chosen, "run_dir": tmp_path / "run", "resume": True}
        fedmtl.serve(TASKS, {"mlp": {"hidden": [8]}}, FREE, wait=False, **given)  # type: ignore[arg-type]

    for other in ("none", median):
        with pytest.raises(FedMTLError, match=r"^aggregation\.robust.* differs from the run's .*; restore it"):
            resumed(other)
    monkeypatch.setattr(own_rule, "_GIVEN", {})
    with pytest.raises(FedMTLError, match=r"Python code gave the function 'mean' .* give it in settings="):
        resumed(recorded)


def fails(updates: Any, weights: Any) -> Any:
    raise ZeroDivisionError("no weights")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (fails, "aggregation.robust: fails raised ZeroDivisionError: no weights; mend it"),
        (lambda updates, weights: {}, "gives nothing for 'encoder.layers.0.bias'; mend it"),
        (lambda updates, weights: {**updates["a"], "more": 1}, "gives too much: 'more'; mend it"),
        (lambda updates, weights: {n: v[:1] for n, v in updates["a"].items()}, r"of shape \(1, 4\), not \(8, 4\)"),
        (
            lambda updates, weights: {n: v * np.nan for n, v in updates["a"].items()},
            "value that is not finite; mend it",
        ),
    ],
    ids=["fails", "nothing", "more", "shape", "nan"],
)
def test_what_a_rule_gives_is_checked(rule: Any, said: str) -> None:
    with pytest.raises(FedMTLError, match=said) as caught:
        trained(rule)
    assert "\n" not in caught.value.message


def test_a_rule_sees_clients_and_not_tasks() -> None:
    with pytest.raises(FedMTLError, match="function sees clients, not sums of tasks; write weights"):
        trained(mean, **{"aggregation.weights": "task_balanced"})
