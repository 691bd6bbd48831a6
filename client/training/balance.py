"""How the tasks that meet in one step agree on its gradient: the rows of `common.methods.balances`.

A row acts where at least two tasks have a batch; a step of one task is plain training, bit for bit. What a row has
learned of the tasks starts afresh with the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.methods.balance import FamoBalance, GradNormBalance, PlainBalance, UncertaintyBalance
from common.methods.balances import LocalBalance
from common.methods.conflict import ConflictResolver, ConflictRule
from common.models.multitask import MultiTaskModel
from common.tasks import TaskDefinition

Tasks = Sequence[TaskDefinition]
LEAST_LOSS, LARGEST_LOSS = 1e-8, 1e8
"""Losses beyond count as this much where they are divided or their logarithm is taken: float32 holds the quotients."""


class Balance:
    """Plain training: the gradient of the sum of task weight times mean batch loss."""

    def backward(self, tasks: Tasks, losses: Sequence[Tensor]) -> None:
        """Add the step's gradient to every parameter's; losses are those of the tasks' batches, float32 ()."""
        if len(tasks) > 1:
            self._combine(tasks, losses)
        else:
            _descend(tasks, losses)

    def after_step(self, tasks: Tasks, losses: Sequence[Tensor], again: Callable[[], Sequence[Tensor]]) -> None:
        """Hear that the step is taken; `again` gives the losses of the same batches after it."""

    def _combine(self, tasks: Tasks, losses: Sequence[Tensor]) -> None:
        _descend(tasks, losses)


PLAIN_BALANCE = Balance()


class Uncertainty(Balance):
    """sum_t L_t exp(-s_t) / 2 + s_t / 2 with s_t learned along, -0.5 at first (Kendall, Gal and Cipolla, CVPR 2018).

    This is their regression form for every loss, as Liebel and Koerner (2018) and LibMTL have it; s_t rests where it is
    log L_t. Task weights multiply both terms.
    """

    def __init__(self, rate: float, names: Sequence[str], device: torch.device) -> None:
        self.variances = _Learned(names, -0.5, rate, 0.0, device)

    def _combine(self, tasks: Tasks, losses: Sequence[Tensor]) -> None:
        factors = torch.exp(-self.variances.of(tasks)) / 2.0
        _descend(tasks, losses, factors)
        self.variances.step(tasks, 0.5 - torch.stack([loss.detach() for loss in losses]) * factors)


class Conflict(Balance):
    """The tasks' gradients of the encoder are combined by a conflict rule; each head follows its own task's gradient.

    The rule sees the gradients of task weight times loss, all trained encoder parameters as one vector, through their
    inner products. Reading these waits for a GPU once per step.

    Args:
        rule: is asked in every step.
        encoder: the module that tasks share.
    """

    def __init__(self, rule: ConflictRule, encoder: nn.Module) -> None:
        self._resolver = ConflictResolver(rule, only_conflicts=False)
        self._gradients = TaskGradients(encoder)

    def _combine(self, tasks: Tasks, losses: Sequence[Tensor]) -> None:
        rows = self._gradients.take([task.weight * loss for task, loss in zip(tasks, losses, strict=True)])
        gram = (rows @ rows.T).double().cpu().numpy()
        weights = np.ones(len(tasks))
        if np.isfinite(gram).all():  # else the sum goes on, and the losses will show that training diverges
            weights = self._resolver.weights(gram, weights / len(tasks))
            if self._resolver.rule.rescale:  # to the length of the sum, which plain training follows, not of the mean
                weights *= len(tasks)
        self._gradients.give(torch.from_numpy(weights).to(rows) @ rows)


