"""Rows of tables: one dataclass each, for the configuration, the wire and the arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest

from common.errors import WireError
from common.methods.procedures import Ditto, FedProx, FedRep, LocalProcedure, PerFedAvg
from common.orders import Order, PollKind, PollReply, Settlement, Train
from common.wire.messages import POLL_REPLY
from tests.training_cases import SETTINGS

ORDER = Order("o1", 1, 1, (), 60.0, Train(SETTINGS, 5))


@dataclass(frozen=True)
class Strange(LocalProcedure):
    """A row that no table has, or another row's name with a parameter that is not its own."""

    name = "plain"
    mu: float = 0.1


@dataclass(frozen=True)
class Whole(Strange):
    name = "fedprox"
    mu: int = 1  # type: ignore[assignment]


@dataclass(frozen=True)
class Unknown(Strange):
    name = "fedsgd"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"procedure": FedProx(math.nan)}, "procedure.mu: nan"),
        ({"procedure": FedProx(math.inf)}, "procedure.mu: inf"),
        ({"procedure": FedProx(-0.1)}, "procedure.mu: -0.1 is out of range; write at least 0"),
        ({"procedure": Ditto(1e7)}, "procedure.mu: 1e[+]07 is out of range; write at most 1e"),
        ({"procedure": Strange()}, "procedure: plain has the parameters none, not"),
        ({"procedure": Whole()}, "procedure.mu: not a number"),
        ({"procedure": Unknown()}, "procedure: 'fedsgd' is not one of plain"),
        ({"procedure": PerFedAvg(-1.0)}, "inner_learning_rate"),
        ({"procedure": FedRep(2**31)}, "head_epochs"),
        ({"procedure": Ditto(), "finetune_epochs": 1}, "procedure ditto, finetune_epochs and isolated: only one"),
        ({"isolated": True, "finetune_epochs": 1}, "only one may ask for an own model"),
    ],
)
def test_the_decoder_refuses_nonsense(changes: dict[str, Any], problem: str) -> None:
    order = replace(ORDER, body=Train(replace(SETTINGS, **changes), 5))
    with pytest.raises(WireError, match=problem):
        POLL_REPLY.decode(POLL_REPLY.encode(PollReply(PollKind.ORDER, Settlement.NONE, order=order)))
