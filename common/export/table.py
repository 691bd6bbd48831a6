"""Every format of exports."""

from __future__ import annotations

from common.export import graph, hugging_face, onnx_file, use
from common.export.format import ExportFormat
from common.models.trained import TrainedTask


def _no_graph(trained: TrainedTask) -> str:
    """Why there is no function of tensors to write, or nothing."""
    inputs = trained.model.inputs
    return "" if graph.inputs_of(trained) else f"a model over {inputs.name} is no function of tensors"


FORMATS: dict[str, ExportFormat] = {
    "hugging_face": ExportFormat(
        "folder for transformers, and sentence-transformers where two texts are compared",
        hugging_face.refusal,
        hugging_face.write_folder,
        hugging_face.load_folder,
        use.hugging_face,
    ),
    "torch": ExportFormat("program for torch.export", _no_graph, graph.write_program, graph.load_program, use.program),
    "onnx": ExportFormat("ONNX file", _no_graph, onnx_file.write_onnx, onnx_file.load_onnx, use.onnx),
}
"""By what `--format` says; the first that can hold a model is the default."""
