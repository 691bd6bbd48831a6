"""The local procedures: what a client does with an order to train. Each is a few lines around the one batch loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from client.training.loop import Progress, TaskSet, train
from client.training.pull import PLAIN_STEP, StepRule, pull_to, pull_to_here
from common.methods.procedures import Ditto, FedProx, FedRep, LocalProcedure, PerFedAvg, PlainProcedure
from common.models.multitask import MultiTaskModel
from common.orders import TrainingSettings
from common.seeds import derive_seed

Losses = Mapping[str, float]
"""Mean training loss per task; empty where nothing was trained."""


@dataclass(frozen=True)
class Work:
    """A model as it was received, and what to train it on.

    `travelling` names the parameters whose change leaves the client, `body` those that everybody shares: the encoder,
    or what of it is not private. `ties` are pulls that the order asks for, whatever the procedure: anchors by parameter
    name, on the model's device, and their strength.
    """

    model: MultiTaskModel
    sets: Sequence[TaskSet]
    settings: TrainingSettings
    seed: int
    progress: Progress
    travelling: frozenset[str]
    body: frozenset[str]
    ties: tuple[tuple[Mapping[str, Tensor], float], ...] = ()

    def train(self, rule: StepRule = PLAIN_STEP) -> Losses:
        """Train for `settings.local_epochs`."""
        step, rate = self.settings.proximal_step, self.settings.learning_rate
        ties = (pull for anchors, mu in self.ties for pull in pull_to(self.model, anchors, mu, step, rate))
        rule = replace(rule, pulls=(*rule.pulls, *ties))
        return train(self.model, self.sets, self.settings, self.seed, self.progress, rule)


Procedure = Callable[[Work], Losses]
"""What a client does with an order to train."""


def plain(work: Work, chosen: LocalProcedure) -> Losses:
    """FedAvg (McMahan et al. 2017): epochs over the own rows."""
    return work.train()


def proximal(work: Work, chosen: FedProx) -> Losses:
    """FedProx (Li et al., MLSys 2020): the loss plus (mu/2) ||w - w_received||^2 over what travels."""
    settings = work.settings
    return work.train(
        StepRule(pull_to_here(work.model, work.travelling, chosen.mu, settings.proximal_step, settings.learning_rate))
    )


def alternating(work: Work, chosen: FedRep) -> Losses:
    """FedRep (Collins et al., ICML 2021): first the heads with the body frozen, then the body with the heads frozen."""
    rest = frozenset(name for name, _ in work.model.named_parameters()) - work.body
    heads, body = chosen.head_epochs, work.settings.local_epochs
    total, trained, losses = heads + body, 0, dict[str, float]()
    phases = ((work.body, 0, heads, derive_seed(work.seed, "head")), (rest, heads, body, work.seed))
    for still, done, epochs, seed in phases:
        settings = replace(work.settings, local_epochs=epochs)
        part = replace(work, settings=settings, seed=seed, progress=share_of(work.progress, done, epochs, total))
        with frozen(work.model, still):
            if not any(parameter.requires_grad for parameter in work.model.parameters()):
                continue  # the body stands still in this round, or at this client
            trained += epochs
            for task, loss in part.train().items():
                losses[task] = losses.get(task, 0.0) + loss * epochs
    return {task: loss / trained for task, loss in losses.items()}


def looking_ahead(work: Work, chosen: PerFedAvg) -> Losses:
    """Per-FedAvg, first order (Fallah et al., NeurIPS 2020): gradients taken after one step on the batch before."""
    return work.train(StepRule(look_ahead=chosen.inner_learning_rate))


PROCEDURE_FUNCTIONS: Mapping[type[LocalProcedure], Callable[[Work, Any], Losses]] = {
    PlainProcedure: plain,
    FedProx: proximal,
    FedRep: alternating,
    Ditto: plain,  # the personal model is trained beside it, and leaves no trace in it
    PerFedAvg: looking_ahead,
}
"""What moves the values that a client hands in; each gets the row of the table that it stands for."""


def procedure_of(chosen: LocalProcedure) -> Procedure:
    """The procedure that an order names."""
    function = PROCEDURE_FUNCTIONS[type(chosen)]
    return lambda work: function(work, chosen)


def pulled_to_received(work: Work, received: Mapping[str, Tensor]) -> Losses:
    """Ditto's personal model (Li et al., ICML 2021): the loss plus (mu/2) ||v - w_received||^2, from where v stands."""
    settings, chosen = work.settings, work.settings.procedure
    assert isinstance(chosen, Ditto)
    anchors = {name: value for name, value in received.items() if name in work.travelling}
    return work.train(StepRule(pull_to(work.model, anchors, chosen.mu, settings.proximal_step, settings.learning_rate)))


def finetuned(work: Work) -> Losses:
    """A personal model by plain epochs from the last published one."""
    return replace(work, settings=replace(work.settings, local_epochs=work.settings.finetune_epochs)).train()


def share_of(progress: Progress, done: int, part: int, total: int) -> Progress:
    """The progress of a part of the work, `done` units of `total` being over."""
    return lambda fraction: progress((done + fraction * part) / total)


@contextmanager
def frozen(model: MultiTaskModel, names: frozenset[str]) -> Iterator[None]:
    """Inside, the named parameters get no gradient and no step moves them."""
    still = [value for name, value in model.named_parameters() if name in names and value.requires_grad]
    for parameter in still:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
