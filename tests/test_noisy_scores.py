"""Scores with noise: what one row can change, what coordinators accept, and the budget of validation rows."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.disclosure import what_leaves
from client.jobs.hidden_scores import OrderScores
from client.limits import Limits
from client.state.row_ledger import SCORES, RowLedger
from client.training.noisy_counts import noised_counts, whole_near
from client.training.row_noise import RowSecret
from common.bodies import Evaluate, RowNoise, Train, TrainingSettings
from common.config import Config
from common.errors import ConfigError
from common.orders import Order
from common.privacy.accounting import Mechanism, Spending
from common.statistics import TaskStatistics, merge
from common.tasks import TASK_KINDS, TaskDefinition
from server.core.open_round import OrderState
from tests.federations import array_config, digest_of, federate
from tests.test_hidden_rows import CLIENTS, ROWS, give_keys

NOISY = (*ROWS, "privacy.scores=noisy")
SECRET = RowSecret(bytes(32), bytes(32))
KIND = TASK_KINDS["classification"]


def task_of(labels: int) -> TaskDefinition:
    return TaskDefinition("a", KIND, tuple(map(str, range(labels))), False, ("accuracy",))


def exact_counts(labels: int, rows: int, seed: int) -> TaskStatistics:
    draws = np.random.default_rng(seed)
    return measured(labels, draws.integers(labels, size=rows), draws.integers(labels, size=rows))


def measured(labels: int, true: np.ndarray, said: np.ndarray) -> TaskStatistics:
    return KIND.measure(task_of(labels), np.eye(labels)[said], true.astype(np.float64), 1.0)


# ---- counts ----


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_a_row_more_is_as_long_as_one_release_is_charged_for(labels: int) -> None:
    """In units of the noise of each count, every row is exactly 1/s long, whatever is true and said of it."""
    before = exact_counts(labels, 50, 1)
    for true, said in np.ndindex(labels, labels):
        one = measured(labels, np.array([true]), np.array([said]))
        after = merge([before, one])
        (h0, t0, p0), (h1, t1, p1) = (np.array(found.by_label) for found in (before, after))
        parts = ((h1 - h0, 1.0), ((t1 - h1) - (t0 - h0), sqrt(2)), ((p1 - h1) - (p0 - h0), sqrt(2)))
        length = sqrt(sum(float(np.square(change / noise).sum()) for change, noise in parts))
        assert length == pytest.approx(1.0, abs=1e-12)
    assert Spending().add(Mechanism(20.0), 20).epsilon(1e-5) == pytest.approx(0.819728, abs=1e-6)


@given(
    labels=st.integers(2, 6),
    rows=st.integers(1, 200),
    deviation=st.sampled_from([0.1, 1.0, 20.0, 1e6]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_noised_counts_are_always_those_of_some_predictions(
    labels: int, rows: int, deviation: float, seed: int
) -> None:
    secret = replace(SECRET, digest=seed.to_bytes(32, "big"))
    found = noised_counts(exact_counts(labels, rows, seed), secret, "counts", deviation)
    assert task_of(labels).fits(found) and found.examples == rows and found.noised
    assert (found.loss_sum, found.means, found.sums, found.moments) == (0.0, (), (), ())
    scores = task_of(labels).summarise(found)
    assert scores["loss"] is None and 0.0 <= (scores["accuracy"] or 0.0) <= 1.0


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.integers(0, 50)), min_size=1, max_size=12), st.floats(0, 1))
def test_whole_numbers_have_the_sum_and_stay_within_their_bounds(places: list[tuple[float, int]], share: float) -> None:
    values, most = np.array([value for value, _ in places]), np.array([bound for _, bound in places])
    total = int(share * most.sum())
    found = whole_near(values, total, most)
    assert found.sum() == total and (found >= 0).all() and (found <= most).all()


def test_counts_that_are_possible_stay_as_they_are_without_noise_to_speak_of() -> None:
    exact = exact_counts(4, 5000, 3)
    found = noised_counts(exact, SECRET, "counts", 0.1)
    assert max(abs(a - b) for a, b in zip(found.labels, exact.labels, strict=True)) <= 2


def test_the_noise_is_as_long_as_it_says() -> None:
    exact = exact_counts(2, 100_000, 1)
    found = [
        noised_counts(exact, replace(SECRET, digest=n.to_bytes(32, "big")), "counts", 20.0).right - exact.right
        for n in range(2000)
    ]
    # Two hits of deviation 20 each and two mistakes of 20 sqrt(2), moved to the sum: half of all is taken off each.
    expected = sqrt(2 * 20**2 / 4 + 2 * 2 * 20**2 / 4)
    assert np.std(found) == pytest.approx(expected, rel=0.06) and abs(np.mean(found)) < 3


def test_a_coordinator_takes_no_noised_statistics_with_more_than_counts() -> None:
    task, found = task_of(2), noised_counts(exact_counts(2, 50, 1), SECRET, "counts", 5.0)
    assert task.fits(found)
    for more in ({"loss_sum": 1.0}, {"means": (("auc_mean", 0.5, 50),)}, {"right": found.right + 1}):
        assert not task.fits(replace(found, **more))
    assert not TaskDefinition("n", TASK_KINDS["regression"], (), False, ("rmse",)).fits(found)


# ---- the budget ----


def order_scores(ledger: RowLedger, digest: int = 0, epsilon: float | None = None) -> OrderScores:
    secret = RowSecret(ledger.key, digest.to_bytes(32, "big"))
    return OrderScores(ledger, "run", "train-1.1-a", secret, RowNoise(1.0, 1e-5, 1, epsilon, 1.0, 20.0), {"a": "rows"})


def test_the_same_order_says_the_same_and_is_charged_once_and_other_counts_are_charged_again(tmp_path: Path) -> None:
    ledger, exact = RowLedger(tmp_path, SCORES), exact_counts(2, 300, 1)
    first = order_scores(ledger).told({"a": exact, "unknown": exact})
    again = order_scores(RowLedger(tmp_path, SCORES)).told({"a": replace(exact, loss_sum=2.0)})
    assert first == again and list(first) == ["a"]
    assert RowLedger(tmp_path, SCORES).spent("rows") == Spending().add(Mechanism(20.0))
    other = order_scores(ledger).told({"a": exact_counts(2, 300, 2)})
    assert other != first and ledger.spent("rows") == Spending().add(Mechanism(20.0), 2)


def test_a_spent_budget_tells_nothing_and_charges_nothing(tmp_path: Path) -> None:
    ledger, exact = RowLedger(tmp_path, SCORES), exact_counts(2, 300, 1)
    told = [order_scores(ledger, number, 0.5).told({"a": exact}) for number in range(20)]
    count = sum(map(bool, told))
    assert 1 < count < 20 and all(map(bool, told[:count]))
    spent = ledger.spent("rows")
    assert spent == Spending().add(Mechanism(20.0), count)
    assert spent.epsilon(1e-5) <= 0.5 < spent.add(Mechanism(20.0)).epsilon(1e-5)


# ---- federations ----

NUMBERS = "tasks.n={type: regression, train_samples: 20, val_samples: 10}"


def config_of(*more: str) -> Config:
    return array_config(*NOISY, *more, tasks=("a0", "b1"))


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / SCORES).read_text().splitlines()]


def test_scores_leave_as_counts_and_each_scoring_is_charged_on_every_transport(tmp_path: Path) -> None:
    digests = set()
    for how in ("direct", "codec", "grpc"):
        state = give_keys(tmp_path / how)
        config = config_of(NUMBERS, "federation.min_clients=4")
        run = asyncio.run(federate(config, state, (*CLIENTS, ("d", ("n",), "1/1")), how))
        digests.add(digest_of(run))
        assert [(line["task"], line["order"]) for line in lines_of(state / "c")] == [
            (task, f"{kind}-{number}.1-c")
            for kind, number in (("train", 1), ("train", 2), ("evaluate", 2))
            for task in ("a0", "b1")
        ]
        assert lines_of(state / "d") == [] and len((state / "c" / "rows.ledger").read_text().splitlines()) == 4
        assert run.state.open is None or run.state.open.count(OrderState.FAILED) == 0
    assert len(digests) == 1


def test_training_goes_on_when_the_budget_of_scores_is_spent(tmp_path: Path) -> None:
    more = ("privacy.epsilon=20", "privacy.scores_noise=0.25", "training.num_rounds=4")
    run = asyncio.run(federate(config_of(*more), tmp_path, CLIENTS))
    assert run.state.completed_rounds == 4
    assert 0 < len(lines_of(tmp_path / "a")) < 5 and len((tmp_path / "a" / "rows.ledger").read_text().splitlines()) == 4


def test_a_models_own_scores_stay(tmp_path: Path) -> None:
    run = asyncio.run(federate(config_of("training.finetune_epochs=1"), tmp_path, CLIENTS))
    assert run.state.completed_rounds == 2 and len(lines_of(tmp_path / "a")) == 3


# ---- what is refused, and what people are told ----

NOISE = RowNoise(1.0, 1e-5, 10, 8.0, 1.0, 20.0)
SETTINGS = TrainingSettings(1, 8, 0.1, 0.1, 0.0, 1.0, 8, row_noise=NOISE)


def test_a_client_does_not_take_orders_to_score_with_less_noise() -> None:
    limits = Limits(row_noise=NOISE)
    for body in (Train(SETTINGS, 1), Evaluate(SETTINGS, 1), Evaluate(replace(SETTINGS, keeps_scores=True), 1)):
        limits.check_order(Order("x-1", 1, 0, (), 60.0, body))
    for noise in (None, replace(NOISE, scores_noise=None), replace(NOISE, scores_noise=19.0)):
        with pytest.raises(ConfigError, match="asks for scores with less noise than 20 rows"):
            limits.check_order(Order("x-1", 1, 0, (), 60.0, Evaluate(replace(SETTINGS, row_noise=noise), 1)))
    with pytest.raises(ConfigError, match="asks for scores, and this client"):
        Limits(row_noise=replace(NOISE, scores_noise=None), keeps_scores=True).check_order(
            Order("x-1", 1, 0, (), 60.0, Train(SETTINGS, 1))
        )


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("privacy.scores=none", "privacy.scores_noise=3"), "privacy.scores_noise: is read with privacy.scores: noisy"),
        (("privacy.epsilon=0.01",), "privacy.scores_noise: one scoring with noise of 20 rows costs more than epsilon"),
        ((NUMBERS, "training.patience=2"), "training.patience: with privacy.scores: noisy it needs classifications"),
        (("tasks.a0.metrics=[auc]", "model.keep.best=mean"), "model.keep.best: with privacy.scores: noisy it needs"),
        (("secure_aggregation.enabled=true",), "privacy.scores: noisy ones are of single clients"),
        (
            ("privacy.noise=coordinator", "aggregation.weights=uniform"),
            "privacy.scores: noisy is for privacy.noise: rows; write exact or none",
        ),
        (("privacy.noise=none",), "privacy.scores: is not read without noise"),
        (("privacy.scores_noise=0.01",), "privacy.scores_noise"),
    ],
)
def test_what_does_not_go_with_noisy_scores_is_refused_at_load(more: tuple[str, ...], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(*more)
    assert line in str(caught.value)


def test_best_versions_and_patience_go_by_noised_counts() -> None:
    counted = [f"tasks.{task}.metrics=[accuracy, auc_mean]" for task in ("a0", "b1")]
    config_of("training.patience=2", "model.keep.best=mean", *counted)


def test_what_leaves_says_that_counts_have_noise() -> None:
    said = "\n".join(what_leaves(config_of("privacy.epsilon=8"), ["a0"]))
    assert "counts of validation rows per label, with noise" in said and "noise of 20 rows on each count" in said
    assert "not covered either" not in said and "mean training loss" not in said
