"""Heads that start from nothing have a learning rate of their own: who has it, and that steps and pulls go by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client.training.loop import train
from client.training.optimizer import new_optimizer, rates_of
from client.training.step import proximal_to
from common.config import Config, load_config
from common.errors import ConfigError
from common.methods.procedures import ProximalStep
from common.methods.schedules import LinearSchedule
from common.models.heads import Head, LinearHead, NextHead, SiameseHead
from server.core.schedule import TrainingSchedule
from tests.core_cases import rules
from tests.training_cases import SETTINGS, make_model, make_sets, no_progress, values_of

APART = replace(SETTINGS, learning_rate=1e-4, head_learning_rate=5e-2, weight_decay=0.0)


def configured(*changes: str) -> Config:
    """The shipped configuration with changes, as the command line has them."""
    return load_config(None, ("tasks={sst2: {}}", *changes))


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ((), 3e-3),
        (("training.learning_rate=0.01",), 0.01),
        (("training.optimizer=sgd",), 2e-4),
        (("training.head_learning_rate=2e-4",), 2e-4),
        (("training.optimizer=sgd", "training.head_learning_rate=0.5"), 0.5),
    ],
)
def test_only_steps_as_long_as_a_small_rate_get_longer(changes: tuple[str, ...], rate: float) -> None:
    assert configured(*changes).training.settings().head_learning_rate == rate


@pytest.mark.parametrize(
    ("head", "blank"),
    [
        (LinearHead(2, 4, 0.0), True),
        (SiameseHead(2, 4, 0.0), True),
        (SiameseHead(1, 4, 0.0, cosine_start=2.5), False),
        (NextHead(4), False),
    ],
)
def test_what_says_something_before_training_keeps_the_rate_of_the_encoder(head: Head, blank: bool) -> None:
    model = make_model()
    model.heads["sst2"] = head
    rates = rates_of(model, APART)
    assert head.is_blank == blank
    assert {rates[f"heads.sst2.{name}"] for name, _ in head.named_parameters()} == {5e-2 if blank else 1e-4}
    assert {rate for name, rate in rates.items() if name.startswith("encoder.")} == {1e-4}


def test_the_first_step_of_adamw_is_as_long_as_the_rate() -> None:
    """m = (1-b1) g and v = (1-b2) g^2, both corrected, so that the step is rate x g / (|g| + 1e-8)."""
    model = make_model()
    before = values_of(model)
    optimizer = new_optimizer(model, APART)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -0.25)
    optimizer.step()
    for name, value in model.named_parameters():
        step = 5e-2 if name.startswith("heads.") else 1e-4
        torch.testing.assert_close(value.detach() - before[name], torch.full_like(value, step), rtol=1e-3, atol=1e-7)


def test_rates_alike_are_one_group_as_in_a_plain_optimizer() -> None:
    settings = replace(SETTINGS, weight_decay=0.0)
    assert len(new_optimizer(make_model(), settings).param_groups) == 1
    assert len(new_optimizer(make_model(), APART).param_groups) == 2


def test_training_moves_heads_by_their_rate() -> None:
    """With a rate of 0 for one of the two, only the other moves."""
    sets = make_sets(0)
    for rates in ((0.0, 1e-2), (1e-2, 0.0)):
        model = make_model()
        before = values_of(model)
        settings = replace(APART, learning_rate=rates[0], head_learning_rate=rates[1])
        train(model, sets, settings, 3, no_progress)
        moved = {name.split(".")[0] for name, value in values_of(model).items() if not torch.equal(value, before[name])}
        assert moved == ({"heads"} if rates[1] else {"encoder"})


def test_a_proximal_step_goes_by_the_rate_of_each_parameter() -> None:
    """From 1 to an anchor of 0 it leaves 1 / (1 + rate x mu)."""
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    anchors = {name: torch.zeros_like(value) for name, value in values_of(model).items()}
    settings = replace(APART, proximal_step=ProximalStep.PROXIMAL)
    for term in proximal_to(model, anchors, 20.0, settings):
        term.after_step()
    for name, value in values_of(model).items():
        left = 1 / (1 + 20 * (5e-2 if name.startswith("heads.") else 1e-4))
        torch.testing.assert_close(value, torch.full_like(value, left))


def test_both_rates_follow_the_schedule() -> None:
    settings = rules(num_rounds=4, training=APART, schedule=TrainingSchedule(LinearSchedule(0.1)))
    shares = [settings.training_in(number).head_learning_rate / 5e-2 for number in range(1, 5)]
    assert shares == pytest.approx([settings.training_in(number).learning_rate / 1e-4 for number in range(1, 5)])
    assert shares[-1] == pytest.approx(0.1)


def test_scaffold_tells_gradients_by_steps_of_one_rate() -> None:
    with pytest.raises(ConfigError, match=r"training\.head_learning_rate: steps of one rate tell the gradients"):
        configured(
            "training.procedure=scaffold",
            "training.optimizer=sgd",
            "training.max_grad_norm=0",
            "training.learning_rate=0.1",
            "training.head_learning_rate=0.2",
            "aggregation.weights=uniform",
        )
