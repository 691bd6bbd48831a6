"""Every format of exports."""

from __future__ import annotations

from common.export import graph, hugging_face, image_folder, onnx_file, use
from common.export.format import ExportFormat
from common.models.blended import TwoModels
from common.models.trained import TrainedTask


def _no_graph(trained: TrainedTask) -> str:
    """Why there is no function of tensors to write, or nothing."""
    inputs = trained.model.inputs
    return "" if graph.inputs_of(trained) else f"a model over {inputs.name} is no function of tensors"


_TEXTS = ExportFormat(
    "texts", hugging_face.refusal, hugging_face.write_folder, hugging_face.load_folder, use.hugging_face
)
_IMAGES = ExportFormat(
    "images", image_folder.refusal, image_folder.write_folder, image_folder.load_folder, image_folder.use
)


def _folder(trained: TrainedTask) -> ExportFormat:
    """Which kind of folder transformers reads a model from."""
    return _IMAGES if image_folder.is_over_vision(trained) else _TEXTS


def _no_folder(trained: TrainedTask) -> str:
    """Why there is nothing for transformers, or nothing."""
    if isinstance(trained.model, TwoModels):
        return "transformers has no class for a blend of two models (--model received is one; blend.mix: weights, too)"
    return _folder(trained).refusal(trained)


FORMATS: dict[str, ExportFormat] = {
    "hugging_face": ExportFormat(
        "folder for transformers, and sentence-transformers where two texts are compared",
        _no_folder,
        lambda trained, place: _folder(trained).write(trained, place),
        lambda trained, place: _folder(trained).load(trained, place),
        lambda trained: _folder(trained).use(trained),
    ),
    "torch": ExportFormat("program for torch.export", _no_graph, graph.write_program, graph.load_program, use.program),
    "onnx": ExportFormat("ONNX file", _no_graph, onnx_file.write_onnx, onnx_file.load_onnx, use.onnx),
}
"""By what `--format` says; the first that can hold a model is the default."""
