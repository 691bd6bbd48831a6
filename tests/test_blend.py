"""The blend: averages by hand, the rule that chooses the weight, and that a client answers with what it scored."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import federated_main
from client.app import load_data
from client.data.examples import prepare
from client.jobs.saved import SavedSlice, load_slice
from client.training.blend import BLEND, LOSSES, WEIGHTS, chosen_blend, kept_blend, posterior_mean
from client.training.evaluation import evaluate
from client.training.loop import TaskSet
from client.training.own_model import OWN
from common.config import Config, load_config, vary
from common.errors import ConfigError
from common.export.table import FORMATS
from common.methods.own_models import MIXES, BlendedModel
from common.models.blended import BLENDS
from common.models.multitask import MultiTaskModel
from common.models.trained import TrainedTask
from common.parameters.flat import tensors_of
from common.targets import TargetUnits
from common.tasks import TASK_KINDS, TaskDefinition
from server.engine.coordinator import Coordinator
from server.reporting.report import guard_reports
from simulation.app import simulate
from simulation.comparison.methods import METHODS, extra_epochs
from simulation.comparison.outcome import outcome_of
from tests.federations import array_config, contradicting_config, digest_of, federate
from tests.test_client_prediction import federation, measured, predict
from tests.training_cases import make_model, make_sets

# ---- averages ----

DEFINITIONS = {
    "classification": TaskDefinition("t", TASK_KINDS["classification"], ("a", "b", "c"), False, ("accuracy",)),
    "tokens": TaskDefinition("t", TASK_KINDS["tokens"], ("a", "b", "c"), False, ("accuracy",)),
    "next_word": TaskDefinition("t", TASK_KINDS["next_word"], (), False, ("accuracy",)),
    "dense_classification": TaskDefinition("t", TASK_KINDS["dense_classification"], ("a", "b", "c"), False, ("iou",)),
    "multilabel": TaskDefinition("t", TASK_KINDS["multilabel"], ("a", "b", "c"), False, ("f1_micro",)),
    "regression": TaskDefinition("t", TASK_KINDS["regression"], (), False, ("rmse",)),
    "dense_regression": TaskDefinition("t", TASK_KINDS["dense_regression"], (), False, ("rmse",)),
}
SAYS = {
    "softmax": lambda outputs: np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True),
    "sigmoid": lambda outputs: 1 / (1 + np.exp(-outputs)),
    "number": lambda outputs: outputs,
}
KINDS = {
    **dict.fromkeys(("classification", "tokens", "next_word", "dense_classification"), "softmax"),
    "multilabel": "sigmoid",
    **dict.fromkeys(("regression", "dense_regression"), "number"),
}


def test_every_kind_of_tasks_is_here():
    assert {*KINDS} | {"masked_lm"} == {*TASK_KINDS}
    assert {*BLENDS} == {*LOSSES} == {*MIXES}


@pytest.mark.parametrize("kind", KINDS)
def test_what_outputs_say_is_averaged(kind):
    """Outputs whose softmax (sigmoid, or they themselves) is 0.3 of one model's and 0.7 of the other's."""
    rng = np.random.Generator(np.random.PCG64(1))
    shape = (4, 3, 2, 2) if kind.startswith("dense") else (4, 3)
    ours, theirs = rng.normal(size=(2, *shape), scale=3.0)
    says = SAYS[KINDS[kind]]
    found = DEFINITIONS[kind].type.averaged(torch.from_numpy(ours), torch.from_numpy(theirs), 0.3).numpy()
    np.testing.assert_allclose(says(found), 0.3 * says(ours) + 0.7 * says(theirs), rtol=1e-12)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_outputs_of_models_that_are_certain_stay_finite(kind):
    ours, theirs = torch.tensor([[2000.0, -2000.0, 0.0]]), torch.tensor([[-2000.0, 2000.0, 0.0]])
    found = DEFINITIONS[kind].type.averaged(ours, theirs, 0.25)
    assert bool(found.isfinite().all())
    assert found.argmax().item() == 1, "the other one has three quarters"


# ---- both models as one ----


def pair() -> tuple[MultiTaskModel, MultiTaskModel, TaskSet]:
    """Two models that differ, and rows of sst2."""
    received, isolated = make_model(), make_model()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for values in tensors_of(isolated).values():
            values += 0.2 * torch.randn(values.shape, generator=noise)
    return received.eval(), isolated.eval(), make_sets(0)[0]


def said(model: MultiTaskModel, item: TaskSet) -> torch.Tensor:
    with torch.inference_mode():
        return model(item.task.name, item.validation.batch(np.arange(len(item.validation))))


@pytest.mark.parametrize("mix", BLENDS)
def test_weight_one_is_the_received_model_and_zero_the_isolated_one_bit_for_bit(mix):
    received, isolated, item = pair()
    assert torch.equal(said(BLENDS[mix](received, isolated, item.task, 1.0), item), said(received, item))
    assert torch.equal(said(BLENDS[mix](received, isolated, item.task, 0.0), item), said(isolated, item))
    middle = said(BLENDS[mix](received, isolated, item.task, 0.5), item)
    assert not torch.equal(middle, said(received, item)) and not torch.equal(middle, said(isolated, item))


def test_weights_are_interpolated_parameter_by_parameter():
    received, isolated, item = pair()
    found = tensors_of(BLENDS["weights"](received, isolated, item.task, 0.25))
    for name, values in found.items():
        expected = 0.25 * tensors_of(received)[name] + 0.75 * tensors_of(isolated)[name]
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-7)


# ---- the weight ----


def test_the_weight_is_the_posterior_mean():
    """Two weights, the second twice as likely: (0 + 2 x 1) / 3. All alike, as without rows: 1/2."""
    assert posterior_mean((0.0, 1.0), (0.0, log(2.0))) == pytest.approx(2 / 3)
    assert posterior_mean(WEIGHTS, [-7.5] * 5) == 0.5
    assert posterior_mean(WEIGHTS, [-900.0, -901.0, -2000.0, -1e5, -1e300]) == pytest.approx(0.25 / (1 + exp(1.0)))


def test_a_few_rows_decide_little_and_many_decide_all():
    """The received model has loss 0.5, the isolated one 0.7, blends lie between."""
    losses, kind = [0.7 - 0.2 * weight for weight in WEIGHTS], TASK_KINDS["classification"]
    found = {n: posterior_mean(WEIGHTS, [kind.log_likelihood(loss, n) for loss in losses]) for n in (0, 2, 20, 2000)}
    assert found[0] == 0.5 and found[2] == pytest.approx(0.55, abs=0.01)
    assert 0.7 < found[20] < 0.9 and found[2000] == pytest.approx(1.0, abs=1e-6)


def test_errors_of_a_regression_count_by_their_ratio():
    """Normal errors of unknown variance, with a prior worth one row: (1 + sum of squares)^(-(rows + 1) / 2)."""
    kind = TASK_KINDS["regression"]
    for rows, loss in ((1, 0.0), (1, 2.0), (30, 0.5)):
        assert exp(kind.log_likelihood(loss, rows)) == pytest.approx((1 + rows * loss) ** (-(rows + 1) / 2))
    assert posterior_mean((0.0, 1.0), [kind.log_likelihood(loss, 1) for loss in (1e-9, 4.0)]) > 0.15


@pytest.mark.parametrize("mix", BLENDS)
def test_losses_are_those_of_the_model_with_that_weight(mix):
    received, isolated, item = pair()
    found = LOSSES[mix](received, isolated, item, 3, WEIGHTS)
    for weight, loss in zip(WEIGHTS, found, strict=True):
        scores = evaluate(BLENDS[mix](received, isolated, item.task, weight), item.task, item.validation, 3)
        assert loss == pytest.approx(scores.loss_sum / scores.examples, rel=1e-6)


# ---- federations ----

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
            assert scored.loss_sum == pytest.approx(-likelihood(task, shares, labels, units), rel=1e-5)


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


def likelihood(task: str, said: np.ndarray, labels: np.ndarray, units: TargetUnits) -> float:
    """The log-likelihood of the rows, written out."""
    if task == "a":
        return float(np.log(said[np.arange(len(labels)), labels.astype(int)]).sum())
    if task == "s":
        return float((labels * np.log(said) + (1 - labels) * np.log(1 - said)).mean(axis=1).sum())
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
    assert load_config(None, ["tasks.sst2=", "blend=true"]) == load_config(None, ["tasks.sst2=", "blend.enabled=true"])
    assert load_config(None, ["tasks.sst2=", "blend=true"]).order_settings().own_model == BlendedModel("probabilities")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["blend.mix=weights"], "blend.mix: is not read without the blend; write blend.enabled: true, or remove it"),
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
    assert BlendedModel("both").problems() == ["mix: 'both' is not one of probabilities, weights; write one of them"]


def test_a_comparison_scores_what_clients_answer_with(tmp_path, capsys):
    """And a simulated client does so afterwards, on its part of the rows."""
    config = vary(blending(), {"simulation.clients": 5, "run.run_dir": str(tmp_path)})
    method = METHODS["blend"].configure(config, {})
    assert extra_epochs(method) == 6
    report = asyncio.run(simulate(method, False, None))
    outcome = outcome_of(config.definitions(), [report])
    assert outcome.personal
    for client, tasks in report.personalisation.items():
        for task, scores in tasks.items():
            assert outcome.clients[client][task]["loss"] == scores.personal["loss"] != scores.received["loss"]
            words = ["--mode", "evaluate", "--run_dir", str(tmp_path), "--client_id", client, "--tasks", task]
            assert federated_main.main(words) == 0
            metric = config.tasks[task].definition(task).metrics[0]
            assert f"{task}: {metric} {scores.personal[metric]:.4f}" in capsys.readouterr().out
