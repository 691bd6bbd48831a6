"""Tables: columns by name, missing and unknown values, training, predictions; the columns are part of the task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import federated_main
import fedmtl
from client.data.array_examples import ArrayExamples
from client.data.array_loader import read_rows
from client.data.formats import read_table
from client.data.forms import form_of
from client.data.writing import write_columns
from common.clock import ManualClock
from common.config import Config, load_config
from common.encoders.tabular import TabularEncoder
from common.errors import ConfigError, DataError, ModelError, Refused
from common.inputs.arrays import encoder_described
from common.tasks import TASK_KINDS, TaskDefinition
from server.runs.assembly import in_memory
from server.runs.saved import load_run
from simulation.app import simulate
from tests.federations import digest_of, federate, make_client, make_model

ENCODER = TabularEncoder({"income": "log", "city": ["south", "north"], "age": "number", "job": ["c", "b", "a"]}, (6,))
MINE = TaskDefinition("mine", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy",))
CELLS: dict[str, list[object]] = {
    "age": [31, None, 50.5, 44],
    "city": ["north", "south", None, "paris"],
    "income": [0, 1000, -1000, None],
    "job": ["a", "", "c", "b"],
}
ROWS = [[31, 2, 0, 2], [np.nan, 3, np.log(1001), 0], [50.5, 0, -np.log(1001), 4], [44, 1, np.nan, 3]]
"""Age, city (missing, unknown, north, south), the logarithm of the income, job."""


def write(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """A table in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table(dict(columns)), path)
    else:
        write_columns(path, {name: ["" if cell is None else cell for cell in cells] for name, cells in columns.items()})


def both(folder: Path, encoder: TabularEncoder = ENCODER) -> np.ndarray:
    data = read_rows(folder, MINE, encoder, seed=1)
    assert isinstance(data.train, ArrayExamples) and isinstance(data.validation, ArrayExamples)
    return np.concatenate([data.train.values, data.validation.values])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_are_found_by_name_whatever_their_order_and_what_else_is_there(tmp_path: Path, ending: str) -> None:
    labels: dict[str, list[object]] = {"label": ["no", "yes", "no", "yes"]}
    for number, names in enumerate((["age", "city", "income", "job"], ["job", "income", "city", "age"])):
        columns = labels | {name: CELLS[name] for name in names} | {"more": [1, 2, 3, 4]} if number else CELLS | labels
        own = tmp_path / str(number) / "mine"
        write(own / f"train.{ending}", columns)
        write(own / f"validation.{ending}", columns)
    first, second = (both(tmp_path / str(number)) for number in (0, 1))
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, np.array([*ROWS, *ROWS], dtype=np.float32))
    np.testing.assert_array_equal(second, first)


def test_values_are_missing_by_the_words_that_programs_write_unless_they_are_categories(tmp_path: Path) -> None:
    words = ["NA", "nan", "?", "null", "", "N/A"]
    encoder = TabularEncoder({"a": "number", "b": ["NA", "x"], "c": [1, 2]})
    columns = {"a": words, "b": words, "c": [1.0, 2.0, "1", "2", 3, ""], "label": ["no", "yes"] * 3}
    write(tmp_path / "mine.csv", columns)
    rows = both(tmp_path, encoder)
    assert np.isnan(rows[:, 0]).all()
    assert sorted(rows[:, 1].tolist()) == [0, 0, 0, 0, 0, 2]
    assert sorted(rows[:, 2].tolist()) == [0, 1, 2, 2, 3, 3]
    (note,) = read_rows(tmp_path, MINE, encoder, seed=1).notes
    assert note.endswith("'3' is no category that the encoder names; so are 1 of 6 rows, and they count as unknown")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"age": None}, "column missing, needed age; present are city, income, job, label; rename it or set model.tab"),
        ({"age": [31, "old", 50, 44]}, "mine.csv, row 2, column 'age': 'old' is not a number; mend or remove the row"),
        ({"income": [1, 2, 3, "inf"]}, "mine.csv, row 4, column 'income': inf is not a finite float32; mend"),
        ({"age": ["1_0", 2, 3, 4]}, "mine.csv, row 1, column 'age': '1_0' is not a number"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, changes: dict[str, list[object]], line: str) -> None:
    columns = {**CELLS, "label": ["no", "yes", "no", "yes"], **changes}
    write(tmp_path / "mine.csv", {name: cells for name, cells in columns.items() if cells is not None})
    with pytest.raises(DataError) as caught:
        both(tmp_path)
    assert line in caught.value.message and "\n" not in caught.value.message


