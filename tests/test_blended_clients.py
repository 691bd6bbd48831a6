"""Clients that blend: they answer with what they scored, choose as the guard does, and leave sharing as it was."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import federated_main
from client.app import load_data
from client.data.examples import prepare
from client.jobs.saved import SavedSlice, load_slice
from client.training.blend import BLEND, WEIGHTS, chosen_blend, kept_blend
from client.training.evaluation import evaluate
from client.training.loop import TaskSet
from client.training.own_model import OWN
from common.config import Config, load_config, vary
from common.errors import ConfigError
from common.export.table import FORMATS
from common.methods.own_models import BlendedModel
from common.models.blended import BLENDS
from common.models.trained import TrainedTask
from common.parameters.flat import tensors_of
from common.parameters.plan import block_of
from common.targets import TargetUnits
from common.tasks.kind import TEMPERATURES
from server.engine.coordinator import Coordinator
from server.reporting.page import page_of
from server.reporting.report import guard_reports
from simulation.app import simulate
from simulation.comparison.methods import METHODS, extra_epochs
from simulation.comparison.outcome import outcome_of
from simulation.comparison.scoring import score_rows
from simulation.population import population, rows_of
from tests.crashes import prepare_run
from tests.federations import array_config, contradicting_config, digest_of, federate
from tests.federations import make_model as first_model
from tests.test_blend import SAYS, pair
from tests.test_client_prediction import federation, measured, predict

CLASSES = "{type: classification, labels: [no, yes], metrics: [accuracy], train_samples: 40, val_samples: 30}"
NUMBERS = "{type: regression, metrics: [rmse], train_samples: 40, val_samples: 30}"
SETS = "{type: multilabel, labels: [p, q, r], metrics: [label_accuracy], train_samples: 40, val_samples: 30}"
HELD = {"x": ["a", "n"], "y": ["a", "s"]}


def blending(*overrides: str) -> Config:
    return array_config(
        f"tasks={{a: {CLASSES}, n: {NUMBERS}, s: {SETS}}}",
        *("training.num_rounds=3", "training.local_epochs=2", "federation.min_clients=2", *overrides),
    )


@pytest.fixture(scope="module", params=["probabilities", "weights"])
def mixed(request, tmp_path_factory) -> tuple[Coordinator, Path, Config]:
    folder = tmp_path_factory.mktemp(request.param)
    config = blending(f"blend={{enabled: true, mix: {request.param}}}")
    return federation(folder, config, HELD), folder, config


def both(kept: SavedSlice, config: Config, task: str) -> tuple[TrainedTask, TrainedTask]:
    """A client's received and isolated model."""
    without = {name: values for name, values in kept.private.items() if not name.startswith(BLEND)}
    return kept.trained(config, task, "received"), replace(kept, private=without).trained(config, task, "personal")


