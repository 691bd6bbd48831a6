"""Auxiliary tasks: their gate at a client and at the coordinator."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client.training.balance import PLAIN_BALANCE, Auxiliary, Balance, Famo, balance_of
from client.training.loop import train
from client.training.work import frozen
from common.config import load_config
from common.errors import ConfigError
from common.methods.conflict import ConflictResolver
from common.methods.task_weights import TaskBalancedWeights
from server.aggregation.auxiliary import gated
from server.aggregation.strategy import AggregationStrategy, WeightedMean
from server.core.phases import Phase
from tests.core_cases import rules
from tests.federations import array_config, digest_of, federate
from tests.row_cases import conflict_rule
from tests.test_balance import Linear, choose, tasks
from tests.test_combining import hold, vector
from tests.training_cases import SETTINGS, make_model, make_sets, no_progress, values_of


def stepped(model: Linear, balance: Balance, *roles: bool | None) -> Tensor:
    """The encoder's gradient of a step over the tasks whose role is given; None: no batch of it."""
    model.zero_grad(set_to_none=True)
    chosen = [i for i, role in enumerate(roles) if role is not None]
    known = tasks(*[1.0] * len(roles))
    losses = model.losses()
    balance.backward([replace(known[i], auxiliary=bool(roles[i])) for i in chosen], [losses[i] for i in chosen])
    found = model.encoder.weight.grad
    return torch.zeros(2) if found is None else found[0]


@pytest.mark.parametrize(
    ("helper", "expected"),
    [
        ((6.0, 8.0), (3.0 + 6.0, 4.0 + 8.0)),
        ((5.0, 0.0), (3.0 + 0.6 * 5.0, 4.0)),
        ((4.0, -3.0), (3.0, 4.0)),
        ((-1.0, -1.0), (3.0, 4.0)),
        ((0.0, 0.0), (3.0, 4.0)),
    ],
)
def test_a_helper_counts_by_its_cosine(helper: Sequence[float], expected: Sequence[float]) -> None:
    """g = (3, 4): a parallel gradient counts whole, (5, 0) by 15 / 25, a right angle and an opposite one not at all."""
    model = Linear([[3.0, 4.0], list(helper)])
    found = stepped(model, Auxiliary(PLAIN_BALANCE, model.encoder), False, True)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert [float(head.grad) for head in model.heads] == [1.0, 1.0]  # type: ignore[arg-type]
    assert model.idle.grad is None


def test_a_step_without_a_main_task_goes_by_the_last_one_that_had_one() -> None:
    model = Linear([[3.0, 4.0], [5.0, 0.0]])
    balance = Auxiliary(PLAIN_BALANCE, model.encoder)
    assert stepped(model, balance, None, True).tolist() == [0.0, 0.0]
    assert stepped(model, balance, False, None).tolist() == [3.0, 4.0]
    torch.testing.assert_close(stepped(model, balance, None, True), torch.tensor([3.0, 0.0]))


