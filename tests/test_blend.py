"""The blend: averages by hand, the rule that chooses the weight, and that a client answers with what it scored."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch
from torch.nn import functional

from client.training.blend import LOSSES, WEIGHTS, chosen_blend, posterior_mean
from client.training.loop import TaskSet
from common.methods.own_models import MIXES
from common.models.blended import BLENDS
from common.models.multitask import MultiTaskModel
from common.parameters.flat import tensors_of
from common.tasks import TASK_KINDS, TaskDefinition
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
    batch = item.validation.batch(np.arange(len(item.validation)))
    for weight, loss in zip(WEIGHTS, found, strict=True):
        outputs = said(BLENDS[mix](received, isolated, item.task, weight).eval(), item)
        losses = [functional.cross_entropy(outputs / t, batch.labels).item() for t in item.task.type.temperatures]
        assert loss == pytest.approx(min(losses), rel=1e-6)


def test_a_model_that_is_only_surer_has_no_less_weight():
    """Both say the same, one four times as loudly; labels agree with 6 of 7 answers, so both are too loud.

    Untempered the quiet one would have all the weight.
    """
    received, _, item = pair()
    loud = deepcopy(received)
    with torch.no_grad():
        for model, factor in ((received, 960.0), (loud, 3840.0)):
            for parameter in model.heads[item.task.name].parameters():
                parameter.mul_(factor)
    answers = said(received, item).argmax(dim=1).numpy()
    labels = np.where(np.arange(len(answers)) == 3, 1 - answers, answers)
    item = replace(item, validation=replace(item.validation, labels=labels))
    quiet, louder = (LOSSES["probabilities"](received, loud, item, 3, (w,))[0] for w in (1.0, 0.0))
    assert louder == pytest.approx(quiet, rel=0.01)  # the louder one would need a temperature between two of them
    assert chosen_blend("probabilities", received, loud, item, 3).weight == pytest.approx(0.5, abs=0.05)
