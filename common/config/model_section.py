"""The encoder, and how texts are read: the section `model`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.config.choices import Chosen
from common.config.keep_section import KeepSection
from common.config.values import Location, Seconds, Section
from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.given import GivenEncoder
from common.encoders.gru import GRUEncoder
from common.encoders.mlp import MLPEncoder
from common.encoders.module import ModuleEncoder
from common.encoders.patchtst import PatchTSTEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.several import SeveralEncoder
from common.encoders.table import ENCODERS
from common.encoders.tabular import TabularEncoder
from common.encoders.vision import VisionEncoder, is_vision_folder
from common.inputs import INPUT_KINDS, InputKind, input_of
from common.methods.choice import table


class ModelSection(Section):
    """The encoder, where its weights and tokenizer come from, and how texts are read.

    `tokenizer` is a folder or a vocab.txt (None: the model's own); `warm_start` is the folder of an earlier run, from
    which encoder and heads start; `max_length` is in tokens. Encoders of our own read rows of numbers instead.
    """

    server_model: Location = "prajjwal1/bert-tiny"
    """encoder: name on the Hugging Face hub, a folder, or one over rows of numbers: mlp | tabular | conv2d | vision |
    conv1d | gru | patchtst | module | given | several"""
    client_model: Location | None = None
    """the same as server_model, or left out; for fewer layers see client.layers"""
    weights: Literal["auto", "pretrained", "random"] = "auto"
    """auto (pretrained if they can be had, else random) | pretrained | random"""
    tokenizer: Location | None = None
    """folder or vocab.txt; null: the one that belongs to the model"""
    warm_start: Location | None = None
    """run folder of an earlier run: start from its newest encoder and heads"""
    pair_mode: Literal["siamese", "cross"] = "siamese"
    """how two texts are read: siamese (each by itself) | cross (as one sequence)"""
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    """tokens, 8 to 8192; longer texts are cut"""
    hub_timeout_seconds: Seconds = 10.0
    """how long to wait for the hub before going on without it"""
    keep: KeepSection = KeepSection.model_construct()
    """versions that stay besides the newest two"""
    mlp: Annotated[MLPEncoder, Chosen(table(MLPEncoder))] | None = None
    """of server_model mlp: layers over rows of numbers"""
    tabular: Annotated[TabularEncoder, Chosen(table(TabularEncoder))] | None = None
    """of server_model tabular: layers over a table's numbers and categories"""
    conv2d: Annotated[Conv2dEncoder, Chosen(table(Conv2dEncoder))] | None = None
    """of server_model conv2d: convolutions over images"""
    vision: Annotated[VisionEncoder, Chosen(table(VisionEncoder))] | None = None
    """of server_model vision: a vision model of transformers; its folder can be named as server_model, too"""
    conv1d: Annotated[Conv1dEncoder, Chosen(table(Conv1dEncoder))] | None = None
    """of server_model conv1d: convolutions over sequences"""
    gru: Annotated[GRUEncoder, Chosen(table(GRUEncoder))] | None = None
    """of server_model gru: recurrent units over sequences"""
    patchtst: Annotated[PatchTSTEncoder, Chosen(table(PatchTSTEncoder))] | None = None
    """of server_model patchtst: attention over patches of sequences"""
    module: Annotated[ModuleEncoder, Chosen(table(ModuleEncoder))] | None = None
    """of server_model module: a torch module of your own"""
    given: Annotated[GivenEncoder, Chosen(table(GivenEncoder))] | None = None
    """of server_model given: an instance of a torch module, which Python code gives; written by it"""
    several: Annotated[SeveralEncoder, Chosen(table(SeveralEncoder))] | None = None
    """of server_model several: rows of several parts, each with an encoder of its own"""

    @model_validator(mode="before")
    @classmethod
    def _vision_folder(cls, body: Any) -> Any:
        """The folder of a vision model as server_model is short for one in its section, which then has all it says."""
        named = body.get("server_model") if isinstance(body, dict) else None
        if not isinstance(named, str) or not is_vision_folder(named):
            return body
        written = body.get(VisionEncoder.name) or {}
        section = {"folder": named, **written} if isinstance(written, dict) else written
        return {**body, "server_model": VisionEncoder.name, VisionEncoder.name: section}

    @property
    def inputs(self) -> InputKind:
        """What examples are made of."""
        encoder = self.array_encoder
        return input_of(self.server_model) if encoder is None else INPUT_KINDS[encoder.inputs]

    @property
    def array_encoder(self) -> ArrayEncoder | None:
        """The encoder of rows of numbers that `server_model` names, where it is described."""
        found: ArrayEncoder | None = getattr(self, self.server_model) if self.server_model in ENCODERS else None
        return found

    def allow_encoder(self) -> None:
        """Let this process build the encoder from a description, if it is one of ours; see `ModuleEncoder`."""
        if self.array_encoder is not None:
            self.array_encoder.allow()
