"""A comparison that tunes every method: what picks, what scores, which intervals, and what stays in the table."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.modes import parse
from common.clock import ManualClock
from common.config import Config, vary
from common.errors import ConfigError
from simulation.comparison.app import compare_methods
from simulation.comparison.options import ComparisonOptions
from simulation.comparison.progress import RunsProgress
from simulation.comparison.result import Comparison
from simulation.comparison.tables import markdown
from simulation.comparison.tuning import grid, pick
from tests.federations import array_config

RATE = "training.learning_rate"


def compared(
    folder: Path, config: Config, names: list[str], seeds: tuple[int, ...] = (0,), **options: object
) -> Comparison:
    return compare_methods(config, names, seeds, folder, None, options=ComparisonOptions(**options))  # type: ignore[arg-type]


def crowd(*overrides: str, clients: int = 2) -> Config:
    return array_config(f"simulation.clients={clients}", *overrides)


@pytest.fixture
def turned(tmp_path: Path) -> Config:
    """Test rows with the labels turned round: what learns more from the training rows scores worse on them."""
    rng = np.random.Generator(np.random.PCG64(7))
    for task, column in (("a0", 0), ("b1", 1)):
        (tmp_path / "data" / task).mkdir(parents=True)
        for split, rows in (("train", 80), ("validation", 30), ("test", 50)):
            x = rng.normal(size=(rows, 5)).astype(np.float32)
            np.savez(tmp_path / "data" / task / f"{split}.npz", x=x, y=(x[:, column] > 0) ^ (split == "test"))
    return crowd(f"data.dir='{tmp_path / 'data'}'", clients=4)


def test_validation_rows_pick_and_test_rows_score(turned: Config, tmp_path: Path) -> None:
    tuned = compared(tmp_path / "tuned", turned, ["local", "central"], tune={RATE: [1e-6, 3e-2]})
    idle = compared(tmp_path / "idle", turned, ["local", "central"], tune={RATE: [1e-6]})
    for name, method in tuned.methods.items():
        assert method.tuning is not None and method.tuning.setting == {RATE: 3e-2}
        for task in tuned.tasks:
            values = [trial.scores[task] for trial in method.tuning.trials]
            assert None not in values and values[1] > values[0]  # type: ignore[operator]
            scores = [found.methods[name].scores[task]["auc_mean"].mean or 0.0 for found in (tuned, idle)]
            assert scores[0] < 0.2 and scores[0] < scores[1]  # test rows would have picked the other
            assert method.curves[task][-1].score.mean == pytest.approx(values[1])
    facts = tuned.tasks["a0"]
    assert (facts.split, facts.rows) == ("test", 50)
    unseen = compared(tmp_path / "tuned", turned, ["local"], tune={RATE: [1e-6, 3e-2]}, split="validation")
    assert (unseen.tasks["a0"].split, unseen.tasks["a0"].rows) == ("validation", 30)
    assert (unseen.methods["central"].scores["a0"]["auc_mean"].mean or 0.0) > 0.8
    text = markdown(tuned, [])
    assert "The figures are of the test rows of every task." in text
    assert f"| method | {RATE}=1e-06 | {RATE}=0.03 |" in text
    assert "Picked at the edge of what was tried, so that more values may give more: local, central." in text
    folders = {
        path.parent.relative_to(tmp_path / "tuned").as_posix() for path in tmp_path.glob("tuned/local/**/report.json")
    }
    assert folders == {f"local/{RATE}={rate}/seed-0" for rate in ("1e-06", "0.03")}


def test_test_rows_may_be_held_out_or_missing_in_one_task(turned: Config, tmp_path: Path) -> None:
    (tmp_path / "data" / "b1" / "test.npz").unlink()
    found = compared(tmp_path / "mixed", turned, ["local"])
    assert [(facts.split, facts.rows) for facts in found.tasks.values()] == [("test", 50), ("validation", 30)]
    assert "of validation rows in tasks without test rows: b1." in markdown(found, [])
    (tmp_path / "data" / "a0" / "test.npz").unlink()
    held_out = vary(turned, {"data.split": {"test": 0.25}})
    found = compared(tmp_path / "held_out", held_out, ["local"])
    assert [(facts.split, facts.rows) for facts in found.tasks.values()] == [("test", 20), ("test", 20)]


def test_with_one_value_the_table_is_that_without_tuning(tmp_path: Path) -> None:
    names = ["local", "ditto"]
    plain = compared(tmp_path / "plain", crowd(), names)
    tuned = compared(tmp_path / "tuned", crowd(), names, tune={RATE: [1e-2]})
    for name in names:
        mine, theirs = (replace(found.methods[name], changes={}, seconds=0.0) for found in (plain, tuned))
        assert mine == theirs


def test_a_setting_that_fails_is_never_picked(tmp_path: Path) -> None:
    found = compared(tmp_path, crowd(), ["local"], tune={RATE: [1e38, 1e-2]})
    tuning = found.methods["local"].tuning
    assert tuning is not None and tuning.picked == 1
    assert tuning.trials[0].value is None and "0 of 2 updates" in tuning.trials[0].error
    assert "| failed | **" in markdown(found, [])


def test_of_equal_settings_the_first_is_picked(tmp_path: Path) -> None:
    """Without rounds in which the server moves, its rate changes nothing of what `local` gives."""
    key = "federation.server_learning_rate"
    tuning = compared(tmp_path, crowd(), ["local"], tune={key: [0.5, 1.0]}).methods["local"].tuning
    assert tuning is not None and tuning.setting == {key: 0.5}
    assert tuning.trials[0].value == tuning.trials[1].value


def test_a_finished_method_stays_in_the_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = compared(tmp_path, crowd(), ["local"], tune={RATE: [1e-3, 1e-2]})
    with caplog.at_level(logging.INFO, "fedmtl.compare"):
        second = compared(tmp_path, crowd(), ["hard"], tune={RATE: [1e-3, 1e-2]})
    assert [*second.methods] == ["hard", "local"] and second.baselines == ("local",)
    assert second.methods["local"].scores == first.methods["local"].scores
    with caplog.at_level(logging.INFO, "fedmtl.compare"):
        other = compared(tmp_path, crowd(), ["ditto"], seeds=(0, 1))
    assert [*other.methods] == ["ditto"]
    assert "hard stays out of the comparison: not all of its runs are finished" in caplog.text


def test_gains_are_against_any_method_and_means_of_any_tasks(tmp_path: Path) -> None:
    config = crowd("tasks.b1.weight=3.0")
    found = compared(tmp_path, config, ["local", "hard"], baselines=["hard"], means={"one": ["a0"]})
    local, hard = found.methods["local"], found.methods["hard"]
    assert [*local.against] == ["hard"] and [*found.means] == ["all", "weighted", "one"]
    a, b = (local.scores[task]["auc_mean"].mean or 0.0 for task in ("a0", "b1"))
    wanted = {"all": (a + b) / 2, "weighted": (a + 3 * b) / 4, "one": a}
    assert {name: mean.mean for name, mean in local.means.items()} == pytest.approx(wanted, abs=2e-6)
    for name, mean in local.against["hard"].means.items():
        assert mean.gain.mean == pytest.approx((local.means[name].mean or 0) - (hard.means[name].mean or 0), abs=3e-6)
        assert mean.interval is not None and mean.interval[0] <= mean.interval[1]
    assert hard.against["hard"].means["all"].interval == (0.0, 0.0)
    text = markdown(found, [])
    assert "| method | mean | weighted mean | mean of one | delta | ▼ tasks | worst task |" in text
    assert "a0 auc_mean (n=20)" in text


def test_central_with_one_task_and_one_client_is_local(tmp_path: Path) -> None:
    config = array_config("simulation.clients=1", tasks=["a0"])
    found = compared(tmp_path, config, ["local", "central", "central_single"])
    for name in ("central", "central_single"):
        assert found.methods[name].scores == found.methods["local"].scores
        assert found.methods[name].curves == found.methods["local"].curves


def test_central_has_the_rows_of_all_clients(tmp_path: Path) -> None:
    """Two clients per task, 40 rows each: one client has 80 of both tasks. Each row stands with the client it is of."""
    found = compared(tmp_path, crowd(clients=4), ["central", "central_single", "local"])
    for run, tasks in (("central/seed-0", {"a0", "b1"}), ("central_single/seed-0/a0", {"a0"})):
        report = json.loads((tmp_path / run / "report.json").read_text(encoding="utf-8"))
        assert {task: body["examples"] for task, body in report["tasks"].items()} == dict.fromkeys(tasks, 80)
    clients = [{client: {*tasks} for client, tasks in method.clients.items()} for method in found.methods.values()]
    assert clients[0] == clients[1] == clients[2] and len(clients[0]) == 4
    assert found.methods["central"].extra_epochs == 0 and found.tasks["a0"].rows == 40


@pytest.mark.parametrize(
    ("tune", "line"),
    [
        ({"training.num_rounds": [1, 2]}, "--tune: training.num_rounds is part of the rows or the budget"),
        ({RATE: 1e-3}, f"--tune: {RATE} wants a list of values, not 0.001"),
        ({RATE: []}, f"--tune: {RATE} has no values; write {RATE}=V1,V2"),
        ({"sharing.plan": ["hard"]}, "--tune: tasks.b1.val_samples: 0 leaves no rows to pick settings by; raise it"),
        ({RATE: [1e-3, 1e-3]}, f"--tune: {RATE} has the value 0.001 twice"),
        (
            {RATE: [*range(11)], "model.x": [*range(10)]},
            "--tune: 110 settings for each method; 100 are the most",
        ),
    ],
)
def test_what_cannot_be_tuned_is_one_line(tune: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        grid(tune, crowd("tasks.b1.val_samples=0") if "sharing.plan" in tune else crowd())
    assert len(refused.value.problems) == 1 and refused.value.problems[0].startswith(line)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"baselines": ["mocha"]},
            "--baseline: 'mocha' is not among the methods that are compared; add it to",
        ),
        ({"means": {"six": ["c2"]}}, "--mean_of: six: 'c2' is no task; name some of a0, b1"),
        ({"means": {"all": ["a0"]}}, "--mean_of: all is the mean over all tasks, which is there anyway"),
        ({"tune": {"training.learning_rat": [1]}}, "method local: training.learning_rat: unknown key; did you mean"),
    ],
)
def test_what_is_not_there_is_one_line(options: dict[str, object], line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        compared(tmp_path, crowd(), ["local"], **options)
    assert len(refused.value.problems) == 1 and refused.value.problems[0].startswith(line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--tune training.learning_rate", "--tune: 'training.learning_rate' is not of the form KEY=V,W"),
        ("--tune a=1 --tune a=2", "--tune: a is given twice; write all of it once"),
        ("--tune a=[1", "--tune: a: "),
        ("--tune_seeds x", "--tune_seeds: 'x' must be whole numbers of 0 or more"),
        ("--mean_of six=a,a", "--mean_of: six: 'a,a' must be one or more different tasks"),
        ("--baseline a,a", "--baseline: 'a,a' must be one or more different methods"),
    ],
)
def test_a_command_line_that_is_wrong_is_one_line(words: str, line: str) -> None:
    from cli import compare

    with pytest.raises(ConfigError) as refused:
        compare.run(parse(["compare", *words.split()], "fedmtl"))
    assert refused.value.problems[0].startswith(line)


def test_an_error_is_picked_by_its_ratio_to_the_first_setting(tmp_path: Path) -> None:
    """rmse and auc: the mean of -value / first and of the area itself."""
    kind = "{type: regression, metrics: [rmse], train_samples: 40, val_samples: 20}"
    config = crowd(f"tasks.b1={kind}")
    tuning = compared(tmp_path, config, ["local"], tune={RATE: [1e-6, 1e-2]}).methods["local"].tuning
    assert tuning is not None
    first, second = tuning.trials
    ratio = (second.scores["b1"] or 0) / (first.scores["b1"] or 1)
    assert first.value == pytest.approx(((first.scores["a0"] or 0) - 1) / 2, abs=1e-6)
    assert second.value == pytest.approx(((second.scores["a0"] or 0) - ratio) / 2, abs=1e-6)
    assert pick(config.definitions(), [({}, "too bad")]) is None


def test_progress_says_how_long_all_runs_will_take(caplog: pytest.LogCaptureFixture) -> None:
    """One round of two has taken 60 s, which is work 5 of 40: 35 x 12 s are left, then 30 x 12 s."""
    clock = ManualClock()
    with caplog.at_level(logging.INFO, "fedmtl.compare"):
        progress = RunsProgress(None, 40.0, clock.now)
        with progress.of("hard with seed 0", 2, 10.0) as closed:
            clock.advance(60.0)
            closed(1)
            clock.advance(59.0)
            closed(2)  # too soon for another line
            clock.advance(1.0)
        with progress.of("local with seed 0", 2, 10.0):
            pass
    assert caplog.messages == [
        "hard with seed 0: round 0 of 2; the time that is left is not known yet",
        "hard with seed 0: round 1 of 2; about 7 min left",
        "local with seed 0: round 0 of 2; about 6 min left",
    ]