class Auxiliary(Balance):
    """Auxiliary tasks move the encoder as far as they point the way of the main tasks.

    The main tasks meet as `main` has it. To their gradient g of the encoder each auxiliary task's, a, is added times
    max(0, cos(a, g)), the gate of Du et al. 2018 ("Adapting auxiliary losses using gradient similarity"). In a step
    without a main task, g is that of the last step that had one. Heads of auxiliary tasks follow their own gradients.

    Args:
        main: how the main tasks meet.
        encoder: the module that tasks share.
    """

    def __init__(self, main: Balance, encoder: nn.Module) -> None:
        self._main = main
        self._gradients = TaskGradients(encoder)
        self._last: Tensor | None = None

    def backward(self, tasks: Tasks, losses: Sequence[Tensor]) -> None:
        """Add the step's gradient to every parameter's."""
        mains, helpers = ([i for i, t in enumerate(tasks) if t.auxiliary is role] for role in (False, True))
        rows = self._gradients.take([tasks[i].weight * losses[i] for i in helpers]) if helpers else None
        if mains:
            self._main.backward([tasks[i] for i in mains], [losses[i] for i in mains])
            self._last = self._gradients.read()
        if rows is None:
            return
        goal = rows.new_zeros(rows.shape[1]) if self._last is None else self._last
        scale = torch.linalg.vector_norm(rows, dim=1) * torch.linalg.vector_norm(goal)
        gates = (rows @ goal / scale.clamp_min(torch.finfo(rows.dtype).tiny)).clamp(0.0, 1.0)
        self._gradients.give(goal + gates @ rows if mains else gates @ rows)

    def after_step(self, tasks: Tasks, losses: Sequence[Tensor], again: Callable[[], Sequence[Tensor]]) -> None:
        """Tell how the main tasks meet of their part."""
        mains = [i for i, task in enumerate(tasks) if not task.auxiliary]

        def theirs() -> Sequence[Tensor]:
            found = again()
            return [found[i] for i in mains]

        self._main.after_step([tasks[i] for i in mains], [losses[i] for i in mains], theirs)


class GradNorm(Balance):
    """Task weights under which gradients keep one pace (Chen et al., ICML 2018, algorithm 1).

    With n_t the length of the gradient of the loss in all trained encoder parameters, r_t the loss divided by the
    order's first one, relative to the mean over the step's tasks, and c_t the learned weight: the sum of
    |c_t n_t - mean(c n) r_t^alpha| is lowered in c, its second term being a constant. c = T softmax(x), as LibMTL has
    it, so that they sum to the number of tasks in the step; x starts at zero. A weight acts on encoder and head, and
    task weights multiply it.
    """

    def __init__(
        self, rate: float, alpha: float, encoder: nn.Module, names: Sequence[str], device: torch.device
    ) -> None:
        self.logits = _Learned(names, 0.0, rate, 0.0, device)
        self._alpha = alpha
        self._gradients = TaskGradients(encoder)
        self._first: dict[str, Tensor] = {}

    def _combine(self, tasks: Tasks, losses: Sequence[Tensor]) -> None:
        shares = torch.softmax(self.logits.of(tasks), 0)
        factors = len(tasks) * shares
        rows = self._gradients.take([t.weight * c * x for t, c, x in zip(tasks, factors, losses, strict=True)])
        self._gradients.give(rows.sum(0))
        lengths = torch.linalg.vector_norm(rows, dim=1) / torch.tensor([t.weight for t in tasks], device=rows.device)
        values = _positive(losses)
        first = torch.stack([self._first.setdefault(t.name, x) for t, x in zip(tasks, values, strict=True)])
        paces = values / first
        goals = lengths.mean() * (paces / paces.mean()) ** self._alpha
        # The slope in c_t is sign(..) n_t; c_t is T softmax(x)_t and T n_t softmax(x)_t the length at hand.
        self.logits.step(tasks, _through_softmax(shares, torch.sign(lengths - goals) * lengths / shares))


class Famo(Balance):
    """FAMO (Liu et al., NeurIPS 2023, algorithm 1): all losses fall at one relative rate, from losses alone.

    The gradient is that of sum_t z_t log(L_t) / c with z = softmax(x) and c = sum_t z_t / L_t / T, so that the weights
    of the losses sum to the number T of tasks in the step; task weights multiply them. Afterwards x descends along
    softmax's Jacobian times log(L_t before) - log(L_t after), on the same batches and with dropout drawn anew: another
    forward pass.
    """

    def __init__(self, rate: float, decay: float, names: Sequence[str], device: torch.device) -> None:
        self.logits = _Learned(names, 0.0, rate, decay, device)

    def _combine(self, tasks: Tasks, losses: Sequence[Tensor]) -> None:
        factors = torch.softmax(self.logits.of(tasks), 0) / _positive(losses)
        _descend(tasks, losses, factors / factors.mean())

    def after_step(self, tasks: Tasks, losses: Sequence[Tensor], again: Callable[[], Sequence[Tensor]]) -> None:
        """Give more to tasks whose loss fell less, relative to its size."""
        if len(tasks) > 1:
            with torch.no_grad():
                falls = _positive(losses).log() - _positive(again()).log()
            self.logits.step(tasks, _through_softmax(torch.softmax(self.logits.of(tasks), 0), falls))


