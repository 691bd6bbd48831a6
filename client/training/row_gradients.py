"""The sum of gradients of single rows, each of which is shortened first: half of a step of DP-SGD.

Modules keep what they read; one backward pass gives the slopes of the summed row losses in what they gave; lengths of
rows follow from both, and so does the sum, by one product per weight (Abadi et al., CCS 2016, algorithm 1; Bu et al.,
ICML 2023, "Differentially private optimization on large model at small cost").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from client.training.row_kinds import ROW_KINDS, Lengths, RowKind, Traces
from common.errors import ModelError
from common.models.multitask import MultiTaskModel

RowLosses = Callable[[], Tensor]
"""Computes the losses of some rows with the model, (rows,) float32; no row's loss depends on another row."""

ROUNDING = 2.0**-21
"""How much shorter than asked for rows are cut, for the rounding of float32."""
REACH_ROUNDING = 2.0**-23
"""Of sums over positions in float32, as a share of their terms without signs."""
LOSS_TOLERANCE, TOLERANCE = 1e-3, 5e-3
"""How far losses and gradients of the trial may differ, relative to their size: GPUs multiply less exactly."""


@dataclass(frozen=True)
class _Call:
    """One call of a module."""

    name: str
    read: Tensor
    given: GradientEdge

    @property
    def size(self) -> int:
        """The length of the first axis."""
        return len(self.read)


@dataclass(frozen=True)
class _PassedRows:
    """A batch after its backward pass: every module's traces, by name, and the row losses."""

    traces: Mapping[str, Traces]
    losses: Tensor


class RowGradients:
    """Hears what a model's trained modules read while it is in use as a context.

    A row of a batch is a row of every module's first axis; the two texts of a pair are one row, whether they are read
    one after the other or stacked: firsts, then seconds. Tables that are read once for all rows, such as those of
    positions, are read for each.

    Raises:
        ModelError: a trained parameter belongs to no module of `ROW_KINDS` or to two, or rows are normalised together.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        self._model = model
        self._modules = _watched(model)
        self._names = {module: name for name, module in self._modules.items()}
        self._kinds: dict[str, RowKind] = {name: ROW_KINDS[type(module)] for name, module in self._modules.items()}
        self._calls: list[_Call] | None = None
        self._read = 0
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> RowGradients:
        encoder = self._model.get_submodule("encoder")
        self._hooks = [encoder.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for module in self._modules.values():
            if isinstance(module, nn.Embedding):
                self._hooks.append(module.register_forward_pre_hook(self._expand))
            self._hooks.append(module.register_forward_hook(self._keep))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def add(self, losses: RowLosses, clip: float) -> None:
        """Add the rows' gradients, each at most `clip` long, to the gradients of the parameters.

        A row whose gradient is not finite adds nothing: to stop there would tell whoever hears of it that there is
        such a row. Lengths are those over all trained parameters together. What the sum of a row's positions rounds
        off is covered: its gradient in float32 is not longer than `clip` either.
        """
        rows = self._pass(losses)
        factors, dropped = _factors(self._lengths(rows), clip)
        for name, module in self._modules.items():
            if name in rows.traces:
                self._add(module, self._kinds[name].sums(module, rows.traces[name].scaled(factors, dropped)))

    def lengths(self, losses: RowLosses) -> Tensor:
        """The lengths of the rows' gradients, (rows,) float64."""
        return self._lengths(self._pass(losses)).squares.sqrt()

    def require_rows(self, two: RowLosses, three: RowLosses, most: int) -> None:
        """Try whether this model computes rows by themselves, on so few that it takes no time.

        Args:
            two: the losses of rows a and b.
            three: the losses of rows a, b and b again.
            most: how many rows of a module one row may be: 2 of pairs, else 1.

        Raises:
            ModelError: a module's first axis is no axis of rows, a weight is read past its module, or a row's loss
                depends on another row.
        """
        was_training = self._model.training
        self._model.eval()  # without dropout both give the same
        try:
            with self._listening() as calls:
                first = two()
            with self._listening() as others:
                second = three()
            _require_axes(calls, others, most)
            if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
                return
            if not torch.allclose(first[0], second[0], rtol=LOSS_TOLERANCE, atol=1e-6):
                raise _refusal("this model", "the loss of a row depends on other rows")
            self._compare(two)
        finally:
            self._model.train(was_training)

    def _compare(self, losses: RowLosses) -> None:
        """Check the gradient of the first row against autograd's."""
        named = {name: value for name, value in self._model.named_parameters() if value.requires_grad}
        alone = losses()[0]
        wanted = torch.autograd.grad(alone, list(named.values()), allow_unused=True)
        rows = self._pass(losses)
        factors = torch.zeros_like(rows.losses)
        factors[0] = 1.0
        found: dict[nn.Parameter, Tensor] = {}
        for name, traces in rows.traces.items():
            sums = self._kinds[name].sums(self._modules[name], traces.scaled(factors, None))
            found |= {getattr(self._modules[name], key): value for key, value in sums.items()}
        whole = torch.stack([torch.linalg.vector_norm(g) for g in wanted if g is not None]).norm()
        for (name, parameter), gradient in zip(named.items(), wanted, strict=True):
            mine, other = (torch.zeros_like(parameter) if g is None else g for g in (found.get(parameter), gradient))
            if not (mine - other).norm() <= TOLERANCE * (other.norm() + 1e-2 * whole) + 1e-6:
                raise _refusal(name, "it is read in another way than by calling its module once per row")

    def _lengths(self, rows: _PassedRows) -> Lengths:
        found = [self._kinds[name].lengths(self._modules[name], traces) for name, traces in rows.traces.items()]
        none = torch.zeros(len(rows.losses), dtype=torch.float64, device=rows.losses.device)
        return Lengths(sum((f.squares for f in found), none), sum((f.reaches for f in found), none))

    def _pass(self, losses: RowLosses) -> _PassedRows:
        """Forward and backward; row losses are summed, so that slopes are those of each row's own loss."""
        with self._listening() as calls:
            found = losses()
        slopes = torch.autograd.grad(found.sum(), [call.given for call in calls], allow_unused=True)
        parts: dict[str, list[Traces]] = defaultdict(list)
        for call, slope in zip(calls, slopes, strict=True):
            if slope is not None:
                traces = self._kinds[call.name].traces(self._modules[call.name], call.read, slope)
                parts[call.name].append(_by_row(call.name, traces, len(found)))
        return _PassedRows({name: _joined(found) for name, found in parts.items()}, found.detach())

    @staticmethod
    @torch.no_grad()
    def _add(module: nn.Module, sums: Mapping[str, Tensor]) -> None:
        for key, value in sums.items():
            parameter = getattr(module, key)
            parameter.grad = value if parameter.grad is None else parameter.grad.add_(value)

    @contextmanager
    def _listening(self) -> Iterator[list[_Call]]:
        self._calls, self._read = [], 0
        try:
            yield self._calls
        finally:
            self._calls = None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hear how many rows the encoder reads now."""
        self._read = next((len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), 0)

    def _expand(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Have indices that stand for all rows read for each row."""
        if self._calls is None or args[0].dim() < 2 or len(args[0]) != 1 or self._read < 2:
            return None
        return (args[0].expand(self._read, *args[0].shape[1:]), *args[1:])

    def _keep(self, module: nn.Module, args: tuple[Any, ...], given: Tensor) -> None:
        if self._calls is not None:
            self._calls.append(_Call(self._names[module], args[0].detach(), get_gradient_edge(given)))


