"""Rows of tables: one dataclass each, for the configuration, the wire and the arithmetic."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from common.bodies import Train
from common.config import load_config
from common.errors import ConfigError, WireError
from common.methods.balances import BALANCES
from common.methods.choice import Bounds, Share
from common.methods.conflict import ConflictRule, Float64
from common.methods.linear import GraphRelation, PartialRelation
from common.methods.own_models import FineTunedModel
from common.methods.procedures import Ditto, FedProx, FedRep, LocalProcedure, PerFedAvg
from common.methods.relation import LARGEST_MU, Coupling, Members, Relation
from common.methods.relations import RELATIONS
from common.methods.robust import RobustRule
from common.methods.robust_rules import ROBUST_RULES
from common.orders import Order, PollKind, PollReply, UpdateState
from common.wire.limits import MAX_CLIENTS
from common.wire.messages import POLL_REPLY
from tests.federations import array_config, digest_of, federate
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
        ({"procedure": Ditto()}, "procedure: ditto travels as its parts"),
        ({"own_model": FineTunedModel(2**31)}, "own_model.epochs"),
    ],
)
def test_the_decoder_refuses_nonsense(changes: dict[str, Any], problem: str) -> None:
    order = replace(ORDER, body=Train(replace(SETTINGS, **changes), 5))
    with pytest.raises(WireError, match=problem):
        POLL_REPLY.decode(POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=order)))


# ---- a row of one's own: one class, and one row of its table ----

TWO = (("a", ("a0", "b1"), "1/2"), ("b", ("a0", "b1"), "2/2"))


def configured(*overrides: str) -> Any:
    return array_config("federation.min_clients=2", "training.num_rounds=2", *overrides, tasks=("a0", "b1"))


def trained(where: Path, *overrides: str) -> str:
    return digest_of(asyncio.run(federate(configured(*overrides), where, TWO)))


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks={sst2: {}, qqp: {}, stsb: {}}", *overrides])
    (line,) = caught.value.problems
    return line


@dataclass(frozen=True)
class HalfWay(Relation):
    """Starts move a share of the way to the mean."""

    name = "half_way"
    share: Share = 0.5
    """of the way"""

    def __call__(self, members: Members) -> Coupling:
        return PartialRelation(self.share)(members)


def test_a_toy_relation_is_one_class_and_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(RELATIONS, "half_way", HalfWay)
    plan = ("sharing.plan=soft", "sharing.members=clients")
    toy = trained(tmp_path / "toy", *plan, "relation={name: half_way, share: 0.25}")
    assert toy == trained(tmp_path / "partial", *plan, "relation={name: partial, share: 0.25}")
    assert toy != trained(tmp_path / "none", *plan, "relation=none")
    assert refused("sharing.plan=soft", "relation={name: half_way, share: 2}").startswith("relation.share: 2 is out of")
    line = refused("sharing.plan=soft", "relation.share=0.5")
    assert line == "relation.share: not read by mean; write name: similarity or partial or half_way, or remove it"


@dataclass(frozen=True)
class Largest(RobustRule):
    """The largest change of every coordinate, times a factor."""

    name = "largest"
    factor: Annotated[float, Bounds(above=0, most=1)] = 1.0
    """of the change"""

    def reduce(self, updates: Float64) -> Float64:
        found: Float64 = self.factor * updates.max(axis=0)
        return found


@dataclass(frozen=True)
class Alike(ConflictRule):
    """The plain mean, by a longer way."""

    name = "alike"

    def __call__(self, gram: Float64) -> Float64:
        return np.full(len(gram), 1.0 / len(gram))


def test_a_toy_robust_rule_and_a_toy_balance_are_one_class_and_one_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(ROBUST_RULES, "largest", Largest)
    monkeypatch.setitem(BALANCES, "alike", Alike)
    robust = ("aggregation.weights=uniform", "aggregation.robust={name: largest, factor: 0.5}")
    chosen = (*robust, "training.balance={name: alike, rescale: false}")
    assert trained(tmp_path / "toys", *chosen) != trained(tmp_path / "robust", *robust)
    assert refused("aggregation.robust={name: largest, factor: 0}") == (
        "aggregation.robust.factor: 0 is out of range; write more than 0"
    )


def test_what_a_configuration_may_say_of_a_relation_can_travel() -> None:
    """The strongest term that a checked configuration comes to is within the wire's bounds, whoever joins."""
    for row in RELATIONS.values():
        strongest = row(**{key: 1e6 for key in ("strength", "penalty") if key in vars(row())})
        assert strongest.largest_mu(MAX_CLIENTS) <= LARGEST_MU, row
    plan = "sharing.plan=soft"
    line = refused(plan, "relation={name: graph, strength: 1e6}")
    assert line.startswith(
        "relation.strength: 2e+06 times head_learning_rate 0.003 is above 1 and would overshoot; write"
    )
    load_config(
        None,
        ["tasks={sst2: {}, qqp: {}}", plan, "relation={name: graph, strength: 1e6}", "training.proximal_step=proximal"],
    )
    links = "links: [[sst2, qqp, 1e6]]"
    line = refused(plan, "training.proximal_step=proximal", f"relation={{name: graph, strength: 1e6, {links}}}")
    assert line.startswith("relation.strength: times the weights of a member it comes to 1e+12, orders carry")
    assert GraphRelation(1e6).problems() == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.procedure.mu=0.5", "training.procedure.mu: not read by plain; write name: fedprox or ditto, or"),
        ("training.procedure.mu=0.1", "training.procedure.mu: not read by plain"),  # its default, written out
        ("training.procedure.head_epochs=2", "training.procedure.head_epochs: not read by plain; write name: fedrep"),
        ("training.procedure.inner_learning_rate=1", "training.procedure.inner_learning_rate: not read by plain"),
        ("training.proximal_step=proximal", "training.proximal_step: only fedprox or ditto as training.procedure, an"),
        ("simulation.partition.alpha=0.1", "simulation.partition.alpha: not read by iid; write name: dirichlet, or"),
        ("training.optimizer.momentum=0.9", "training.optimizer.momentum: not read by adamw; write name: sgd, or"),
        ("training.schedule.final_share=0.5", "training.schedule.final_share: not read by constant; write name: lin"),
        ("training.anchor.strength=1", "training.anchor.strength: not read by none; write name: start, or remove it"),
        ("training.mu=0.5", "training.mu: unknown key; did you mean 'procedure.mu'?"),
        ("training.anchor=stop", "training.anchor: 'stop' is not a choice; write none or start"),
    ],
)
def test_what_the_chosen_row_does_not_read_is_refused_in_one_line(override: str, line: str) -> None:
    assert refused(override).startswith(line)
