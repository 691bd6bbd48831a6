"""A trained task as one function of tensors: what programs and ONNX files hold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from common.export.format import Outputs
from common.inputs import TensorInput
from common.models.trained import TrainedTask
from common.parameters.flat import tensors_of

OUTPUT = "outputs"
ROWS, LENGTH = 3, 7
"""Of the example that a graph is traced with: different, and more than one, so that no size is taken for a constant."""


class TaskGraph(nn.Module):
    """The scale of rows, encoder, head and units of one task.

    `forward` takes the tensors of `inputs` and gives outputs as predictions have them, in the units of the data:
    (rows, outputs), or (rows, length, outputs) of a task with outputs for every token. Parameters are copies.
    """

    def __init__(self, trained: TrainedTask) -> None:
        super().__init__()
        self.model = deepcopy(trained.model.part([trained.task.name])).cpu().eval().requires_grad_(False)
        for tensor in tensors_of(self.model).values():  # each by itself: they are parts of longer vectors
            tensor.data = tensor.detach().clone()
        self.task, self.units = trained.task.name, trained.units
        self.form = trained.model.head(self.task).form
        self.inputs = inputs_of(trained)
        self.scaled = trained.row_scale is not None
        self.mean: Tensor
        self.factor: Tensor
        if trained.row_scale is not None:
            self.register_buffer("mean", torch.from_numpy(trained.row_scale.mean))
            self.register_buffer("factor", torch.from_numpy(trained.row_scale.factor))

    def forward(self, *tensors: Tensor) -> Tensor:
        """See the class."""
        tensors = tuple(known.read(tensor) for known, tensor in zip(self.inputs, tensors, strict=True))
        if self.scaled:
            tensors = tuple(((tensor.double() - self.mean) * self.factor).float() for tensor in tensors)
        batch = self.model.inputs.batch_of(self.form, tensors)
        outputs = batch.shaped(self.model(self.task, batch))
        return self.units.mean + self.units.scale * outputs


def inputs_of(trained: TrainedTask) -> tuple[TensorInput, ...]:
    """The tensors that a task's model reads."""
    form, described = trained.model.head(trained.task.name).form, trained.model.architecture.encoder_config
    return trained.model.inputs.tensor_inputs(described, form)


def drawn(trained: TrainedTask, rows: int, length: int, seed: int) -> tuple[Tensor, ...]:
    """Random examples for a task's model, not longer than it reads."""
    model, form = trained.model, trained.model.head(trained.task.name).form
    longest = min(length, model.architecture.max_length)
    generator = torch.Generator().manual_seed(seed)
    return model.inputs.drawn_tensors(model.architecture.encoder_config, form, rows, longest, generator)


def exported_program(graph: TaskGraph, example: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The graph for any number of rows, and any length where that varies."""
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple({at: dynamic for at, axis in enumerate(i.axes) if isinstance(axis, str)} for i in graph.inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of copies that torch makes of recurrent weights, for a GPU
        return torch.export.export(graph, tuple(example), dynamic_shapes={"tensors": shapes}, strict=False)


def write_program(trained: TrainedTask, folder: Path) -> None:
    """Write `model.pt2`."""
    program = exported_program(TaskGraph(trained), drawn(trained, ROWS, LENGTH, 0))
    torch.export.save(program, folder / "model.pt2")


def load_program(trained: TrainedTask, folder: Path) -> Outputs:
    """What the program in a folder computes."""
    module = torch.export.load(folder / "model.pt2").module()

    def outputs(tensors: Sequence[Tensor]) -> Tensor:
        found: Tensor = module(*tensors)
        return found

    return outputs