class TaskGradients:
    """The gradients of several losses side by side, of a module's trained parameters as one vector each."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self._touched: list[bool] = []
        self._rows = torch.empty(0)
        self._device = next(module.parameters()).device

    def take(self, losses: Sequence[Tensor]) -> Tensor:
        """(losses, elements) float32, good until the next call; other parameters get the gradient of the sum."""
        if len(self._rows) != len(losses):
            self._rows = torch.empty(len(losses), sum(self._sizes), device=losses[0].device)
        rows = self._rows.zero_()
        self._touched = [False] * len(self._sizes)
        for row, loss in zip(rows, losses, strict=True):
            loss.backward()  # type: ignore[no-untyped-call]
            for i, (parameter, part) in enumerate(zip(self._parameters, self._split(row), strict=True)):
                if parameter.grad is not None:
                    part.copy_(parameter.grad.view(-1))
                    self._touched[i], parameter.grad = True, None
        return rows

    def read(self) -> Tensor:
        """(elements,) float32: the gradients that the parameters have now, zeros where they have none."""
        found = torch.zeros(sum(self._sizes), device=self._device)
        touched = self._touched or [False] * len(self._sizes)
        for i, (parameter, part) in enumerate(zip(self._parameters, self._split(found), strict=True)):
            if parameter.grad is not None:
                part.copy_(parameter.grad.view(-1))
                touched[i] = True
        self._touched = touched
        return found

    def give(self, gradient: Tensor) -> None:
        """Make a vector the gradient of the parameters that had one."""
        for parameter, part, touched in zip(self._parameters, self._split(gradient), self._touched, strict=True):
            if touched:
                parameter.grad = part.view_as(parameter)

    def _split(self, vector: Tensor) -> Sequence[Tensor]:
        """Views of each parameter's part."""
        return torch.split(vector, self._sizes)


class _Learned:
    """One number per task with an optimizer of its own (Adam, Kingma and Ba 2015); absent tasks keep theirs."""

    def __init__(self, names: Sequence[str], start: float, rate: float, decay: float, device: torch.device) -> None:
        self._values = {name: torch.full((), start, device=device) for name in names}
        self._optimizer = torch.optim.Adam(list(self._values.values()), lr=rate, weight_decay=decay)

    def of(self, tasks: Tasks) -> Tensor:
        """Float32 (tasks,)."""
        return torch.stack([self._values[task.name] for task in tasks])

    def step(self, tasks: Tasks, gradients: Tensor) -> None:
        """Follow gradients (tasks,); those that overflowed say nothing."""
        gradients = torch.nan_to_num(gradients, nan=0.0, posinf=0.0, neginf=0.0)
        self._optimizer.zero_grad(set_to_none=True)
        for task, gradient in zip(tasks, gradients, strict=True):
            self._values[task.name].grad = gradient
        self._optimizer.step()


def _through_softmax(shares: Tensor, slopes: Tensor) -> Tensor:
    """Slopes in softmax's arguments from slopes in its results, (tasks,) each."""
    return shares * (slopes - shares @ slopes)


def _positive(losses: Sequence[Tensor]) -> Tensor:
    """Float32 (tasks,) without gradient."""
    return torch.stack([loss.detach() for loss in losses]).clamp(LEAST_LOSS, LARGEST_LOSS)


def _descend(tasks: Tasks, losses: Sequence[Tensor], factors: Sequence[Tensor] | Tensor | None = None) -> None:
    """Gradients of the sum of task weight times factor times loss."""
    total = torch.zeros((), device=losses[0].device)
    for i, (task, loss) in enumerate(zip(tasks, losses, strict=True)):
        total = total + task.weight * (loss if factors is None else factors[i] * loss)
    total.backward()  # type: ignore[no-untyped-call]


def balance_of(model: MultiTaskModel, chosen: LocalBalance, tasks: Tasks = ()) -> Balance:
    """The balance of an order, with nothing learned yet, for a model as it stands."""
    main = _main(model, chosen)
    roles = {task.auxiliary for task in tasks}
    return Auxiliary(main, model.get_submodule("encoder")) if len(roles) > 1 else main


def _main(model: MultiTaskModel, chosen: LocalBalance) -> Balance:
    names, device = list(model.heads), next(model.parameters()).device
    match chosen:
        case PlainBalance():
            return PLAIN_BALANCE
        case UncertaintyBalance(rate):
            return Uncertainty(rate, names, device)
        case GradNormBalance(rate, alpha):
            return GradNorm(rate, alpha, model.get_submodule("encoder"), names, device)
        case FamoBalance(rate, decay):
            return Famo(rate, decay, names, device)
        case ConflictRule():
            return Conflict(chosen, model.get_submodule("encoder"))
    raise TypeError(f"no function for {chosen}")
