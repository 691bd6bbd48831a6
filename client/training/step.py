"""What a step may add: a proximal term (mu/2) ||theta - anchor||^2, a correction of the gradient, a look ahead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from client.training.balance import PLAIN_BALANCE, Balance
from client.training.optimizer import rates_of
from common.bodies import TrainingSettings
from common.methods.procedures import ProximalStep


class StepTerm(Protocol):
    """What a step does besides following the gradient of the loss."""

    def before_step(self) -> None:
        """Called when the gradients are there."""
        ...

    def after_step(self) -> None:
        """Called when the parameters have moved."""
        ...


class ProximalStepTerm:
    """Pulls parameters to anchors while they are trained (Li et al. 2020, FedProx; Li et al. 2021, Ditto).

    Args:
        pairs: parameters and what they are pulled to, of the same shapes, dtypes and devices.
        mu: strength, more than 0.
        step: whether the term joins the gradient or follows each step.
        rate: learning rate of the steps, for the proximal kind.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], mu: float, step: ProximalStep, rate: float) -> None:
        self._parameters = [parameter for parameter, _ in pairs]
        self._anchors = [anchor for _, anchor in pairs]
        self._mu = mu
        self._step = step
        self._share = rate * mu / (1.0 + rate * mu)

    @torch.no_grad()
    def before_step(self) -> None:
        """Add mu (theta - anchor) to the gradients; one that is missing counts as zero."""
        if self._step is not ProximalStep.GRADIENT or not self._parameters:
            return
        towards = torch._foreach_sub(self._parameters, self._anchors)
        torch._foreach_add_(_gradients(self._parameters), towards, alpha=self._mu)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move theta to (theta + eta mu anchor) / (1 + eta mu)."""
        if self._step is ProximalStep.PROXIMAL and self._parameters:
            torch._foreach_lerp_(self._parameters, self._anchors, self._share)


class Correction:
    """Adds constants to the gradients and counts the steps (Karimireddy et al. 2020, SCAFFOLD: c - c_i).

    Args:
        model: whose parameters are trained; frozen ones are left alone.
        offsets: what is added, by parameter name.
    """

    def __init__(self, model: nn.Module, offsets: Mapping[str, Tensor]) -> None:
        found = [(n, value) for n, value in model.named_parameters() if value.requires_grad and n in offsets]
        self._parameters = [value for _, value in found]
        self._offsets = [offsets[name] for name, _ in found]
        self.steps = 0

    @torch.no_grad()
    def before_step(self) -> None:
        """Add the constants; a gradient that is missing counts as zero."""
        if self._parameters:
            torch._foreach_add_(_gradients(self._parameters), self._offsets)

    def after_step(self) -> None:
        """Count the step."""
        self.steps += 1


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters' gradients; one that is missing is zero from here on."""
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    return gradients


@dataclass(frozen=True)
class StepOptions:
    """What a step of training adds to the plain one; `look_ahead` is the rate of the step before it, 0 for none.

    `balance` says how tasks that meet in a step agree on it; what is looked ahead is the plain gradient.
    """

    terms: tuple[StepTerm, ...] = ()
    look_ahead: float = 0.0
    balance: Balance = PLAIN_BALANCE


PLAIN_STEP = StepOptions()


def proximal_to_here(
    model: nn.Module, names: frozenset[str], mu: float, settings: TrainingSettings
) -> tuple[ProximalStepTerm, ...]:
    """A proximal term of the named parameters and the values that they have now; empty where it would be none."""
    anchors = {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if name in names and value.requires_grad and mu
    }
    return proximal_to(model, anchors, mu, settings)


def proximal_to(
    model: nn.Module, anchors: Mapping[str, Tensor], mu: float, settings: TrainingSettings
) -> tuple[ProximalStepTerm, ...]:
    """A proximal term of parameters and anchors by name for each learning rate, frozen ones left out."""
    pairs: dict[float, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    rates = rates_of(model, settings)
    for name, value in model.named_parameters():
        if value.requires_grad and name in anchors and mu:
            pairs[rates[name]].append((value, anchors[name]))
    return tuple(ProximalStepTerm(found, mu, settings.proximal_step, rate) for rate, found in pairs.items())


@contextmanager
def looked_ahead(parameters: Sequence[nn.Parameter], rate: float) -> Iterator[None]:
    """Inside, the parameters stand one gradient step further; afterwards exactly where they stood before.

    The gradient that is computed inside is that of the loss after the step, first order (Fallah et al. 2020,
    Per-FedAvg FO: w~ = w - a grad F(w)).
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        torch._foreach_add_(list(moved), [p.grad for p in moved if p.grad is not None], alpha=-rate)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(moved, before, strict=True):
                parameter.copy_(values)
