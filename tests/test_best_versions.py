"""Which version is the best: by hand, from scores alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from common.config import load_config
from common.errors import ConfigError
from common.orders import TaskResult
from common.statistics import TaskStatistics
from server.core.best import kept_beside, recalled
from server.core.facts import Best, Keep, Scored
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.phases import EVALUATE, TRAIN
from server.core.state import RunSettings
from tests.core_cases import TASKS, rules
from tests.test_scenarios import rightly

SST2, QQP = (replace(task, metrics=("accuracy",)) for task in TASKS)
MEAN = rules(tasks=(SST2, QQP), keep=Keep("mean"))


def scored(version: int, right: Mapping[str, int | TaskStatistics], number: int | None = None) -> OpenRound:
    """A round that began with a version; of ten rows of each task so many were right."""
    results = tuple(
        TaskResult(task, 0, None, rightly(found) if isinstance(found, int) else found) for task, found in right.items()
    )
    order = OpenOrder("o", "a", tuple(right), (), OrderState.ACCEPTED, results=results)
    phase = TRAIN if number is None else EVALUATE
    return OpenRound(version + 1 if number is None else number, 1, phase, version, 0.0, {"o": order})


def told(run: RunSettings, *rounds: OpenRound, fallback_tasks: Mapping[str, int] | None = None) -> Scored:
    return recalled(run, fallback_tasks or {}, rounds)


def test_the_best_mean_counts_and_the_first_of_equals_stays() -> None:
    rounds = [scored(v, {"sst2": a, "qqp": b}) for v, (a, b) in enumerate([(5, 5), (9, 3), (7, 6), (6, 7), (2, 9)])]
    found = told(MEAN, *rounds)
    assert (found.best["mean"].version, found.stale, found.newest) == (2, 2, 4)
    assert found.best["sst2/accuracy"] == Best(1, {"sst2": 0.9}) and found.best["qqp/accuracy"].version == 4
    assert kept_beside(MEAN, found, 5) == {2}
    assert kept_beside(replace(MEAN, keep=Keep("tasks", 3)), found, 5) == {1, 2, 3, 4}
    assert kept_beside(replace(MEAN, keep=Keep("qqp/accuracy")), found, 5) == {4}
    assert kept_beside(replace(MEAN, keep=Keep("", 2)), found, 5) == {2, 4}


def test_a_loss_is_better_when_it_is_smaller() -> None:
    run = rules(keep=Keep("sst2/loss"), patience=5)
    losses = [replace(rightly(5), loss_sum=loss) for loss in (9.0, 4.0, 6.0)]
    found = told(run, *(scored(version, {"sst2": sums}) for version, sums in enumerate(losses)))
    assert found.best["sst2/loss"] == Best(1, {"sst2": 0.4}) and found.stale == 1
    assert "mean" not in found.best  # qqp has no scores


def test_a_version_without_all_scores_is_not_compared() -> None:
    rounds = [scored(0, {"sst2": 5, "qqp": 5}), scored(1, {"sst2": 10}), scored(2, {"sst2": 5, "qqp": 5})]
    found = told(MEAN, *rounds)
    assert (found.best["mean"].version, found.stale, found.best["sst2/accuracy"].version) == (0, 1, 1)


def test_a_version_that_is_scored_again_keeps_its_first_scores() -> None:
    first, again = scored(1, {"sst2": 8, "qqp": 8}, number=1), scored(1, {"sst2": 2, "qqp": 2})
    assert told(MEAN, scored(0, {"sst2": 5, "qqp": 5}), first, again).best["mean"] == told(MEAN, first).best["mean"]


def test_auxiliary_tasks_and_those_that_fell_back_do_not_count() -> None:
    rounds = [scored(v, {"sst2": a, "qqp": b}) for v, (a, b) in enumerate([(5, 9), (6, 1), (7, 1)])]
    auxiliary = replace(MEAN, tasks=(SST2, replace(QQP, auxiliary=True)))
    assert told(MEAN, *rounds).best["mean"].version == 0
    assert told(auxiliary, *rounds).best["mean"].version == 2
    # qqp falls back after round 3, which scored version 2: from there on sst2 alone is compared
    late = told(MEAN, *rounds, fallback_tasks={"qqp": 3})
    assert late.best["mean"].scores == {"sst2": pytest.approx(0.7)} and late.best["mean"].version == 2


def test_a_task_that_joins_begins_the_comparison_anew() -> None:
    before = [scored(v, {"sst2": right}) for v, right in enumerate([5, 9, 8])]
    found = told(MEAN, *before, scored(3, {"sst2": 6, "qqp": 6}), scored(4, {"sst2": 7, "qqp": 7}))
    assert (found.best["mean"].version, found.stale) == (4, 0)


def test_nothing_is_computed_where_nothing_depends_on_it() -> None:
    assert told(rules(), scored(0, {"sst2": 5, "qqp": 5})) == Scored()


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("model.keep.best=speed", "model.keep.best: 'speed' names no task; write none, mean, tasks, or"),
        ("model.keep.best=sst2/rmse", "model.keep.best: 'sst2/rmse' is no metric of sst2; write sst2/ and one of"),
        ("model.keep.best=sst2", "model.keep.best: 'sst2' is no metric of sst2"),
        ("model.keep.every=-1", "model.keep.every"),
        ("training.patience=1.5", "training.patience"),
    ],
)
def test_what_makes_no_sense_is_refused(key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(None, ["tasks={sst2: {}}", key])


def test_patience_needs_rows_to_score_on() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.sst2\.val_samples: 0 leaves training\.patience nothing to compare"):
        load_config(None, ["tasks={sst2: {val_samples: 0}}", "training.patience=2"])
