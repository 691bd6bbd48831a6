"""A trained task as an ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.errors import ModelError
from common.export.format import Outputs
from common.export.graph import LENGTH, OUTPUT, ROWS, TaskGraph, drawn, exported_program
from common.models.trained import TrainedTask

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_packages() -> None:
    """Check that what writes and runs ONNX files is there.

    Raises:
        ModelError: a package is missing.
    """
    from importlib.util import find_spec

    for name in PACKAGES:
        if find_spec(name) is None:
            raise ModelError(f"--format onnx needs the package '{name}'; run pip install 'fedmtl[onnx]'")


def write_onnx(trained: TrainedTask, folder: Path) -> None:
    """Write `model.onnx`, whose weights are inside where they fit.

    Raises:
        ModelError: a package is missing.
    """
    require_packages()
    graph, example = TaskGraph(trained), drawn(trained, ROWS, LENGTH, 0)
    program, log = exported_program(graph, example), logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of every package that it does not find
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = [item.name for item in graph.inputs]
            made = torch.onnx.export(program, tuple(example), input_names=names, output_names=[OUTPUT], verbose=False)
    finally:
        log.setLevel(level)
    assert made is not None
    _name_axes(made, graph)
    made.save(folder / FILE)


def _name_axes(made: torch.onnx.ONNXProgram, graph: TaskGraph) -> None:
    """Call the dimensions of inputs that vary by their names, where they have numbers of the exporter's."""
    import onnx_ir

    names: dict[str, str] = {}
    for value, item in zip(made.model.graph.inputs, graph.inputs, strict=True):
        axes = zip(value.shape or (), item.axes, strict=True)
        names |= {str(size): axis for size, axis in axes if isinstance(axis, str)}
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        value.shape = onnx_ir.Shape([names.get(str(size), size) for size in value.shape or ()])


def load_onnx(trained: TrainedTask, folder: Path) -> Outputs:
    """What onnxruntime computes from the file in a folder."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def outputs(tensors: Sequence[Tensor]) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return outputs