def test_arrays_have_no_columns_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((4, 4)), y=np.zeros(4))
    with pytest.raises(DataError, match=r"has no table of task mine; needed mine/train with mine/validation, or mine"):
        both(tmp_path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "columns: 0 of them"),
        ({"age": "numbre"}, "columns.age: 'numbre' is no kind; write number, log or a list of categories"),
        ({"city": []}, "columns.city: 0 categories"),
        ({"city": ["a", "a"]}, "columns.city: 'a' is there twice"),
        ({"city": [True]}, "columns.city: True is no category"),
        ({"city": {"x": 1}}, "another type|is no kind"),
        ({"city": [f"{at}{'x' * 200}" for at in range(900)]}, "take more than 65536 characters"),
    ],
)
def test_impossible_columns_are_one_line_at_both_sides(columns: dict[str, object], words: str) -> None:
    values = {**json.loads(ENCODER.describe()), "columns": columns}
    with pytest.raises(ModelError, match=words):
        encoder_described(json.dumps(values))
    with pytest.raises(ConfigError, match=words.replace("another type|", "")):
        load_config(None, ["model.server_model=tabular", f"model.tabular={json.dumps({'columns': columns})}"])


# ---- federations ----


def rows_of(count: int, seed: int) -> dict[str, list[object]]:
    """Customers: the label depends on all columns; a tenth of each is missing."""
    rng = np.random.Generator(np.random.PCG64(seed))
    age, income = rng.standard_normal(count), np.exp(rng.normal(3, 1, count))
    city, job = rng.integers(2, size=count), rng.integers(3, size=count)
    label = (age + np.log(income) - 3 + (city - 0.5) + (job == 1) + rng.normal(0, 0.3, count)) > 0.3
    gaps = rng.random((4, count)) < 0.1
    columns = {"age": age, "city": np.array(["north", "south"])[city], "income": income, "job": np.array([*"abc"])[job]}
    found: dict[str, list[object]] = {
        name: [None if gap else cell for cell, gap in zip(cells.tolist(), gaps[at], strict=True)]
        for at, (name, cells) in enumerate(columns.items())
    }
    return {**found, "label": np.where(label, "yes", "no").tolist()}


def table_config(folder: Path, *more: str, encoder: TabularEncoder = ENCODER) -> Config:
    values = json.loads(encoder.describe())
    name = values.pop("model_type")
    task = "tasks={mine: {type: classification, labels: [no, yes]}}"
    sizes = ("num_rounds=3", "local_epochs=1", "batch_size=64", "optimizer=sgd", "learning_rate=0.5", "max_grad_norm=0")
    return load_config(
        None,
        [
            *(f"model.server_model={name}", f"model.{name}={json.dumps(values)}", task, f"data.dir='{folder}'"),
            *(*(f"training.{size}" for size in sizes), *more),
        ],
    )


TWO = (("one", ("mine",), "1/2"), ("two", ("mine",), "2/2"))


def test_two_sites_in_any_order_of_columns_are_a_plain_loop_over_the_pooled_rows(tmp_path: Path) -> None:
    """Each round is a step of SGD on all rows of a site, so the mean of both is a step on the rows of both."""
    digests, names = set(), ["age", "city", "income", "job", "label"]
    for order in (names, names[::-1]):
        folder = tmp_path / order[0]
        for split, count in (("train", 40), ("validation", 8)):
            write(folder / "mine" / f"{split}.csv", {name: rows_of(count, 5)[name] for name in order})
        config = table_config(folder, "federation.min_clients=2")
        run = asyncio.run(federate(config, tmp_path / f"state {order[0]}", TWO))
        digests.add(digest_of(run))
    assert len(digests) == 1
    found = make_model(config)
    start = {name: value.clone() for name, value in found.model.state_dict().items()}
    found.load_vectors(run.vectors)
    rows = read_rows(folder, MINE, ENCODER, seed=1).train
    assert isinstance(rows, ArrayExamples)
    expected = plain_loop(start, rows, rounds=3)
    for name, value in found.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


def plain_loop(start: Mapping[str, Tensor], rows: ArrayExamples, rounds: int) -> dict[str, Tensor]:
    """SGD over two numbers with marks and two categories, written out: none of FedMTL's modules."""
    values, labels = torch.from_numpy(rows.values), torch.from_numpy(rows.labels)
    parameters = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    for _ in range(rounds):
        table = parameters["encoder.embeddings.weight"]
        city, job = table[:4], table[4:]
        parts = [torch.nan_to_num(values[:, [0, 2]]), torch.isnan(values[:, [0, 2]]).float()]
        parts += [city[values[:, 1].long()], job[values[:, 3].long()]]
        weight, bias = parameters["encoder.layers.0.weight"], parameters["encoder.layers.0.bias"]
        hidden = functional.relu(functional.linear(torch.cat(parts, 1), weight, bias))
        head = (parameters["heads.mine.linear.weight"], parameters["heads.mine.linear.bias"])
        gradients = torch.autograd.grad(
            functional.cross_entropy(functional.linear(hidden, *head), labels), list(parameters.values())
        )
        with torch.no_grad():
            for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                parameter -= 0.5 * gradient
    return {name: value.detach() for name, value in parameters.items()}


