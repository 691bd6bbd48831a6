"""Every encoder of ours."""

from __future__ import annotations

from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.given import GivenEncoder
from common.encoders.gru import GRUEncoder
from common.encoders.mlp import MLPEncoder
from common.encoders.module import ModuleEncoder
from common.encoders.patchtst import PatchTSTEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.several import SeveralEncoder
from common.encoders.tabular import TabularEncoder
from common.encoders.vision import VisionEncoder
from common.methods.choice import Table, table

ENCODERS: Table[ArrayEncoder] = table(
    *(MLPEncoder, TabularEncoder, Conv2dEncoder, VisionEncoder, Conv1dEncoder, GRUEncoder),
    *(PatchTSTEncoder, ModuleEncoder, GivenEncoder, SeveralEncoder),
)
