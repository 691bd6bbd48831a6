"""Every encoder of ours."""

from __future__ import annotations

from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.gru import GRUEncoder
from common.encoders.mlp import MLPEncoder
from common.encoders.module import ModuleEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.several import SeveralEncoder
from common.methods.choice import Table, table

ENCODERS: Table[ArrayEncoder] = table(
    MLPEncoder, Conv2dEncoder, Conv1dEncoder, GRUEncoder, ModuleEncoder, SeveralEncoder
)
