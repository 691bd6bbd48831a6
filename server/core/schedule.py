"""What of the training settings changes from round to round. Only the round decides, so a restart changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.methods.schedules import ConstantSchedule, Schedule


@dataclass(frozen=True)
class TrainingSchedule:
    """The share of the learning rate in each round, and what of the encoder the first rounds do not train."""

    rate: Schedule = field(default_factory=ConstantSchedule)
    frozen: str = ""
    """What the first `frozen_rounds` do not train; see `common.parameters.capacity`."""
    frozen_rounds: int = 0

    def frozen_in(self, number: int) -> str:
        """What of the encoder is not trained in a round."""
        return self.frozen if number <= self.frozen_rounds else ""


NO_CHANGE = TrainingSchedule()
