"""Rows standardised by those of all clients: pooled once, coarse, known to later joiners, resumes and predictions."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import federated_main
import fedmtl
from client.app import load_data
from client.data.array_examples import ArrayExamples
from client.data.formats import read_table
from client.data.forms import FORMS, form_of
from client.data.writing import write_columns
from client.disclosure import what_leaves
from common.config import Config, load_config
from common.encoders.tabular import TabularEncoder
from common.errors import ConfigError, FedMTLError, ModelError, Refused, RunFolderError, WireError
from common.orders import JoinRequest, PollKind, PollReply, UpdateState
from common.standardising import InputScale, InputSums, pooled_scale
from common.targets import coarse
from common.tasks import TASK_KINDS, TaskDefinition
from common.wire import messages
from server.core.admission import check_join
from server.core.effects import Commit, Notice
from server.core.events import Joined
from server.core.state import RunSettings
from server.runs.saved import load_run
from server.storage.journal import Journal
from simulation.app import simulate
from simulation.population import VirtualClient
from simulation.virtual_clients import run_virtual_clients
from tests.core_cases import Table, rules
from tests.federations import array_config, digest_of, federate, make_model

RNG = np.random.Generator(np.random.PCG64(12))
FEDERATION = "data.statistics=federation"
TABLE = form_of(TabularEncoder({"a": "number", "b": ["x", "y"], "c": "log"}))


def drawn(shape: tuple[int, ...], rows: int) -> np.ndarray:
    return (RNG.standard_normal((rows, *shape)) * 300 + 1000).astype(np.float32)


def gappy(rows: int) -> np.ndarray:
    values = drawn((3,), rows)
    values[:, 1] = RNG.integers(4, size=rows)
    values[::3, 0] = np.nan
    return values


CASES: dict[str, tuple[Any, list[np.ndarray]]] = {
    "numbers": (FORMS["numbers"], [drawn((4,), rows) for rows in (6, 90, 11)]),
    "images": (FORMS["images"], [RNG.integers(256, size=(rows, 2, 3, 4), dtype=np.uint8) for rows in (5, 30)]),
    "sequences": (FORMS["sequences"], [drawn((7, 2), rows) for rows in (8, 40)]),
    "tables": (TABLE, [gappy(rows) for rows in (12, 50)]),
}


def examples(values: np.ndarray, form: Any) -> ArrayExamples:
    return ArrayExamples(values, np.zeros(len(values)), form)


@pytest.mark.parametrize("kind", CASES)
def test_the_scale_is_that_of_the_pooled_rows_but_coarse(kind: str) -> None:
    form, clients = CASES[kind]
    scale, silent = pooled_scale([(examples(values, form).input_sums(), 1.0) for values in clients])
    whole = np.concatenate(clients).astype(np.float64) / (255 if kind == "images" else 1)
    axes = {"images": (0, 2, 3), "sequences": (0, 1)}.get(kind, (0,))
    expected = [
        coarse(mean, width) for mean, width in zip(np.nanmean(whole, axes), np.nanstd(whole, axes), strict=True)
    ]
    categories = [1] if kind == "tables" else []
    for column, units in enumerate(expected):
        told = (0.0, 1.0) if column in categories else (units.mean, units.scale)
        assert (scale.means[column], scale.scales[column]) == told
    assert silent == categories
    batch = examples(np.concatenate(clients), form).scaled(scale).batch(np.arange(len(whole))).values.double().numpy()
    for column in {*range(len(expected))} - {*categories}:
        found = np.take(batch, column, axis=form.channel_axis + 1)
        assert abs(np.nanmean(found)) < 0.15 and 0.69 < np.nanstd(found) < 1.45
    for column in categories:
        np.testing.assert_array_equal(batch[:, column], whole[:, column])


def test_a_column_of_few_rows_is_not_told_and_stays_as_it_is() -> None:
    values = drawn((3,), 9)
    values[4:, 0], values[3:, 2] = np.nan, np.nan
    sums = examples(values, form_of(TabularEncoder({"a": "number", "b": "number", "c": "number"}))).input_sums()
    assert sums.counts == (0, 9, 0) and sums.means[0] == sums.squares[2] == 0.0
    scale, silent = pooled_scale([(sums, 1.0)])
    assert silent == [0, 2] and (scale.means[0], scale.scales[0]) == (0.0, 1.0) and scale.means[1] != 0.0
    assert examples(drawn((2,), 4), FORMS["numbers"]).input_sums() == InputSums((0, 0), (0.0, 0.0), (0.0, 0.0))


# ---- the coordinator ----

TASK = TaskDefinition("a", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy",))


@pytest.fixture
def settings() -> RunSettings:
    return rules(tasks=(TASK,), schemas={}, min_clients=2, scaled=2)


def two_columns(mean: float, rows: int) -> InputSums:
    return InputSums((rows, 0), (mean, 0.0), (rows * 100.0, 0.0))


def asking(client: str, *inputs: InputSums, rows: int = 10) -> JoinRequest:
    return JoinRequest(client, (TASK,), (("a", rows),), inputs=tuple(("a", sums) for sums in inputs))


def joined(table: Table, request: JoinRequest) -> None:
    check_join(table.settings, table.state, request)
    table.apply(Joined(table.now, request, f"token-{request.client_id}"))


def test_a_scale_is_fixed_with_the_first_round_and_later_joiners_hear_the_same(settings: RunSettings) -> None:
    table = Table(settings)
    joined(table, asking("a", two_columns(100.0, 10)))
    assert not table.state.scales
    joined(table, asking("b", two_columns(120.0, 30), rows=30))
    expected = coarse(115.0, np.sqrt((40 * 100 + 10 * 15**2 + 30 * 5**2) / 40))
    scale = InputScale((expected.mean, 0.0), (expected.scale, 1.0))
    assert table.state.scales == {"a": scale}
    assert table.order("a").scales == table.order("b").scales == (("a", scale),)
    said = [notice.text for notice in table.of(Notice)]
    assert "task a: no client has 5 rows with a value in column 2, so these stay as they are" in said
    joined(table, asking("late", two_columns(-1e9, 10)))
    assert table.state.scales == {"a": scale}
    journal = Journal(":memory:")
    for effect in table.of(Commit):
        journal.commit(effect.records)
    assert journal.restore((), 1.0).scales == {"a": scale}
    journal.close()


def test_rows_above_the_cap_move_no_scale(settings: RunSettings) -> None:
    table = Table(replace(settings, max_examples=10))
    joined(table, asking("a", two_columns(0.0, 10)))
    joined(table, asking("b", two_columns(16.0, 1000), rows=1000))
    assert table.state.scales["a"].means[0] == coarse(8.0, np.sqrt(100 + 64)).mean


@pytest.mark.parametrize(
    ("scaled", "inputs", "words"),
    [
        (2, (), "data.statistics is federation at the coordinator and another here; write the same"),
        (0, (two_columns(1.0, 10),), "data.statistics is another at the coordinator and federation here"),
        (3, (two_columns(1.0, 10),), "sums of 2 columns are not those of 3"),
        (2, (two_columns(1.0, 11),), "11 of 10 rows cannot have"),
        (2, (two_columns(1.0, 4),), "4 of 10 rows cannot have"),
        (2, (two_columns(1e39, 10),), "cannot have the mean 1e"),
        (2, (replace(two_columns(1.0, 10), squares=(-1.0, 0.0)),), "squared deviations of -1"),
    ],
)
def test_sums_that_do_not_fit_are_refused_in_one_line(
    settings: RunSettings, scaled: int, inputs: tuple[InputSums, ...], words: str
) -> None:
    table = Table(replace(settings, scaled=scaled))
    with pytest.raises(Refused, match=words) as caught:
        check_join(table.settings, table.state, asking("a", *inputs))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "scale", [((0.0,), (0.0,)), ((0.0,), (-1.0,)), ((1e40,), (1.0,)), ((0.0,), (1.0, 1.0)), ((), ())]
)
def test_scales_that_no_row_can_have_are_no_message(settings: RunSettings, scale: tuple[Any, Any]) -> None:
    table = Table(replace(settings, min_clients=1))
    joined(table, asking("a", two_columns(1.0, 10)))
    order = replace(table.order("a"), scales=(("a", InputScale(*scale)),))
    reply = messages.POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=order))
    with pytest.raises(WireError, match="scales: "):
        messages.POLL_REPLY.decode(reply)
    with pytest.raises(WireError, match="a scale of 3 columns is not for rows of 2"):
        examples(drawn((2,), 4), FORMS["numbers"]).scaled(InputScale((0.0,) * 3, (1.0,) * 3))


# ---- federations ----

ROWS = np.round(RNG.standard_normal((80, 3)) * 64).astype(np.float32) / 64
LABELS = np.where(ROWS @ [1.0, -2.0, 0.5] > 0, "yes", "no")


def write(folder: Path, scale: float = 1.0, shift: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    columns = {name: (ROWS[:, place] * scale + shift).tolist() for place, name in enumerate("pqr")}
    for task in ("a0", "b1"):
        write_columns(folder / f"{task}.csv", columns | {"label": LABELS.tolist()})
    return folder


def config_of(data: Path, *more: str) -> Config:
    sizes = ("model.mlp={features: 3, hidden: [6]}", "federation.min_clients=4", "training.learning_rate=0.02")
    kind = "{type: classification, labels: [no, yes]}"
    return array_config(f"data.dir='{data}'", "tasks={a0: " + kind + ", b1: " + kind + "}", *sizes, FEDERATION, *more)


CLIENTS = (("a", ("a0",), "1/2"), ("b", ("a0",), "2/2"), ("c", ("b1",), "1/2"), ("d", ("a0", "b1"), "2/2"))


def test_rows_in_other_units_give_the_same_model_bit_for_bit_by_every_path(tmp_path: Path) -> None:
    """Powers of two and multiples of a quarter of them change no bit of what is standardised."""
    plain, other = write(tmp_path / "plain"), write(tmp_path / "other", 1024.0, 8192.0)
    runs = [
        asyncio.run(federate(config_of(data), tmp_path / f"{data.name} {how}", CLIENTS, how))
        for data, how in ((plain, "direct"), (plain, "grpc"), (other, "grpc"))
    ]
    assert len({digest_of(run) for run in runs}) == 1
    assert runs[2].state.scales["a0"].scales[0] == 1024 * runs[0].state.scales["a0"].scales[0]
    apart = [VirtualClient(name, dict.fromkeys(tasks, (int(part[0]), 2))) for name, tasks, part in CLIENTS]
    config = config_of(other)
    simulated, _ = asyncio.run(run_virtual_clients(config, make_model(config), apart, tmp_path / "simulated"))
    assert simulated.state.scales == runs[2].state.scales


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standardised")
    run = f"run.run_dir='{folder / 'run'}'"
    config = config_of(write(folder / "data", 1000.0, 5000.0), run, "simulation.clients=4", "training.local_epochs=20")
    asyncio.run(simulate(config, False, None))
    return folder


def test_the_coordinators_model_answers_and_is_scored(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, target = str(finished / "run"), finished / "answers.csv"
    given = ["--input", str(finished / "data" / "a0.csv"), "--output", str(target)]
    assert federated_main.main(["--mode", "predict", "--run_dir", run, "--task", "a0", *given]) == 0
    said = np.array(read_table(target).columns["predicted_label"])
    assert (said == LABELS).mean() > 0.9
    assert federated_main.main(["--mode", "evaluate", "--run_dir", run, "--data_dir", str(finished / "data")]) == 0
    report = json.loads((finished / "run" / "report.json").read_text())
    last = report["tasks"]["a0"]["metrics"]["accuracy"]
    assert last > 0.85 and f"a0: accuracy {last:.4f}" in capsys.readouterr().out


def test_python_has_the_model_and_its_answers(tmp_path: Path) -> None:
    rows = ROWS * 1000 + 5000
    tasks, sites = {"a0": fedmtl.classification(["no", "yes"])}, {}
    for site, part in (("east", slice(0, 40)), ("west", slice(40, 80))):
        sites[site] = {"a0": (rows[part], LABELS[part])}
    settings = {"data.statistics": "federation", "training.local_epochs": 20, "training.num_rounds": 1}
    settings["training.learning_rate"] = 0.05
    run = fedmtl.simulate(tasks, sites, {"mlp": {"hidden": [6]}}, settings, tmp_path / "run")
    answers = run.predict("a0", rows)
    assert (np.array(answers) == LABELS).mean() > 0.9
    logits = run.model("a0")(torch.from_numpy(rows))
    assert [["no", "yes"][place] for place in logits.argmax(1)] == answers
    settings |= {"data.statistics": "site", "training.local_epochs": 1}
    alone = fedmtl.simulate(tasks, sites, {"mlp": {"hidden": [6]}}, settings, tmp_path / "alone")
    with pytest.raises(ModelError, match=r"data\.statistics: site: each site knows the scale of its own rows"):
        alone.predict("a0", rows)


def resumed(finished: Path, *more: str) -> None:
    run = f"run.run_dir='{finished / 'run'}'"
    config = config_of(finished / "data", run, "simulation.clients=4", "training.local_epochs=20", *more)
    asyncio.run(simulate(config, True, None))


@pytest.mark.slow
def test_a_resumed_run_and_one_that_starts_from_it_have_the_same_scale(finished: Path) -> None:
    before = load_run(finished / "run").scales
    assert before.keys() == {"a0", "b1"} and all(4000 < mean < 6000 for mean in before["a0"].means)
    resumed(finished, "training.num_rounds=3")
    assert load_run(finished / "run").scales == before and load_run(finished / "run").version == 3
    with pytest.raises(RunFolderError, match=r"data\.statistics: none differs from the run's federation"):
        resumed(finished, "data.statistics=none", "training.num_rounds=4")
    start = (f"model.warm_start='{finished / 'run'}'", "simulation.clients=4")
    second = config_of(write(finished / "more"), *start, f"run.run_dir='{finished / 'second'}'")
    asyncio.run(simulate(second, False, None))
    assert load_run(finished / "second").scales == before
    third = config_of(finished / "data", *start, f"run.run_dir='{finished / 'third'}'", "data.statistics=site")
    with pytest.raises(ModelError, match=r"data\.statistics: site, but the run in .* write federation"):
        asyncio.run(simulate(third, False, None))


def test_what_leaves_names_the_sums_of_rows(tmp_path: Path) -> None:
    config = array_config(FEDERATION)
    said = "  once, of every task, by column or channel: training rows with a value, mean and squared deviations"
    assert said in what_leaves(config, ["a0"])
    assert said not in what_leaves(array_config("data.statistics=site"), ["a0"])
    assert load_data(config, config.definitions())["a0"].inputs is not None
    with pytest.raises(
        ConfigError, match=r"data\.statistics: federation tells the mean and the spread of 20000 columns"
    ):
        array_config(FEDERATION, "model.mlp.features=10000")
    with pytest.raises(FedMTLError, match=r"data\.statistics: only rows of numbers can be standardised"):
        load_config(None, ["tasks={sst2: {}}", FEDERATION])