@pytest.mark.parametrize(("client", "task"), [("x", "a"), ("x", "n"), ("y", "s")])
def test_a_client_answers_as_it_was_scored(mixed, client, task, tmp_path, capsys):
    """Numpy alone comes to the weight and to the predictions; with the weights of one model, torch's own functions."""
    coordinator, folder, config = mixed
    kept = load_slice(folder / "state" / client)
    trained = both(kept, config, task)
    blend, definition, units = kept_blend(kept.private, task), trained[0].task, trained[0].units
    assert blend is not None
    rows = load_data(config, [definition])[task].validation
    x, labels = np.asarray(rows.values), np.asarray(rows.labels)

    def outputs(weight: float) -> np.ndarray:
        ours, theirs = (one.model for one in trained)
        batch = lambda model: model(task, model.inputs.batch_of(model.head(task).form, (torch.from_numpy(x),)))  # noqa: E731
        with torch.no_grad():
            if blend.mix == "probabilities":
                first, second = (predictions(task, batch(model).double().numpy()) for model in (ours, theirs))
                return weight * first + (1 - weight) * second
            values = {n: weight * v + (1 - weight) * tensors_of(theirs)[n] for n, v in tensors_of(ours).items()}
            one = torch.func.functional_call(ours, values, (task, ours.inputs.batch_of("text", (torch.from_numpy(x),))))
            return predictions(task, one.double().numpy())

    likelihoods = [likelihood(task, outputs(weight), labels, units) for weight in WEIGHTS]
    shares = np.exp(np.array(likelihoods) - max(likelihoods))
    assert blend.weight == pytest.approx(float(shares @ WEIGHTS / shares.sum()), rel=1e-4)
    assert 0.0 < blend.weight < 1.0

    np.savez(tmp_path / "rows.npz", x=x)
    assert predict(folder / "state" / client, task, tmp_path / "rows.npz", tmp_path / "said.npz") == 0
    assert "by the personal model (the blend, " in capsys.readouterr().out
    expected, scored = outputs(blend.weight), measured(coordinator, client, task, "personal")
    with np.load(tmp_path / "said.npz") as said:
        if task == "n":
            numbers = said["predicted_score"]
            np.testing.assert_allclose(numbers, units.targets(expected)[:, 0], rtol=1e-4)
            assert scored.moments[5] == pytest.approx(float(((numbers - labels) ** 2).sum()), rel=1e-5)
        else:
            shares = np.stack([said[f"predicted_p_{name}"] for name in definition.labels], axis=1)
            np.testing.assert_allclose(shares, expected, atol=1e-5)
            assert scored.loss_sum == pytest.approx(-likelihood(task, shares, labels, units, (1.0,)), rel=1e-5)


@pytest.mark.parametrize("task", ["a", "n"])
def test_a_client_scores_its_blend_on_rows_of_its_own(mixed, task, tmp_path, capsys):
    """As it said itself of its validation rows; on rows that nothing was chosen on by the same model."""
    coordinator, folder, config = mixed
    words = ["--mode", "evaluate", "--state_dir", str(folder / "state" / "x"), "--tasks", task]
    assert federated_main.main(words) == 0
    origin, line = capsys.readouterr().out.splitlines()
    scored = measured(coordinator, "x", task, "personal")
    metric, value = next(iter(config.tasks[task].definition(task).summarise(scored).items()))
    assert f"{task}: the personal model (the blend, {metric}: " in origin and f"{task}: {metric} {value:.4f}" in line
    rows = load_data(config, [config.tasks[task].definition(task)])[task].train
    (tmp_path / task).mkdir()
    np.savez(tmp_path / task / "train.npz", x=np.asarray(rows.values), y=np.asarray(rows.labels))
    np.savez(tmp_path / task / "test.npz", x=np.asarray(rows.values), y=np.asarray(rows.labels))
    assert federated_main.main([*words, "--data_dir", str(tmp_path), "--split", "test"]) == 0
    trained = load_slice(folder / "state" / "x").trained(config, task)
    prepared = prepare(rows, trained.task, trained.model.architecture, None)
    found = trained.task.summarise(evaluate(trained.model, trained.task, prepared, 64, trained.units))
    assert f"{task}: {metric} {found[metric]:.4f}" in capsys.readouterr().out


def predictions(task: str, outputs: np.ndarray) -> np.ndarray:
    return SAYS[{"a": "softmax", "n": "number", "s": "sigmoid"}[task]](outputs)


def likelihood(
    task: str, said: np.ndarray, labels: np.ndarray, units: TargetUnits, temperatures: tuple[float, ...] = TEMPERATURES
) -> float:
    """The log-likelihood of the rows, written out: at the best temperature T, p^(1/T) / (p^(1/T) + (1 - p)^(1/T))."""
    if task != "n":
        two = (
            np.take_along_axis(said, labels.astype(int)[:, None], 1)
            if task == "a"
            else np.where(labels, said, 1 - said)
        )
        powers = ((two ** (1 / t), (1 - two) ** (1 / t)) for t in temperatures)
        return max(float(np.log(right / (right + wrong)).mean(axis=1).sum()) for right, wrong in powers)
    squares = ((said[:, 0] - (labels - units.mean) / units.scale) ** 2).sum()
    return -(len(labels) + 1) / 2 * log(1 + squares)


