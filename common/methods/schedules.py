"""How the clients' learning rate falls over the rounds. Only the round decides, so a restart changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.methods.choice import Row, Share, table


class Schedule(Row):
    """Base of the rows."""

    def share(self, number: int, num_rounds: int) -> float:
        """The share of the rate that round `number` of `num_rounds` has, counted from 1."""
        return 1.0


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """The whole rate in every round."""

    name = "constant"


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """The rate falls by equal amounts: with p = (number - 1) / (num_rounds - 1) it is f + (1 - f) (1 - p)."""

    name = "linear"
    final_share: Share = 0.1
    """share of the rate in the last round, f"""

    def share(self, number: int, num_rounds: int) -> float:
        """See `Schedule`."""
        return _falling(number, self.final_share, 1.0 - _passed(number, num_rounds))


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """Half a cosine: f + (1 - f) (1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017, equation 5, without restarts)."""

    name = "cosine"
    final_share: Share = 0.1
    """share of the rate in the last round, f"""

    def share(self, number: int, num_rounds: int) -> float:
        """See `Schedule`."""
        left = (1.0 + math.cos(math.pi * _passed(number, num_rounds))) / 2.0
        return _falling(number, self.final_share, left)


SCHEDULES: dict[str, type[Schedule]] = table(ConstantSchedule, LinearSchedule, CosineSchedule)


def _passed(number: int, num_rounds: int) -> float:
    return min((number - 1) / max(num_rounds - 1, 1), 1.0)


def _falling(number: int, final: float, left: float) -> float:
    return 1.0 if number <= 1 else final + (1.0 - final) * left