def _watched(model: nn.Module) -> dict[str, nn.Module]:
    """The modules with trained parameters, by name.

    Raises:
        ModelError: see `RowGradients`.
    """
    found, owners = dict[str, nn.Module](), dict[nn.Parameter, str]()
    for place, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise _refusal(place, "it normalises rows by each other; use norm: group, or another encoder")
        for key, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            name = f"{place}.{key}"
            if parameter in owners:
                raise _refusal(name, f"it is the same as {owners[parameter]}")
            kind = ROW_KINDS.get(type(module))
            known = ", ".join(one.__name__ for one in ROW_KINDS)
            problem = f"a {type(module).__name__} is none of {known}" if kind is None else kind.problem(module)
            if problem:
                raise _refusal(name, problem)
            owners[parameter] = name
            found[place] = module
    return found


def _require_axes(calls: Sequence[_Call], others: Sequence[_Call], most: int) -> None:
    """Check that the first axes of calls with two and with three rows are rows."""
    if [call.name for call in calls] != [call.name for call in others]:
        raise _refusal("this model", "it calls its modules more or less often with more rows")
    for call, other in zip(calls, others, strict=True):
        if not any(call.size == 2 * parts and other.size == 3 * parts for parts in range(1, most + 1)):
            raise _refusal(call.name, "the first axis of what it reads is not that of rows")


def _by_row(name: str, traces: Traces, rows: int) -> Traces:
    """Traces whose first axis is rows, of a call that may have read firsts and seconds of pairs."""
    size = len(traces.read)
    if size == rows:
        return traces
    if size != 2 * rows:
        raise _refusal(name, f"it read {size} for {rows} rows")
    return Traces(*(torch.cat((part[:rows], part[rows:]), dim=1) for part in (traces.read, traces.slopes)))


def _joined(parts: Sequence[Traces]) -> Traces:
    """The traces of all calls of a module, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Traces(torch.cat([p.read for p in parts], dim=1), torch.cat([p.slopes for p in parts], dim=1))


def _factors(lengths: Lengths, clip: float) -> tuple[Tensor, Tensor | None]:
    """By what each row is multiplied, (rows,) float32, and which rows are dropped, if any.

    A row whose terms cancel out has a gradient that is short, but as inexact as its terms are large; then the rounding
    of these counts.
    """
    norms, reaches = lengths.squares.sqrt(), lengths.reaches.sqrt()
    longest = norms + (REACH_ROUNDING * reaches - ROUNDING * norms).clamp_min(0.0)
    dropped = ~torch.isfinite(longest)
    factors = ((1.0 - ROUNDING) * clip / longest).clamp(max=1.0).masked_fill(dropped, 0.0)
    return factors.float(), dropped if bool(dropped.any()) else None


def _refusal(what: str, why: str) -> ModelError:
    remedy = "freeze it (training.frozen_layers, client.trains), or choose another model.server_model"
    return ModelError(f"privacy.noise: rows cannot hide single rows in {what}: {why}; {remedy}")
