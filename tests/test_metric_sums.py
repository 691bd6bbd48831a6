"""Metrics from sums: those of all predictions together, whatever client has which, and within a bound where binned."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.disclosure import what_leaves
from common.config import load_config
from common.errors import ConfigError
from common.orders import Reply, TaskResult
from common.statistics import TaskStatistics, merge
from common.tasks import TASK_KINDS, TaskDefinition, is_better
from common.tasks.metric_sums import CONFIDENCE_BINS, SCORE_BINS, ScoreHistogram
from common.wire.codec import codec
from common.wire.gen import federation_pb2 as pb
from common.wire.limits import MAX_SUMS
from common.wire.parts import pack_reply, unpack_reply
from server.reporting.report import round_scores
from tests.federations import array_config, federate

TWO = TaskDefinition("two", TASK_KINDS["classification"], ("no", "yes"), False, ("auc", "pr_auc", "ece"))
FIVE = TaskDefinition("five", TASK_KINDS["classification"], tuple("abcde"), False, ("top3_accuracy", "ece", "accuracy"))
SCORE = TaskDefinition("score", TASK_KINDS["regression"], (), False, ("mae", "rmse"))


def measured(task: TaskDefinition, outputs: Any, targets: Any) -> TaskStatistics:
    return task.type.measure(task, np.asarray(outputs, float), np.asarray(targets, float), 0.0)


def scored(task: TaskDefinition, outputs: Any, targets: Any, parts: int = 1) -> dict[str, float | None]:
    """The scores of rows that are spread over so many clients."""
    clients = [measured(task, outputs[at::parts], targets[at::parts]) for at in range(parts)]
    assert all(task.fits(client) for client in clients)
    return task.summarise(merge(clients))


def area_by_pairs(scores: Any, labels: Any) -> float:
    """roc_auc_score: the share of pairs in the right order, ties for half."""
    yes, no = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float(np.mean((yes > no) + 0.5 * (yes == no)))


def average_precision(scores: Any, labels: Any) -> float:
    """average_precision_score: sum of (R_n - R_n-1) P_n over the thresholds, which are the different scores."""
    total, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        chosen = scores >= threshold
        recall, precision = labels[chosen].sum() / labels.sum(), labels[chosen].mean()
        total, before = total + (recall - before) * precision, recall
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 400), st.sampled_from([0.05, 0.5, 3.0, 30.0]), st.integers(1, 4))
def test_areas_are_those_of_all_rows_within_their_bound(seed: int, rows: int, size: float, parts: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype(int)
    labels[:8] = [0, 1] * 4  # every client has rows of both classes
    scores = size * (rng.normal(size=rows) + labels)
    outputs = np.stack([-scores / 2, scores / 2], axis=1)
    found = scored(TWO, outputs, labels, parts)
    histogram = np.array(ScoreHistogram().measure(outputs, labels)).reshape(2, SCORE_BINS)
    shares = histogram / histogram.sum(axis=1, keepdims=True)
    assert abs(found["auc"] - area_by_pairs(scores, labels)) <= (shares[0] @ shares[1]) / 2 + 1e-12
    b, a = histogram
    higher = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1] - histogram
    most = (higher[1] + a) / np.maximum(higher[1] + a + higher[0], 1)
    least = (higher[1] + 1) / (higher[1] + 1 + higher[0] + b)
    bound = (shares[1] * (most - least)).sum() + 1e-12
    assert abs(found["pr_auc"] - average_precision(scores, labels)) <= bound
    # Of scores that are rounded to their bin, the area is exact, and rows of equal scores stay within the bound too.
    bins = np.repeat(np.tile(np.arange(SCORE_BINS), 2), histogram.ravel().astype(int))
    sides = np.repeat([0, 1], histogram.sum(axis=1).astype(int))
    assert found["auc"] == pytest.approx(area_by_pairs(bins, sides), abs=1e-12)
    assert abs(found["pr_auc"] - average_precision(bins, sides)) <= bound


def test_binned_areas_of_many_rows_are_close_to_the_exact_ones() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random(4000) < 0.1).astype(int)
    scores = rng.normal(size=4000) + 1.5 * labels
    found = scored(TWO, np.stack([0 * scores, scores], axis=1), labels, 7)
    assert found["auc"] == pytest.approx(area_by_pairs(scores, labels), abs=5e-4)
    assert found["pr_auc"] == pytest.approx(average_precision(scores, labels), abs=5e-3)


def test_areas_need_rows_of_both_classes_but_not_at_one_client() -> None:
    assert scored(TWO, np.array([[0.0, 1.0]]), np.array([1]))["auc"] is None
    outputs, labels = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([1, 0])
    apart, together = scored(TWO, outputs, labels, 2), scored(TWO, outputs, labels)
    assert apart == together and apart["auc"] == apart["pr_auc"] == 1.0


def test_scores_beyond_the_last_bin_are_in_it() -> None:
    outputs = np.array([[0.0, 1e300], [1e300, 0.0], [0.0, 65.0], [-1e-300, 0.0]])
    histogram = np.array(ScoreHistogram().measure(outputs, np.array([1, 0, 1, 0])))
    assert np.flatnonzero(histogram).tolist() == [0, SCORE_BINS // 2, 2 * SCORE_BINS - 1] and histogram[-1] == 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4))
def test_top_three_and_calibration_are_those_of_all_rows(seed: int, rows: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, targets = rng.normal(0, 3, size=(rows + parts, 5)), rng.integers(5, size=rows + parts)
    found = scored(FIVE, outputs, targets, parts)
    top = np.argsort(-outputs, axis=1)[:, :3]  # top_k_accuracy_score(k=3)
    assert found["top3_accuracy"] == np.mean([target in row for target, row in zip(targets, top, strict=True)])
    chances = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == targets
    error = 0.0
    for low in range(CONFIDENCE_BINS):
        inside = (confidence * CONFIDENCE_BINS >= low) & (confidence * CONFIDENCE_BINS < low + 1)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert found["ece"] == pytest.approx(error, abs=1e-12)


def test_of_equal_outputs_the_first_are_the_largest() -> None:
    """As argmax has it, so that no row is right and yet not among the first three."""
    found = scored(FIVE, np.zeros((5, 5)), np.arange(5))
    assert found["top3_accuracy"] == 3 / 5 and found["accuracy"] == 1 / 5


def test_a_sure_model_that_is_half_wrong_is_badly_calibrated() -> None:
    outputs, labels = np.array([[0.0, 50.0]] * 4), np.array([1, 1, 0, 0])
    assert scored(TWO, outputs, labels)["ece"] == pytest.approx(0.5)
    assert scored(TWO, 0 * outputs, labels)["ece"] == pytest.approx(0.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 60), st.sampled_from([0.0, 1e6, -3e9]), st.integers(1, 4))
def test_the_mean_absolute_error_is_that_of_all_rows(seed: int, rows: int, place: float, parts: int) -> None:
    rng = np.random.default_rng(seed)
    y = place + rng.normal(size=rows)
    p = y + rng.normal(0.2, 0.5, rows)
    assert scored(SCORE, p[:, None], y, parts)["mae"] == pytest.approx(np.mean(np.abs(p - y)), rel=1e-9)


def test_errors_are_better_when_they_are_smaller() -> None:
    assert is_better("mae", 1.0, 2.0) and is_better("ece", 0.1, 0.2) and is_better("auc", 0.9, 0.8)


def changed(task: TaskDefinition, **sums: Any) -> TaskStatistics:
    rng = np.random.default_rng(3)
    targets = {"two": [0, 1, 1], "five": [0, 4, 2], "score": [1, 2, 4]}[task.name]
    good = measured(task, rng.normal(size=(3, task.outputs)), targets)
    assert task.fits(good)
    return replace(good, sums=tuple(sorted((dict(good.sums) | sums).items())))


@pytest.mark.parametrize(
    ("task", "sums"),
    [
        (TWO, {"scores": (1.0,) * SCORE_BINS + (0.0,) * SCORE_BINS}),  # more rows than there are
        (TWO, {"scores": (1.0, 1.0, *[0.0] * (SCORE_BINS - 1), 1.0, *[0.0] * (SCORE_BINS - 2))}),  # of other classes
        (TWO, {"scores": (0.5, 0.5, *[0.0] * (SCORE_BINS - 2), 2.0, *[0.0] * (SCORE_BINS - 1))}),
        (TWO, {"scores": (2.0, -1.0, *[0.0] * (SCORE_BINS - 2), 2.0, *[0.0] * (SCORE_BINS - 1))}),
        (TWO, {"scores": (1.0, 2.0)}),
        (TWO, {"scores": ()}),
        (TWO, {"calibration": (0.0,) * 3 * CONFIDENCE_BINS}),
        (TWO, {"top3": (3.0,)}),  # nobody asked
        (FIVE, {"top3": (4.0,)}),
        (FIVE, {"top3": (-1.0,)}),
        (FIVE, {"top3": (float("nan"),)}),
        (SCORE, {"absolute": (1e9,)}),
        (SCORE, {"absolute": (-1.0,)}),
        (SCORE, {"absolute": (float("inf"),)}),
    ],
)
def test_sums_that_no_predictions_have_do_not_fit(task: TaskDefinition, sums: Any) -> None:
    assert not task.fits(changed(task, **sums))


def test_missing_and_repeated_sums_do_not_fit() -> None:
    good = changed(SCORE)
    assert not SCORE.fits(replace(good, sums=())) and not SCORE.fits(replace(good, sums=good.sums * 2))


def test_confidences_outside_of_their_bins_do_not_fit() -> None:
    good = dict(changed(FIVE).sums)["calibration"]
    for shift in (-0.2, 0.2):
        moved = (*good[: 2 * CONFIDENCE_BINS], *(value + shift for value in good[2 * CONFIDENCE_BINS :]))
        assert not FIVE.fits(changed(FIVE, calibration=moved))


def test_only_tasks_that_name_such_metrics_send_more() -> None:
    for labels in (("no", "yes"), tuple("abcde")):
        named = TWO.type.default_metrics(labels)
        plain = replace(TWO, labels=labels, metrics=named)
        assert not {"auc", "pr_auc", "ece", "top3_accuracy"} & set(named) and plain.metric_sums == []
    assert "auc" not in TWO.type.defined_metrics(tuple("abc")) and "top3_accuracy" not in TWO.type.defined_metrics("ab")
    assert SCORE.type.default_metrics(()) == ("spearman_mean", "pearson", "rmse")


def test_too_many_numbers_for_a_message_are_named_before_the_run() -> None:
    tasks = ", ".join(
        f"t{at}: {{type: classification, labels: [a, b], metrics: [auc]}}" for at in range(MAX_SUMS // 512 + 1)
    )
    with pytest.raises(ConfigError, match="metrics of all tasks need 33280 numbers of each client, more than 32768"):
        load_config(None, ["model={server_model: mlp, mlp: {features: 4}}", f"tasks={{{tasks}}}"])


def test_the_largest_sums_fit_into_a_message() -> None:
    sums = ScoreHistogram().measure(np.zeros((9, 2)), np.zeros(9))
    one = TaskStatistics(9, 0.0, 9, (9, 9, 9, 0, 0, 0), sums=(("scores", sums),))
    tasks = tuple(TaskResult(f"t{at}", 0, None, one, one) for at in range(MAX_SUMS // len(sums)))
    message = codec(pb.Reply, pack_reply, unpack_reply)
    reply = Reply("evaluate-1.1-a", tasks, 1.0)
    assert message.decode(message.encode(reply)) == reply


def test_pooled_areas_are_reported_and_come_back_from_the_journal(tmp_path: Path) -> None:
    metrics = "[auc, pr_auc, auc_mean, ece]"
    kind = f"{{type: classification, labels: [no, yes], metrics: {metrics}, train_samples: 80, val_samples: 60}}"
    config = array_config(f"tasks={{a0: {kind}}}", "federation.min_clients=2")
    clients = (("a", ("a0",), "1/2"), ("b", ("a0",), "2/2"))
    found = [asyncio.run(federate(config, tmp_path / how, clients, how)) for how in ("direct", "grpc")]
    scores = [round_scores(run.settings.tasks, run.journal.rounds()[-1])["a0"].scores for run in found]
    assert scores[0] == scores[1] and scores[0]["auc"] == pytest.approx(scores[0]["auc_mean"], abs=0.1)
    assert 0 <= scores[0]["ece"] < 1 and scores[0]["pr_auc"] > 0.3


def test_what_leaves_names_the_further_sums() -> None:
    kind = "{type: classification, labels: [no, yes], metrics: [accuracy, auc]}"
    config = array_config(f"tasks={{a0: {kind}, b1: {{type: classification, labels: [no, yes]}}}}")
    found = [line.strip() for line in what_leaves(config, ["a0", "b1"]) if "in bins" in line]
    assert found == ["of a0, for auc: counts of rows in bins of scores or confidences, and sums of errors"]