def test_main_tasks_meet_by_their_own_rule() -> None:
    """FAMO among two main tasks, and its second look leaves the helper out."""
    model = Linear([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    main = Famo(0.1, 0.0, ["t0", "t1", "t2"], torch.device("cpu"))
    known = [replace(task, auxiliary=i == 2) for i, task in enumerate(tasks(1.0, 1.0, 1.0))]
    balance = Auxiliary(main, model.encoder)
    losses = [torch.tensor(2.0), torch.tensor(2.0), torch.tensor(9.0)]
    balance.after_step(known, losses, lambda: [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(1.0)])
    moved = main.logits.of(known)
    assert float(moved[0]) < 0 < float(moved[1]) and float(moved[2]) == 0.0


def test_only_clients_with_both_kinds_have_a_gate() -> None:
    model, known = make_model(), tasks(1.0, 1.0)
    helper = replace(known[1], auxiliary=True)
    assert balance_of(model, choose("plain"), known) is PLAIN_BALANCE
    assert balance_of(model, choose("plain"), [helper]) is PLAIN_BALANCE
    assert isinstance(balance_of(model, choose("pcgrad"), [known[0], helper]), Auxiliary)


def test_the_gate_is_part_of_training_and_heads_learn_behind_a_frozen_encoder() -> None:
    main, helper = make_sets(0)
    helper = replace(helper, task=replace(helper.task, auxiliary=True))
    guarded, ungated = make_model(), make_model()
    train(guarded, [main, helper], SETTINGS, 9, no_progress)
    train(ungated, [main, replace(helper, task=replace(helper.task, auxiliary=False))], SETTINGS, 9, no_progress)
    assert any(not torch.equal(v, values_of(ungated)[n]) for n, v in values_of(guarded).items())
    still, start = make_model(), values_of(make_model())
    with frozen(still, frozenset(name for name in start if name.startswith("encoder."))):
        losses = train(still, [main, helper], SETTINGS, 9, no_progress)
    moved = {name.split(".")[1] for name, v in values_of(still).items() if not torch.equal(v, start[name])}
    assert moved == {"sst2", "qqp"} and set(losses) == {"sst2", "qqp"}


# ---- the coordinator ----


def gram(*steps: Sequence[float]) -> np.ndarray:
    found = np.array(steps)
    return found @ found.T


def test_shares_of_steps_that_help_and_do_not() -> None:
    """Main steps (1, 0) and (0, 1): their mean is (.5, .5), and a helper (2, 0) has cosine sqrt(.5) with it."""
    third, helper = np.full(3, 1 / 3), np.array([False, False, True])
    gate = math.sqrt(0.5)
    assert gated(third, gram((1, 0), (0, 1), (2, 0)), helper) == pytest.approx(np.array([1, 1, gate]) / (2 + gate))
    assert gated(third, gram((1, 0), (0, 1), (5, 5)), helper) == pytest.approx(third)
    for useless in ((1, -1), (-1, 0), (0, 0)):
        assert gated(third, gram((1, 0), (0, 1), useless), helper).tolist() == [0.5, 0.5, 0.0]
    assert gated(third, gram((1, 0), (0, 1), (5, 5)), np.full(3, True)).tolist() == [0.0, 0.0, 0.0]
    assert gated(third, gram((1, 0), (0, 1), (5, 5)), np.full(3, False)) is third


CLIENTS = {"a": {"sst2": 30}, "b": {"qqp": 10}}


@pytest.mark.parametrize("resolver", [None, ConflictResolver(conflict_rule("nash"), only_conflicts=False)])
def test_a_helper_against_the_main_task_leaves_no_trace(resolver: ConflictResolver | None) -> None:
    deltas = {"a": vector(3, 4), "b": vector(-4, 1)}
    method = AggregationStrategy(WeightedMean(TaskBalancedWeights(), resolver=resolver, auxiliary=frozenset({"qqp"})))
    values, aggregator, _ = hold(rules(by_task=True), CLIENTS, deltas, method)
    assert values["shared"].tolist() == [3.0, 4.0]
    assert "task/qqp" in values and aggregator.cosines["shared"][0] == ("sst2", "qqp")


def test_a_helper_that_agrees_is_averaged_and_one_alone_moves_nothing() -> None:
    method = AggregationStrategy(WeightedMean(auxiliary=frozenset({"qqp"})))
    values, *_ = hold(rules(by_task=True), CLIENTS, {"a": vector(3, 4), "b": vector(6, 8)}, method)
    np.testing.assert_allclose(values["shared"], [3.75, 5.0], rtol=1e-6)
    alone = {"a": {"qqp": 10}, "b": {"qqp": 10}}
    values, *_ = hold(rules(by_task=True), alone, {"a": vector(3, 4), "b": vector(6, 8)}, method)
    assert values["shared"].tolist() == [0.0, 0.0] and values["task/qqp"].any()


# ---- whole federations ----

MIXED = (("a", ("a0",), "1/2"), ("b", ("b1",), "1/2"), ("c", ("a0", "b1"), "2/2"))


def test_a_role_gives_one_model_over_every_transport_and_another_than_none(tmp_path: Path) -> None:
    settings = ("federation.min_clients=3", "training.learning_rate=3e-2")
    config = array_config(*settings, "tasks.b1.auxiliary=true")
    runs = {how: asyncio.run(federate(config, tmp_path / how, MIXED, how)) for how in ("direct", "grpc")}
    digests = {digest_of(found) for found in runs.values()}
    plain = asyncio.run(federate(array_config(*settings), tmp_path / "plain", MIXED))
    assert len(digests) == 1 and digest_of(plain) not in digests
    assert runs["direct"].state.phase is Phase.FINISHED and runs["direct"].journal.cosines()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["tasks.sst2.auxiliary=true"], "tasks.sst2.auxiliary: there is no other task to help; leave one"),
        (
            ["tasks.sst2.auxiliary=true", "tasks.qqp=", "aggregation.weights=uniform"],
            "tasks.sst2.auxiliary: tasks must have sums of their own; write aggregation.weights: examples",
        ),
        (["tasks.sst2.auxiliary=1"], "tasks.sst2.auxiliary: "),
    ],
)
def test_a_contradiction_is_refused_in_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", *overrides])
    assert caught.value.problems[0].startswith(line)
