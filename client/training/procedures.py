"""The local procedures: what a client does with an order to train. Each is a few lines around the one batch loop.

A procedure is `(work, state) -> Trained`. Its state is what it keeps from order to order at this client, committed with
the update that it belongs to, and rolled back with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from client.training.step import Correction, StepOptions, proximal_to_here
from client.training.work import ClientState, Procedure, Trained, Work, frozen, share_of
from common.methods.procedures import FedProx, FedRep, LocalProcedure, PerFedAvg, PlainProcedure, Scaffold
from common.models.multitask import MultiTaskModel
from common.parameters.flat import views
from common.parameters.scope import Scope
from common.seeds import derive_seed


def plain(work: Work, state: ClientState, chosen: LocalProcedure) -> Trained:
    """FedAvg (McMahan et al. 2017): epochs over the own examples."""
    return Trained(work.train())


def proximal(work: Work, state: ClientState, chosen: FedProx) -> Trained:
    """FedProx (Li et al., MLSys 2020): the loss plus (mu/2) ||w - w_received||^2 over what travels."""
    return Trained(
        work.train(lambda model: StepOptions(proximal_to_here(model, work.travelling, chosen.mu, work.settings)))
    )


def alternating(work: Work, state: ClientState, chosen: FedRep) -> Trained:
    """FedRep (Collins et al., ICML 2021): first the heads with the body frozen, then the body with the heads frozen."""
    rest = frozenset(name for name, _ in work.model.named_parameters()) - work.body
    heads, body = chosen.head_epochs, work.settings.local_epochs
    total, trained, losses = heads + body, 0, dict[str, float]()
    phases = ((work.body, 0, heads, derive_seed(work.seed, "head")), (rest, heads, body, work.seed))
    for names, done, epochs, seed in phases:
        settings = replace(work.settings, local_epochs=epochs)
        phase = replace(work, settings=settings, seed=seed, progress=share_of(work.progress, done, epochs, total))
        with frozen(work.model, names):
            if not any(parameter.requires_grad for parameter in work.model.parameters()):
                continue  # the body is frozen in this round, or at this client
            trained += epochs
            for task, loss in phase.train().items():
                losses[task] = losses.get(task, 0.0) + loss * epochs
    return Trained({task: loss / trained for task, loss in losses.items()})


def looking_ahead(work: Work, state: ClientState, chosen: PerFedAvg) -> Trained:
    """Per-FedAvg, first order (Fallah et al., NeurIPS 2020): gradients taken after one step on the batch before."""
    return Trained(work.train(lambda model: StepOptions(look_ahead=chosen.inner_learning_rate)))


def scaffold(work: Work, state: ClientState, chosen: Scaffold) -> Trained:
    """SCAFFOLD, option II (Karimireddy et al., ICML 2020): y <- y - eta (g(y) - c_i + c), K times from x.

    Then c_i <- c_i - c + (x - y) / (K eta), the mean of the gradients g; its change is handed in beside that of the
    model. Of a scope that is not handed in, because its tasks are isolated, c_i becomes 0.
    """
    own, corrections, offsets = work.own, list[Correction](), dict[str, Tensor]()
    kept = {scope: _kept_variate(state, scope, len(mean)) for scope, mean in work.controls.items()}
    for scope in work.trained & work.controls.keys():
        offset = (work.controls[scope] - kept[scope]).to(own.vectors[scope].device)
        offsets |= views(offset, own.schemas[scope])

    def options(model: MultiTaskModel) -> StepOptions:
        corrections.append(Correction(model, offsets))
        return StepOptions((corrections[-1],))

    losses = work.train(options, whole=True)
    way = sum(correction.steps for correction in corrections) * work.settings.learning_rate
    changes = {}
    for scope, mean in work.controls.items():
        change = -kept[scope]
        if scope in work.trained:
            moved = own.received[scope] - own.vectors[scope].detach().cpu()
            change = moved / way - mean if way else torch.zeros_like(mean)
            by_name = views(change, own.schemas[scope])
            for name, parameter in work.model.named_parameters():
                if name in by_name and not parameter.requires_grad:
                    by_name[name].zero_()
        changes[Scope.parse(scope).control] = change
    return Trained(
        losses,
        {Scope.parse(scope).control: kept[scope] + changes[Scope.parse(scope).control] for scope in work.controls},
        deltas=changes,
    )


def _kept_variate(state: ClientState, scope: str, size: int) -> Tensor:
    """A client's control variate, float32 (size,): zeros at first, and where a scope has grown since."""
    variate, kept = torch.zeros(size), state.get(Scope.parse(scope).control)
    if kept is not None:
        variate[: len(kept)] = kept
    return variate


PROCEDURE_FUNCTIONS: Mapping[type[LocalProcedure], Callable[[Work, ClientState, Any], Trained]] = {
    PlainProcedure: plain,
    FedProx: proximal,
    FedRep: alternating,
    PerFedAvg: looking_ahead,
    Scaffold: scaffold,
}
"""By the row that an order carries, which each gets as its last argument."""


def procedure_of(chosen: LocalProcedure) -> Procedure:
    """The procedure that an order names."""
    function = PROCEDURE_FUNCTIONS[type(chosen)]
    return lambda work, state: function(work, state, chosen)
