"""The client's slice of the model and how it follows the coordinator's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.bodies import ControlShare, ProximalTerm, ScopeVersion
from common.capabilities import WHOLE, Capacity
from common.errors import Reason, Refused, WireError
from common.models.encoder import shallower
from common.models.layout import scope_schemas
from common.models.multitask import MultiTaskModel
from common.orders import Welcome
from common.parameters.capacity import absent_scopes, blocks_of
from common.parameters.flat import bind, shapes_of, views, zeros
from common.parameters.plan import ScopeRule, SharingPlan
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, held_scopes, is_private
from common.ports import Chunk


class PayloadMemory:
    """Memory for the payload of one update at a time, used again by the next one."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def of(self, nbytes: int) -> NDArray[np.uint8]:
        """So many bytes, uint8 (nbytes,); what was here before is void."""
        if len(self._bytes) < nbytes:
            self._bytes = np.empty(nbytes, dtype=np.uint8)
        return self._bytes[:nbytes]


class ClientModelSynchronizer:
    """Holds the model of this client's tasks as one flat vector per scope, and what the coordinator last published.

    `received` are CPU vectors with the published values, `derived` anchors that scopes may be pulled to, sums of
    control variates, and candidates for scopes. The model's own vectors move away from the received values during
    training; the difference is the update.
    """

    def __init__(
        self,
        welcome: Welcome,
        tasks: tuple[str, ...],
        device: torch.device,
        capacity: Capacity = WHOLE,
        check_size: Callable[[int], None] = lambda parameters: None,
    ) -> None:
        """Build the model from the coordinator's description, as far as the client has the capacity.

        `check_size` is told the number of parameters before any memory is taken for them, and may raise.

        Raises:
            Refused: the two sides lay parameters out differently.
            ModelError: the encoder cannot have so many layers.
        """
        architecture = welcome.architecture
        if capacity.layers is not None:
            shallow = shallower(architecture.encoder_config, capacity.layers)
            architecture = replace(architecture, encoder_config=shallow)
        plan = SharingPlan(tuple(ScopeRule(match, scope) for match, scope in welcome.rules))
        schemas = scope_schemas(architecture, welcome.tasks, plan)
        absent = absent_scopes(capacity, blocks_of(schemas))
        held = [scope for scope in held_scopes(schemas, tasks) if scope not in absent]
        check_size(sum(schemas[scope].size for scope in held))
        names = {entry.name for scope in held for entry in schemas[scope].entries}
        needed = [t for t in welcome.tasks if t.name in tasks or any(n.startswith(f"heads.{t.name}.") for n in names)]
        self.model = MultiTaskModel(architecture, needed)
        self.schemas: dict[str, ParameterSchema] = {scope: schemas[scope] for scope in held}
        _compare(self.schemas, dict(welcome.schema_digests))
        beyond = {entry.name for scope in absent for entry in schemas[scope].entries}
        homeless = sorted(set(shapes_of(self.model)) - names - beyond)
        if homeless:
            raise Refused(
                Reason.SCHEMA_MISMATCH,
                f"parameter '{homeless[0]}' lives in scope '{plan.scope_of(homeless[0])}', which a client with tasks "
                f"{', '.join(tasks)} does not hold; change sharing.rules",
            )
        self.model.to(device)
        self.vectors: dict[str, Tensor] = bind(self.model, self.schemas)
        self.received: dict[str, Tensor] = {
            scope: zeros(schema) for scope, schema in self.schemas.items() if not is_private(scope)
        }
        self.derived: dict[str, Tensor] = {}
        self.payload = PayloadMemory()
        self._held: dict[str, ScopeVersion] = {}

    def part(self, tasks: tuple[str, ...], scopes: Mapping[str, str] | None = None) -> ClientModelSynchronizer:
        """The same for a client with some of these tasks: a view that shares vectors, received values and versions.

        Its model has the modules that a client with these tasks would build, in the same order, so that it computes
        the same; it is for one client at a time, since all views move the same parameters. `scopes` maps the client's
        scopes to those of this model, where they have other names.
        """
        held = dict(sorted(scopes.items())) if scopes else {scope: scope for scope in held_scopes(self.schemas, tasks)}
        names = {entry.name for there in held.values() for entry in self.schemas[there].entries}
        part = copy(self)
        part.model = self.model.part([t for t in self.model.heads if any(n.startswith(f"heads.{t}.") for n in names)])
        part.schemas = {scope: self.schemas[there] for scope, there in held.items()}
        part.vectors = {scope: self.vectors[there] for scope, there in held.items()}
        part.received = {scope: self.received[there] for scope, there in held.items() if there in self.received}
        return part

    @property
    def private_scopes(self) -> tuple[str, ...]:
        """The scopes whose values stay here."""
        return tuple(scope for scope in self.schemas if is_private(scope))

    def missing(self, scopes: tuple[ScopeVersion, ...]) -> list[ScopeVersion]:
        """Those of an order's scopes that must be fetched."""
        return [wanted for wanted in scopes if self._held.get(_place(wanted.scope)) != wanted]

    async def receive(self, wanted: ScopeVersion, chunks: AsyncIterator[Chunk]) -> None:
        """Take a scope's published values, or those of an anchor, a control or a candidate, from the coordinator."""
        place = _place(wanted.scope)
        self._held.pop(place, None)
        vector = self.received.get(wanted.scope)
        if vector is None:
            schema = self.schemas[Scope.parse(wanted.scope).base]
            vector = self.derived.setdefault(place, zeros(schema))
        await fill(vector, chunks, wanted.scope)
        self._held[place] = wanted

    def anchor_values(self, term: ProximalTerm) -> dict[str, Tensor]:
        """What the parameters of a scope are pulled to, by name, on the model's device."""
        vector = self.derived[_place(term.anchor.scope)].to(self.vectors[term.scope].device)
        return views(vector, self.schemas[term.scope])

    def mean_control(self, share: ControlShare) -> Tensor:
        """The mean of all clients' control variates of a scope, a CPU vector."""
        return self.derived[_place(Scope.parse(share.scope).control)] / share.clients

    def load_received(self) -> None:
        """Put the published values into the model."""
        with torch.no_grad():
            for scope, vector in self.received.items():
                self.vectors[scope].copy_(vector)

    def load_candidates(self, scopes: Iterable[str]) -> None:
        """Put candidates into the model, in place of the scopes that they are for."""
        with torch.no_grad():
            for name in scopes:
                self.vectors[Scope.parse(name).base].copy_(self.derived[_place(name)])

    def start_from(self, candidates: Iterable[ScopeVersion]) -> None:
        """Let candidates take the place of the published values of their scopes: training goes on from there."""
        for candidate in candidates:
            base = Scope.parse(candidate.scope).base
            self.received[base].copy_(self.derived[_place(candidate.scope)])
            self._held[_place(base)] = candidate  # so that the published values are fetched when they are wanted again

    def private_values(self) -> dict[str, Tensor]:
        """CPU copies of the private scopes."""
        return {scope: self.vectors[scope].detach().cpu().clone() for scope in self.private_scopes}

    def load_private(self, values: dict[str, Tensor]) -> None:
        """Put private values into the model; of a scope that has grown since, the end stays as it is."""
        with torch.no_grad():
            for scope, vector in values.items():
                self.vectors[scope][: len(vector)].copy_(vector)

    def write_delta(self, scope: str, out: Tensor) -> None:
        """Write the same as `take_delta` gives to a CPU vector; the model keeps its values."""
        torch.sub(self.vectors[scope].detach().cpu(), self.received[scope], out=out)

    def take_delta(self, scope: str) -> Tensor:
        """A CPU vector: the model's values minus the published ones.

        On the CPU it takes the place of the model's values, since memory for another vector costs more time than the
        subtraction; load the published values again before the model is used.
        """
        return self.vectors[scope].detach().cpu().sub_(self.received[scope])


def _place(name: str) -> str:
    """Where a scope's values lie."""
    return Scope.parse(name).place


async def fill(vector: Tensor, chunks: AsyncIterator[Chunk], scope: str) -> None:
    """Write a stream of bytes into a CPU vector; it must fit exactly.

    Raises:
        WireError: more or fewer bytes than the vector has.
    """
    target = vector.numpy().data.cast("B")
    position = 0
    async for chunk in chunks:
        end = position + len(chunk)
        if end > len(target):
            raise WireError(f"scope '{scope}': more than the expected {len(target)} bytes")
        target[position:end] = chunk
        position = end
    if position != len(target):
        raise WireError(f"scope '{scope}': {position} of {len(target)} bytes arrived")


def _compare(mine: dict[str, ParameterSchema], theirs: dict[str, str]) -> None:
    for scope in sorted(set(mine) | set(theirs)):
        here = mine[scope].digest if scope in mine else "absent"
        there = theirs.get(scope, "absent")
        if here != there:
            raise Refused(
                Reason.SCHEMA_MISMATCH,
                f"scope '{scope}': layout {here[:12]} here, {there[:12]} at the coordinator; "
                "use the same FedMTL and a compatible transformers on both sides",
            )
