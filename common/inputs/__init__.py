"""What examples are made of, as far as both sides must know: a file for each kind, and one table of them."""

from common.inputs.header import Header
from common.inputs.kind import Batch, Encoder, InputKind, TensorInput
from common.inputs.table import INPUT_KINDS, input_described, input_of

__all__ = [
    "INPUT_KINDS", "Batch", "Encoder", "Header", "InputKind", "TensorInput", "input_described", "input_of",
]  # fmt: skip
