"""Rows are read before anything is made: a refusal leaves nothing behind, and `--mode check` tells all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from federated_main import main
from tests.processes import log_given_back

CONFIG = """
model: {server_model: mlp, mlp: {features: 2, hidden: [4]}}
tasks: {fruit: {type: classification, labels: [apple, pear]}}
training: {num_rounds: 1, local_epochs: 1}
compare: {}
"""


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """`main` takes the log over; give it back."""
    with log_given_back():
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, `good` rows and `bad` ones."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    rows = [f"{a:.3f},{b:.3f},{'apple' if a > b else 'pear'}" for a, b in np.random.default_rng(0).normal(size=(16, 2))]
    for name, header in (("good", "size,weight,label"), ("turned", "weight,size,label"), ("bad", "size,score,label")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fruit.csv").write_text("\n".join((header, *rows)) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(mode: str, data: str, *more: str) -> int:
    return main(["--mode", mode, "--config", "config.yaml", "--data_dir", data, *more])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("misspelt", "error: data folder misspelt does not exist; give the folder that holds fruit.npz"),
        ("bad", "error: bad/fruit.csv: the label could be in 'label' or 'score'; name the right one in tasks.fruit.co"),
    ],
)
@pytest.mark.parametrize("mode", ["simulate", "compare"])
def test_a_refused_row_leaves_nothing_and_the_corrected_command_works(
    mode: str, data: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--clients", "2", "--run_dir", "run"]
    if mode == "compare":
        more += ["--methods", "local,hard", "--seeds", "0"]
    assert run(mode, data, *more) == 3
    assert said in capsys.readouterr().err
    assert not (here / "run").exists()
    assert run(mode, "good", *more) == 0
    assert (here / "run").is_dir()


def test_the_log_says_which_column_is_what(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "good", "--clients", "2", "--run_dir", "run") == 0
    shown = capsys.readouterr()
    assert "fruit: columns: label 'label', 2 features size, weight" in shown.err + shown.out


def test_a_model_is_scored_on_the_columns_that_it_was_trained_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("simulate", "good", "--clients", "1", "--run_dir", "run") == 0
    score = ["--mode", "evaluate", "--run_dir", "run", "--data_dir"]
    assert main([*score, "good"]) == 0
    trained = capsys.readouterr().out.splitlines()[-1].split(";")[0]
    assert main([*score, "turned"]) == 3
    assert "trained on the features [size, weight] of fruit, here are [weight, size]" in capsys.readouterr().err
    (here / "turned" / "fruit.csv").write_text(
        "\n".join(
            ",".join(line.split(",")[place] for place in (1, 2, 0))
            for line in (here / "good" / "fruit.csv").read_text().splitlines()
        )
    )
    assert main([*score, "turned", "--set", "tasks.fruit.columns={features: [size, weight]}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split(";")[0] == trained


def test_check_reads_rows_and_tells_every_refusal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "good") == 0
    shown = capsys.readouterr().out
    assert "\nfruit: 12 training, 4 validation rows, good/fruit.csv\n" in shown
    assert "\n  columns: label 'label', 2 features size, weight\n" in shown
    assert "\n  training labels: " in shown
    two = "tasks.meal={type: regression}"
    assert run("check", "bad", "--set", two) == 3
    assert [line[:45] for line in capsys.readouterr().err.splitlines()] == [
        "error: bad/fruit.csv: the label could be in '",
        "error: data folder bad has no rows of task me",
    ]
    assert run("check", "good", "--tasks", "fruit", "--set", two) == 0
    shown = capsys.readouterr().out
    assert "What leaves a client with fruit:" in shown
    assert "names of their columns" in shown


def test_rows_to_train_on_suffice_where_no_scores_are_wanted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "train" / "fruit").mkdir(parents=True)
    (here / "good" / "fruit.csv").rename(here / "train" / "fruit" / "train.csv")
    more = ["--clients", "2", "--run_dir", "run"]
    assert run("simulate", "train", *more) == 3
    assert "train/fruit has no validation file; name it" in capsys.readouterr().err
    assert run("simulate", "train", *more, "--set", "tasks.fruit.val_samples=0") == 0