def test_the_shared_model_and_the_isolated_ones_are_those_without_a_blend(mixed, tmp_path):
    coordinator, folder, _ = mixed
    clients = [(name, tasks, "1/1") for name, tasks in HELD.items()]
    assert digest_of(asyncio.run(federate(blending(), tmp_path / "usual", clients))) == digest_of(coordinator)
    asyncio.run(federate(blending("sharing.plan=local"), tmp_path / "alone", clients))
    for client in HELD:
        kept = load_slice(folder / "state" / client).private
        own = [values.numpy() for scope, values in kept.items() if scope.startswith(OWN)]
        lone = load_file(next((tmp_path / "alone" / client).rglob("private.safetensors")))
        np.testing.assert_array_equal(np.sort(np.concatenate(own)), np.sort(np.concatenate([*lone.values()])))


def test_of_an_own_model_the_head_and_top_layers_alone_may_be_trained(tmp_path):
    """Layers 1 and 2 of 3 stay as they were received first, and sharing goes on as before."""
    deep = ("model.mlp.hidden=[8, 8, 8]", f"tasks={{a: {CLASSES}}}", "training.num_rounds=2")
    deep = (*deep, "federation.min_clients=2")
    clients = [("x", ["a"], "1/2"), ("y", ["a"], "2/2")]
    first, usual = first_model(array_config(*deep)), asyncio.run(federate(array_config(*deep), tmp_path / "u", clients))
    config = array_config(*deep, "blend={enabled: true, trains: top_1}")
    assert digest_of(asyncio.run(federate(config, tmp_path / "b", clients))) == digest_of(usual)
    own = load_file(next((tmp_path / "b" / "x").rglob("private.safetensors")))
    moved = {
        entry.name: not np.array_equal(found, first.vectors[scope].numpy()[entry.offset : entry.offset + entry.count])
        for scope, schema in first.schemas.items()
        for entry in schema.entries
        for found in [own[OWN + scope][entry.offset : entry.offset + entry.count]]
    }
    assert {name for name, changed in moved.items() if changed} == {
        name for name in moved if block_of(name) in ("heads", "layer_2")
    }
    assert len(moved) == 8
    with pytest.raises(ConfigError, match=r"blend\.trains: top_4, but the encoder has 3 layers of its own"):
        prepare_run(array_config(*deep, "blend={enabled: true, trains: top_4}"), tmp_path / "run")


def test_a_blend_is_exported_with_both_models_or_as_one(mixed, tmp_path, capsys):
    _, folder, config = mixed
    x = torch.from_numpy(np.asarray(load_data(config, config.definitions()[1:2])["n"].validation.values))
    np.savez(tmp_path / "rows.npz", x=x)
    assert predict(folder / "state" / "x", "n", tmp_path / "rows.npz", tmp_path / "said.npz") == 0
    words = ["--mode", "export", "--state_dir", str(folder / "state" / "x"), "--task", "n"]
    assert federated_main.main([*words, "--out", str(tmp_path / "out")]) == 0
    with np.load(tmp_path / "said.npz") as said:
        found = torch.export.load(tmp_path / "out" / "model.pt2").module()(x)[:, 0].detach()
        np.testing.assert_allclose(found, said["predicted_score"], rtol=1e-5, atol=1e-5)
    assert "| model | the personal model \\(the blend" in (tmp_path / "out" / "README.md").read_text()


def test_transformers_has_no_class_for_two_models():
    received, isolated, item = pair()
    model = BLENDS["probabilities"](received, isolated, item.task, 0.5)
    problem = FORMATS["hugging_face"].refusal(TrainedTask(model, item.task, "a blend"))
    assert problem == (
        "transformers has no class for a blend of two models (--model received is one; blend.mix: weights, too)"
    )


