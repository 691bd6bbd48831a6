"""A client's own model beside the one that it hands in: kept as state of its procedure, scored, never sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from common.parameters.flat import views
from common.parameters.schema import ParameterSchema
from common.parameters.scope import held_scopes

OWN = "own/"
"""Before the scopes of an own model in the state of a procedure."""


@dataclass(frozen=True)
class OwnModel:
    """Lets a client's own model take the place of the one that was received, in the same memory, for a while."""

    schemas: Mapping[str, ParameterSchema]
    vectors: Mapping[str, Tensor]
    """The model's parameters, flat, by scope."""
    received: Mapping[str, Tensor]
    """What the coordinator published, CPU vectors by scope."""
    private: Mapping[str, Tensor]
    """What is committed of the scopes that never leave, CPU vectors."""

    @contextmanager
    def in_place(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the model is the own one: as received, and over that what `state` has; afterwards as before."""
        before = {scope: vector.clone() for scope, vector in self.vectors.items()}
        own = {scope: state[OWN + scope] for scope in self.vectors if OWN + scope in state}
        try:
            for values in (self.received, self.private, own):
                self._load(values)
            yield
        finally:
            self._load(before)

    def state(self) -> dict[str, Tensor]:
        """The model's values as state to keep."""
        return {OWN + scope: vector.detach().cpu().clone() for scope, vector in self.vectors.items()}

    def begun(self, state: Mapping[str, Tensor], task: str) -> bool:
        """Whether there is all that a task's scores depend on: the model may have trained other tasks so far."""
        return all(OWN + scope in state for scope in held_scopes(self.vectors, [task]))

    def received_parameters(self) -> dict[str, Tensor]:
        """The received values by parameter name, on the model's device."""
        return {
            name: value
            for scope, vector in self.received.items()
            for name, value in views(vector.to(self.vectors[scope].device), self.schemas[scope]).items()
        }

    @torch.no_grad()
    def _load(self, values: Mapping[str, Tensor]) -> None:
        for scope, vector in values.items():
            self.vectors[scope][: len(vector)].copy_(vector)
