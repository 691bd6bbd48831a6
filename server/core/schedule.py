"""What of the training settings changes from round to round. Only the round decides, so a restart changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Curve(StrEnum):
    """How the clients' learning rate falls over the rounds."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


@dataclass(frozen=True)
class Schedule:
    """A curve from the whole rate in the first round to `final_share` of it in the last one, and what is frozen first.

    `frozen` says what of the encoder the first `frozen_rounds` leave alone (`common.parameters.capacity`).
    """

    curve: Curve = Curve.CONSTANT
    final_share: float = 1.0
    frozen: str = ""
    frozen_rounds: int = 0

    def share(self, number: int, num_rounds: int) -> float:
        """The share of the rate that round `number` of `num_rounds` has, counted from 1.

        With p = (number - 1) / (num_rounds - 1): linear f + (1 - f) (1 - p), cosine f + (1 - f) (1 + cos(pi p)) / 2
        (Loshchilov and Hutter 2017, equation 5, without restarts).
        """
        if self.curve is Curve.CONSTANT or number <= 1:
            return 1.0
        passed = min((number - 1) / max(num_rounds - 1, 1), 1.0)
        left = 1.0 - passed if self.curve is Curve.LINEAR else (1.0 + math.cos(math.pi * passed)) / 2.0
        return self.final_share + (1.0 - self.final_share) * left

    def frozen_in(self, number: int) -> str:
        """What of the encoder stands still in a round."""
        return self.frozen if number <= self.frozen_rounds else ""


NO_CHANGE = Schedule()