def test_between_two_models_alone_it_chooses_as_the_guard_does_in_the_end(tmp_path):
    """Weights 0 and 1, a task that sharing hurts (b1), and one with few training rows that it helps (c2)."""
    rng = np.random.Generator(np.random.PCG64(5))
    (tmp_path / "c2").mkdir()
    for part, count in (("train", 8), ("validation", 100)):
        x = rng.normal(size=(count, 2)).astype(np.float32)
        np.savez(tmp_path / "c2" / f"{part}.npz", x=x, y=(x[:, 0] > 0).astype(int))
    settings = ("training.num_rounds=4", "training.batch_size=32", "training.learning_rate=0.04")
    settings = (*settings, "federation.min_clients=3", f"tasks.c2={CLASSES}")
    config = contradicting_config(tmp_path, *settings, "blend=true")
    tasks = {"big": ["a0"], "small": ["b1"], "helped": ["c2"]}
    federation(tmp_path, config, tasks)
    guarded = vary(config, {"blend.enabled": False, "guard": {"enabled": True, "margin": 0.0, "rounds": 5}})
    clients = [(name, held, "1/1") for name, held in tasks.items()]
    coordinator = asyncio.run(federate(guarded, tmp_path / "guarded", clients))
    verdicts = guard_reports(coordinator.settings.tasks, coordinator.journal.guarded())
    assert (verdicts["b1"].model, verdicts["c2"].model) == ("isolated", "received")
    for client, (task,) in tasks.items():
        received, isolated = both(load_slice(tmp_path / "state" / client), config, task)
        data = load_data(config, [received.task])[task]
        rows = prepare(data.validation, received.task, received.model.architecture, None)
        item = TaskSet(received.task, rows, rows)
        blend = chosen_blend("probabilities", received.model, isolated.model, item, 64, weights=(0.0, 1.0))
        assert ("received" if blend.weight > 0.5 else "isolated") == verdicts[task].model


# ---- the configuration, comparisons ----


def test_true_is_short_for_enabled():
    short = load_config(None, ["tasks.sst2=", "blend=true"])
    assert short == load_config(None, ["tasks.sst2=", "blend.enabled=true"])
    assert short.order_settings().own_model == BlendedModel("probabilities", "all")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["blend.mix=weights"], "blend.mix: is not read without the blend; write blend.enabled: true, or remove it"),
        (["blend.trains=head"], "blend.trains: is not read without the blend"),
        (["blend={enabled: true, mix: both}"], "blend.mix: 'both' is not a choice"),
        (["blend=true", "guard=true"], "guard: guard and blend each give clients a model of their own"),
        (["blend=true", "training.procedure=ditto"], "training.procedure: training.procedure and blend each give"),
        (["blend=true", "sharing.plan=local"], "blend: plan local shares nothing to blend with"),
    ],
)
def test_contradictions_are_one_line(overrides, line):
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", *overrides])
    assert any(problem.startswith(line) for problem in caught.value.problems), caught.value.problems


def test_an_order_with_an_unknown_way_is_refused():
    assert BlendedModel("both", "top").problems() == [
        "mix: 'both' is not one of probabilities, weights; write one of them",
        "trains: 'top' is not all, head or top_<n>; write e.g. top_2",
    ]


def test_a_comparison_scores_what_clients_answer_with(tmp_path, capsys):
    """And a simulated client does so afterwards, on its part of the rows."""
    config = vary(blending(), {"simulation.clients": 5, "run.run_dir": str(tmp_path)})
    method = METHODS["blend"].configure(config, {})
    assert extra_epochs(method) == 6
    report = asyncio.run(simulate(method, False, None))
    outcome = outcome_of(config.definitions(), [report])
    assert outcome.personal
    by_row = score_rows(method, report, lambda: rows_of(method, population(method)), ())
    for task in config.definitions():
        assert by_row[task.name].scores(task) == pytest.approx(outcome.scores[task.name], rel=1e-5)
    shown, newest = page_of(report, None, []), report.tasks["n"].history[-1]
    scores = newest.scores["rmse"], newest.personal.scores["rmse"]
    cells = "".join(f"<td>{score:.4f}</td>" for score in scores)
    assert "Blends of both models, on validation rows</caption>" in shown and cells in shown
    for client, tasks in report.personalisation.items():
        for task, scores in tasks.items():
            assert outcome.clients[client][task]["loss"] == scores.personal["loss"] != scores.received["loss"]
            words = ["--mode", "evaluate", "--run_dir", str(tmp_path), "--client_id", client, "--tasks", task]
            assert federated_main.main(words) == 0
            metric = config.tasks[task].definition(task).metrics[0]
            assert f"{task}: {metric} {scores.personal[metric]:.4f}" in capsys.readouterr().out
