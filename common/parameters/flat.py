"""Model tensors as views into one flat vector per scope."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.parameters.plan import NORM_STATISTICS
from common.parameters.schema import ElementType, ParameterSchema

TORCH_TYPES = {ElementType.FLOAT32: torch.float32, ElementType.FLOAT64: torch.float64}
"""Element types of schemas as torch has them."""


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter, tied ones once, in the model's order, then the statistics of batch normalisation."""
    statistics = {n: buffer for n, buffer in model.named_buffers() if n.rpartition(".")[2] in NORM_STATISTICS}
    return {**dict(model.named_parameters()), **statistics}


def types_of(model: nn.Module) -> dict[str, ElementType]:
    """Name and element type of everything that scopes hold.

    Raises:
        ModelError: a parameter has a type that no scope has.
    """
    by_torch = {there: here for here, there in TORCH_TYPES.items()}
    found = tensors_of(model)
    for name, tensor in found.items():
        if tensor.dtype not in by_torch:
            raise ModelError(f"parameter '{name}' is {str(tensor.dtype).removeprefix('torch.')}; make it float32")
    return {name: by_torch[tensor.dtype] for name, tensor in found.items()}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything that scopes hold."""
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}


def bind(model: nn.Module, schemas: Mapping[str, ParameterSchema]) -> dict[str, Tensor]:
    """Move each scope's tensors into one contiguous vector and make the model's tensors views of it.

    Returns one vector per scope, on the model's device, holding the model's present values. Writing to a
    vector in place changes the model and the other way round.
    """
    parameters = tensors_of(model)
    vectors = {}
    for scope, schema in schemas.items():
        device = parameters[schema.entries[0].name].device
        vector = torch.empty(schema.size, dtype=TORCH_TYPES[schema.dtype], device=device)
        for entry in schema.entries:
            parameter = parameters[entry.name]
            view = vector[entry.offset : entry.offset + entry.count].view(entry.shape)
            view.copy_(parameter.detach())
            parameter.data = view
        vectors[scope] = vector
    return vectors


def zeros(schema: ParameterSchema) -> Tensor:
    """A vector of zeros on the CPU."""
    return torch.zeros(schema.size, dtype=TORCH_TYPES[schema.dtype])


def views(vector: Tensor, schema: ParameterSchema) -> dict[str, Tensor]:
    """The parameters inside a flat vector by name, sharing its memory."""
    return {e.name: vector[e.offset : e.offset + e.count].view(e.shape) for e in schema.entries}


def to_bytes(vector: Tensor) -> memoryview:
    """The little-endian bytes of a contiguous vector on the CPU, without a copy."""
    return vector.detach().contiguous().numpy().data.cast("B")
