"""The loss of a row counts by its label: as given, or so that the labels of the whole federation are balanced."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from client.app import load_data, local_definitions
from client.disclosure import what_leaves
from client.jobs.job import Job, run_job
from client.training.compact import Examples
from client.training.loop import TaskSet
from common.bodies import Evaluate
from common.class_weights import LEAST_COUNT, balanced_classes, balanced_labels
from common.config import Config, load_config
from common.errors import ConfigError, Reason, Refused, WireError
from common.orders import JoinRequest, Order, PollKind, PollReply, UpdateState
from common.statistics import merge
from common.targets import TargetSums, TargetUnits
from common.tasks import TASK_KINDS, TaskDefinition
from common.wire import messages
from server.core.admission import check_join
from server.core.effects import Commit, Notice
from server.core.events import Joined
from server.reporting.values import to_json
from server.runs.saved import load_run
from server.storage.journal import Journal
from simulation.app import simulate
from tests.core_cases import SETTINGS, Table, rules
from tests.crashes import model_made_here
from tests.federations import digest_of, federate, make_client

COUGH = TaskDefinition(
    "cough", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy", "f1"), class_weights="balanced"
)
TAGS = TaskDefinition("tags", TASK_KINDS["multilabel"], ("p", "q"), False, ("f1_micro",), class_weights="balanced")
OTHER = TaskDefinition("other", TASK_KINDS["classification"], ("a", "b"), False, ("accuracy",))


def within_rounding(found: tuple[float, ...], exact: list[float]) -> bool:
    return bool(np.all(np.abs(np.array(found) / exact - 1) <= 1 / 16))


def test_balanced_weights_are_those_of_scikit_learn_to_rounding() -> None:
    """compute_class_weight("balanced", classes=[0, 1, 2], y=[0] * 900 + [1] * 75 + [2] * 25) by its formula."""
    exact = [1000 / (3 * count) for count in (900, 75, 25)]
    assert balanced_classes((900, 75, 25), 1000) == (0.375, 4.5, 13.0)
    assert within_rounding(balanced_classes((900, 75, 25), 1000), exact)
    assert balanced_classes((50, 50), 100) == (1.0, 1.0)
    for counts in np.random.default_rng(2).integers(LEAST_COUNT, 10_000, size=(50, 4)).tolist():
        found = balanced_classes(counts, sum(counts))
        assert within_rounding(found, [sum(counts) / (4 * count) for count in counts])
        # All classes count alike, hence as many rows in all as there are.
        assert np.dot(found, counts) == pytest.approx(sum(counts), rel=1 / 16)


def test_balanced_weights_of_labels_are_the_pos_weight_that_torch_recommends() -> None:
    """BCEWithLogitsLoss: 100 rows with a label and 300 without it give 300 / 100 = 3."""
    assert balanced_labels((100, 300, 200), 400) == (3.0, pytest.approx(1 / 3, rel=1 / 16), 1.0)
    assert balanced_labels((0, 400), 400) == (80.0, 13 / 1024)  # 400 / 5 and 5 / 400


def test_labels_of_few_rows_or_none_count_alike() -> None:
    assert len({balanced_classes((100, count), 100) for count in range(LEAST_COUNT + 1)}) == 1


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_classifications_loss_by_hand_and_by_torch(reduction: Any) -> None:
    rng = np.random.default_rng(1)
    outputs, targets = torch.tensor(rng.normal(size=(7, 2)), dtype=torch.float32), torch.tensor([0, 1, 1, 0, 0, 0, 1])
    found = COUGH.type.loss(outputs, targets, reduction, TargetUnits(weights=(0.5, 4.0)))
    share = np.exp(outputs.double().numpy())
    rows = -np.log(share[range(7), targets] / share.sum(axis=1)) * np.where(targets == 1, 4.0, 0.5)
    by_hand = {"mean": rows.sum() / 7, "sum": rows.sum(), "none": rows}[reduction]
    assert found.numpy() == pytest.approx(by_hand, rel=1e-6)
    if reduction == "mean":  # that of torch is divided by the weights of the batch instead
        theirs = functional.cross_entropy(outputs, targets, torch.tensor([0.5, 4.0])).item()
        assert found.item() == pytest.approx(theirs * (4 * 0.5 + 3 * 4.0) / 7, rel=1e-6)


def test_a_row_of_weight_three_counts_as_three_rows() -> None:
    outputs, targets = torch.tensor([[0.3, -0.2], [1.0, 0.5]]), torch.tensor([0, 1])
    thrice = COUGH.type.loss(outputs[[0, 1, 1, 1]], targets[[0, 1, 1, 1]], "sum")
    assert COUGH.type.loss(outputs, targets, "sum", TargetUnits(weights=(1.0, 3.0))).item() == pytest.approx(
        thrice.item(), rel=1e-6
    )


def test_the_mean_of_clients_by_rows_is_the_loss_of_the_pooled_rows() -> None:
    """Also where a client has one class alone, whose weights a mean over weights would cancel."""
    rng = np.random.default_rng(4)
    outputs, targets = torch.tensor(rng.normal(size=(30, 2))), torch.tensor([0] * 25 + [1] * 5)
    units = TargetUnits(weights=(0.625, 3.0))
    parts = [slice(0, 20), slice(20, 30)]
    means = [COUGH.type.loss(outputs[part].float(), targets[part], units=units).item() for part in parts]
    pooled = COUGH.type.loss(outputs.float(), targets, units=units).item()
    assert (20 * means[0] + 10 * means[1]) / 30 == pytest.approx(pooled, rel=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_multilabel_loss_by_hand(reduction: Any) -> None:
    outputs, targets = torch.tensor([[0.5, -1.0], [2.0, 0.0], [-3.0, 1.0]]), torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    found = TAGS.type.loss(outputs, targets, reduction, TargetUnits(weights=(3.0, 0.5)))
    z, y = outputs.double().numpy(), targets.numpy()
    cells = y * [3.0, 0.5] * np.log1p(np.exp(-z)) + (1 - y) * np.log1p(np.exp(z))
    rows = cells.mean(axis=1)
    assert found.numpy() == pytest.approx({"mean": rows.mean(), "sum": rows.sum(), "none": rows}[reduction], rel=1e-6)


BOTH = rules(tasks=(COUGH, OTHER), schemas={}, min_clients=3)


def joined(table: Table, client: str, task: TaskDefinition, *counts: int, rows: int | None = None) -> None:
    own = ((task.name, TargetSums(counts=counts)),) if counts else ()
    request = JoinRequest(client, (task,), ((task.name, sum(counts) if rows is None else rows),), targets=own)
    check_join(table.settings, table.state, request)
    table.apply(Joined(table.now, request, f"token-{client}"))


def test_weights_are_fixed_with_the_first_round_and_told_to_clients_of_the_task_alone() -> None:
    table = Table(BOTH)
    joined(table, "a", COUGH, 90, 0)
    joined(table, "c", OTHER, rows=5)
    assert not table.state.units
    joined(table, "b", COUGH, 0, 10)
    expected = TargetUnits(weights=(0.5625, 5.0))  # 100 / (2 * 90) to a sixteenth, 100 / (2 * 10)
    assert table.state.units == {"cough": expected}
    assert table.order("a").units == table.order("b").units == (("cough", expected),)
    assert table.order("c").units == ()
    joined(table, "d", COUGH, 0, 10_000)
    assert table.state.units == {"cough": expected} and table.order("a").units == (("cough", expected),)
    journal = Journal(":memory:")
    for effect in table.of(Commit):
        journal.commit(effect.records)
    assert journal.restore((), 1.0).units == {"cough": expected}
    journal.close()
    assert any("counts by its label: no 0.5625, yes 5" in notice.text for notice in table.of(Notice))


def test_rows_above_the_cap_move_no_weights() -> None:
    table = Table(rules(tasks=(COUGH,), schemas={}, min_clients=2, max_examples=100))
    joined(table, "a", COUGH, 0, 10_000)
    joined(table, "b", COUGH, 100, 0)
    assert table.state.units["cough"].weights == (1.0, 1.0)


def test_given_weights_travel_as_they_are_and_ask_for_no_counts() -> None:
    given = replace(COUGH, class_weights=(0.3, 7.0))
    table = Table(rules(tasks=(given,), schemas={}, min_clients=1))
    joined(table, "a", given, rows=5)
    assert table.order("a").units == (("cough", TargetUnits(weights=(0.3, 7.0))),)


@pytest.mark.parametrize(
    ("task", "targets", "words"),
    [
        (COUGH, (), "counts of its labels are missing"),
        (COUGH, (("cough", TargetSums(counts=(3, 3))),), "not those of 5 training rows"),
        (COUGH, (("cough", TargetSums(counts=(5,))),), "not those of 5 training rows"),
        (COUGH, (("cough", TargetSums(counts=(6, -1))),), "not those of 5 training rows"),
        (TAGS, (("tags", TargetSums(counts=(5, 6))),), "not those of 5 training rows"),
    ],
)
def test_counts_that_no_rows_have_are_refused(task: TaskDefinition, targets: Any, words: str) -> None:
    table = Table(rules(tasks=(task,), schemas={}))
    with pytest.raises(Refused, match=words) as caught:
        check_join(table.settings, table.state, JoinRequest("a", (task,), ((task.name, 5),), targets=targets))
    assert caught.value.reason is Reason.MALFORMED and "\n" not in caught.value.message


def test_a_client_that_would_not_tell_its_counts_is_refused() -> None:
    table = Table(rules(tasks=(COUGH,), schemas={}))
    alike = replace(COUGH, class_weights="none")
    with pytest.raises(Refused, match="class_weights: balanced against none") as caught:
        check_join(table.settings, table.state, JoinRequest("a", (alike,), (("cough", 5),)))
    assert caught.value.reason is Reason.TASK_MISMATCH


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_weights_that_no_loss_has_are_no_message(weights: tuple[float, float]) -> None:
    table = Table(rules(tasks=(COUGH,), schemas={}))
    joined(table, "a", COUGH, 3, 2)
    order = replace(table.order("a"), units=(("cough", TargetUnits(weights=weights)),))
    with pytest.raises(WireError, match="units: weights"):
        messages.POLL_REPLY.decode(messages.POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, "", order)))


def test_a_client_takes_one_weight_per_label_or_none() -> None:
    order = Order(
        "train-1.1-a", 1, 0, (), 1.0, Evaluate(SETTINGS, 1), ("cough",), (("cough", TargetUnits(weights=(1.0,))),)
    )
    item: Any = TaskSet(COUGH, (), ())  # type: ignore[arg-type]
    nothing: Any = None
    with pytest.raises(WireError, match="task 'cough' have not one weight per label"):
        run_job(Job(order, Examples((item,), (item,), None), "all", nothing, nothing), nothing, {})


def rare_rows(folder: Path, rows: int = 400, apart: float = 1.2) -> Path:
    """Five in a hundred rows are of class yes, which lies beside the others."""
    rng = np.random.default_rng(8)
    y = (np.arange(rows) % 20 == 7).astype(int)
    x = rng.normal(size=(rows, 4)).astype(np.float32) + apart * y[:, None].astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "cough.npz", x=x, y=y)
    return folder


def rare_config(folder: Path, weights: str, *overrides: str) -> Config:
    settings = (
        "model={server_model: mlp, mlp: {features: 4, hidden: [8]}}",
        "training={num_rounds: 4, local_epochs: 6, learning_rate: 1e-2, batch_size: 16}",
        f"tasks={{cough: {{type: classification, labels: [no, yes], class_weights: {weights}}}}}",
        f"data.dir='{folder}'",
        "federation.min_clients=2",
    )
    return load_config(None, [*settings, *overrides])


def mean_recall(coordinator: Any) -> float:
    """Of both classes at the end, over all clients: balanced_accuracy_score of scikit-learn."""
    orders = coordinator.journal.rounds()[-1].orders.values()
    hits, true, _ = merge([result.validation for order in orders for result in order.results]).by_label
    return float(np.mean([h / t for h, t in zip(hits, true, strict=True)]))


TWO = (("x", ("cough",), "1/2"), ("y", ("cough",), "2/2"))


@pytest.mark.slow
def test_balanced_classes_find_what_is_rare_with_the_same_bits_by_every_transport(tmp_path: Path) -> None:
    data, made = rare_rows(tmp_path / "data", 2000, 0.7), {}
    for weights, how in (("none", "direct"), ("balanced", "direct"), ("balanced", "codec"), ("balanced", "grpc")):
        config = rare_config(data, weights)
        made[weights, how] = asyncio.run(federate(config, tmp_path / f"{weights}-{how}", TWO, how))
    digests = {how: digest_of(coordinator) for (_, how), coordinator in made.items() if _ == "balanced"}
    assert len(digests) == 3 and len(set(digests.values())) == 1
    assert digests["grpc"] != digest_of(made["none", "direct"])
    assert mean_recall(made["balanced", "direct"]) > mean_recall(made["none", "direct"]) + 0.1


def test_a_run_that_goes_on_has_the_weights_it_began_with_and_the_same_bits(tmp_path: Path) -> None:
    data = rare_rows(tmp_path / "data")

    def simulated(folder: str, rounds: int, resume: bool = False) -> Any:
        place = f"run.run_dir='{tmp_path / folder}'"
        config = rare_config(data, "balanced", place, "simulation.clients=2", f"training.num_rounds={rounds}")
        with model_made_here():
            return to_json(asyncio.run(simulate(config, resume, None)))

    whole = simulated("whole", 3)
    simulated("parts", 1)
    before = load_run(tmp_path / "parts").units
    parts = simulated("parts", 3, resume=True)
    assert load_run(tmp_path / "parts").units == before
    assert parts["model_digest"] == whole["model_digest"]
    task = parts["tasks"]["cough"]
    assert dict(zip(("no", "yes"), before["cough"].weights or (), strict=True)) == task["class_weights"]
    assert task["class_weights"]["yes"] > 5 and "units" not in task


def test_a_run_that_starts_from_another_has_weights_of_its_own(tmp_path: Path) -> None:
    data = rare_rows(tmp_path / "data")
    weights = []
    for folder, given, start in (("first", "[1, 9]", ""), ("second", "[1, 4]", "first")):
        places = [f"run.run_dir='{tmp_path / folder}'", "simulation.clients=2", "training.num_rounds=1"]
        places += [f"model.warm_start='{tmp_path / start}'"] if start else []
        with model_made_here():
            asyncio.run(simulate(rare_config(data, given, *places), False, None))
        weights.append(load_run(tmp_path / folder).units["cough"].weights)
    assert weights == [(1.0, 9.0), (1.0, 4.0)]


def test_clients_tell_the_counts_of_their_training_rows_alone(tmp_path: Path) -> None:
    data = rare_rows(tmp_path / "data")
    request = make_client(rare_config(data, "balanced"), "x", ("cough",), "1/1").request
    rows = dict(request.examples)["cough"]
    ((name, sums),) = request.targets
    assert name == "cough" and sum(sums.counts) == rows and 0 < sums.counts[1] < 0.1 * rows
    for weights in ("none", "[1, 3]"):
        assert make_client(rare_config(data, weights), "x", ("cough",), "1/1").request.targets == ()


def test_counts_of_several_labels_are_those_of_their_cells(tmp_path: Path) -> None:
    y = np.array([[1, 0], [1, 1], [0, 0], [1, 0]] * 10)
    np.savez(tmp_path / "tags.npz", x=np.zeros((40, 4), dtype=np.float32), y=y)
    kind = "tasks={tags: {type: multilabel, labels: [p, q], class_weights: balanced}}"
    config = rare_config(tmp_path, "none", kind)
    definitions = local_definitions(config, ["tags"])
    rows = load_data(config, definitions)["tags"].train
    counts = definitions[0].type.target_sums(definitions[0], np.asarray(rows.labels)).counts
    assert counts == tuple(np.asarray(rows.labels).sum(axis=0).tolist())


def test_what_leaves_names_the_counts(tmp_path: Path) -> None:
    data = rare_rows(tmp_path / "data")
    said = "once, of cough: how many training rows have each label"
    assert said in "\n".join(what_leaves(rare_config(data, "balanced"), ["cough"]))
    for weights in ("none", "[1, 2]"):
        assert said not in "\n".join(what_leaves(rare_config(data, weights), ["cough"]))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("{type: classification, labels: [a, b], class_weights: [1]}", "1 numbers for 2 labels; write one for each"),
        ("{type: classification, labels: [a, b], class_weights: [1, 0]}", "'0.*' is not a number from"),
        ("{type: classification, labels: [a, b], class_weights: [1, yes]}", "'yes' is not a number from"),
        ("{type: classification, labels: [a, b], class_weights: even}", "'even' is not none, balanced or a list"),
        ("{type: regression, class_weights: balanced}", "a regression has no classes; remove them"),
    ],
)
def test_class_weights_that_make_no_sense_are_named(task: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"tasks.t.class_weights.*{words}"):
        load_config(None, ["model={server_model: mlp, mlp: {features: 4}}", f"tasks={{t: {task}}}"])


@pytest.mark.parametrize(
    ("metrics", "counts", "tells"),
    [
        (("accuracy",), (96, 4), True),
        (("accuracy",), (95, 5), False),
        (("f1", "accuracy"), (99, 1), False),
        (("accuracy",), (100, 0), True),
    ],
)
def test_accuracy_where_a_label_is_rare_is_told(metrics: Any, counts: Any, tells: bool) -> None:
    task = replace(COUGH, metrics=metrics, class_weights="none")
    said = task.rare_label(counts, 100)
    assert (said is not None) is tells
    if counts == (96, 4):
        assert said == (
            "'yes' is the label of 4.0% of the training rows, and a model that never says it can have an accuracy of "
            "96.0%; put another metric first, such as f1, or set class_weights: balanced"
        )


def test_a_task_of_many_even_classes_has_none_that_is_rare() -> None:
    many = replace(OTHER, labels=tuple(f"c{at}" for at in range(50)))
    assert many.rare_label([20] * 50, 1000) is None
    assert "'c7' is the label of 0.1%" in str(many.rare_label([20] * 7 + [1] + [20] * 41 + [39], 1000))


def test_a_client_and_the_coordinator_tell_what_is_rare(tmp_path: Path) -> None:
    data = rare_rows(tmp_path / "data")
    with np.load(data / "cough.npz") as found:
        np.savez(data / "cough.npz", x=found["x"], y=found["y"] * (np.arange(400) % 40 == 7))
    config = rare_config(data, "none")
    (note,) = load_data(config, local_definitions(config, ["cough"]))["cough"].notes
    assert note.startswith("task cough: 'yes' is the label of 2.")
    table = Table(rules(tasks=(COUGH,), schemas={}))
    joined(table, "a", COUGH, 98, 2)
    warned = [notice.text for notice in table.of(Notice) if notice.warning]
    assert any("'yes' is the label of 2.0% of the training rows" in text for text in warned)