def test_missing_categories_are_trained_and_those_that_nobody_has_stay(tmp_path: Path) -> None:
    write(tmp_path / "mine.csv", rows_of(60, 6))
    config = table_config(tmp_path)
    model = make_model(config)
    before = model.model.state_dict()["encoder.embeddings.weight"].clone()
    assert before[[0, 1, 4, 5]].abs().max() == 0, "missing and unknown values begin as nothing"
    run = asyncio.run(federate(config, tmp_path / "state", (("one", ("mine",), "1/1"),)))
    model.load_vectors(run.vectors)
    moved = (model.model.state_dict()["encoder.embeddings.weight"] - before).abs().amax(dim=1) > 0
    assert moved.tolist() == [True, False, True, True, True, False, True, True, True]


def test_a_client_with_other_columns_is_refused_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "mine.csv", rows_of(20, 7) | {"debt": [1] * 20})
    config = table_config(tmp_path)
    coordinator = in_memory(config, make_model(config), ManualClock())
    for columns, said in (
        (
            {"city": ["north", "west"]},
            '[..., city: ["north", "south"], income: log, ...] in this federation, and [..., ',
        ),
        ({"income": "number"}, "income: log, job: "),
        ({"debt": "number"}, "and [..., debt: number, income: log, ...] at client 'one'"),
    ):
        other = table_config(tmp_path, encoder=TabularEncoder({**ENCODER.columns, **columns}, (6,)))
        with pytest.raises(Refused) as caught:
            asyncio.run(coordinator.join(make_client(other, "one", ["mine"], "1/1").request))
        assert said in caught.value.message and "\n" not in caught.value.message
        assert caught.value.message.endswith("the section of the encoder in model must be the same for all")
    turned = TabularEncoder({name: ENCODER.columns[name] for name in ("job", "age", "income", "city")}, (6,))
    asyncio.run(coordinator.join(make_client(table_config(tmp_path, encoder=turned), "one", ["mine"], "1/1").request))


def test_new_rows_are_answered_from_a_file_in_another_order(tmp_path: Path) -> None:
    data, folder, target = tmp_path / "data", tmp_path / "run", tmp_path / "answers.csv"
    write(data / "mine.csv", rows_of(120, 8))
    more = (f"run.run_dir='{folder}'", "simulation.clients=2", "training.local_epochs=10")
    asyncio.run(simulate(table_config(data, *more), False, None))
    asked = rows_of(30, 9)
    write(tmp_path / "new.csv", {name: asked[name] for name in ("job", "income", "city", "age")})
    given = ["--input", str(tmp_path / "new.csv"), "--output", str(target)]
    assert federated_main.main(["--mode", "predict", "--run_dir", str(folder), "--task", "mine", *given]) == 0
    said = read_table(target).columns["predicted_label"]
    right = sum(one == other for one, other in zip(said, asked["label"], strict=True))
    assert right >= 24, right
    saved = load_run(folder)
    saved.load_task("mine")
    write(tmp_path / "same" / "mine" / "train.csv", asked)
    write(tmp_path / "same" / "mine" / "validation.csv", asked)
    rows = read_rows(tmp_path / "same", MINE, ENCODER, seed=1).train
    with torch.inference_mode():
        places = saved.model.model.eval()("mine", rows.prepare(MINE, None, "", 0).batch(np.arange(30))).argmax(1)
    assert said == [MINE.labels[place] for place in places]


def test_python_code_gives_frames_and_columns(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = {site: rows_of(80, seed) for site, seed in (("east", 10), ("west", 11))}
    labels = {site: columns.pop("label") for site, columns in rows.items()}
    tasks = {"mine": fedmtl.classification(["no", "yes"])}
    encoder = {"tabular": {"columns": dict(ENCODER.columns), "hidden": [6]}}
    settings = {"training.num_rounds": 1, "training.local_epochs": 2}
    runs = [
        fedmtl.simulate(tasks, {s: {"mine": (kind(rows[s]), labels[s])} for s in rows}, encoder, settings, tmp_path / n)
        for n, kind in (("columns", dict), ("frames", pandas.DataFrame))
    ]
    assert len({run.report.model_digest for run in runs}) == 1
    answers = [
        run.predict("mine", kind(rows["east"])) for run, kind in zip(runs, (pandas.DataFrame, dict), strict=True)
    ]
    assert answers[0] == answers[1] and len(answers[0]) == 80
    with pytest.raises(DataError, match=r"site east, task mine: rows are of type list; give a DataFrame, or lists by"):
        fedmtl.simulate(tasks, {"east": {"mine": ([[1, 2]], ["no"])}}, encoder, settings)


def test_standardising_leaves_gaps_and_categories_alone() -> None:
    values = np.array([[1, 2, 5, np.nan], [np.nan, 3, 5, np.nan], [5, 0, 5, np.nan]], dtype=np.float32)
    form = form_of(TabularEncoder({"a": "number", "b": ["x"], "c": "number", "d": "number"}))
    rows, few = ArrayExamples(values, np.zeros(3), form), ArrayExamples(values[:1], np.zeros(1), form)
    scaled, other = rows.on_scale(rows.row_scale()), few.on_scale(rows.row_scale())
    nan = np.nan
    np.testing.assert_array_equal(scaled.values, [[-1, 2, 0, nan], [nan, 3, 0, nan], [1, 0, 0, nan]])
    np.testing.assert_array_equal(other.values, scaled.values[:1])
