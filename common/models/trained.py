"""One task of a trained model, from whichever side it comes."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.inputs.header import Header
from common.inputs.row_scale import RowScale
from common.models.multitask import MultiTaskModel
from common.standardising import InputScale
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TaskDefinition


@dataclass(frozen=True)
class TrainedTask:
    """One task of a trained model, and all that it takes to answer rows."""

    model: MultiTaskModel
    """With the values that the task has."""
    task: TaskDefinition
    origin: str
    """Which model it is, for a person: "the model of round 3"."""
    units: TargetUnits = field(default=OWN_UNITS)
    """Of the task's head."""
    tokenizer: bytes = b""
    """Packed; empty where nothing is tokenised."""
    header: Header | None = None
    """What the numbers of a row are, where rows are made of numbers."""
    scale: RowScale | None = None
    """What a client's rows showed, where it was trained on rows scaled by that."""
    common_scale: InputScale | None = None
    """What the rows of all clients showed, where it was trained on rows scaled by that."""
    lacks: tuple[str, ...] = ()
    """The parts of rows that it has no encoder for, of a client that had no data of them."""

    @property
    def row_scale(self) -> RowScale | None:
        """What rows are scaled by before the model reads them."""
        if self.common_scale is None:
            return self.scale
        return self.model.inputs.row_scale(self.model.architecture.encoder_config, self.common_scale)
