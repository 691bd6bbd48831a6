"""How the tasks of one client meet in a step: numbers, laws, and whole federations."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.training.balance import PLAIN_BALANCE, Balance, Conflict, Famo, GradNorm, Uncertainty, balance_of
from client.training.procedures import procedure_of
from common.bodies import Train, TrainingSettings
from common.config import load_config
from common.errors import ConfigError, WireError
from common.methods.balance import FamoBalance, GradNormBalance, PlainBalance
from common.methods.balances import BALANCES, LocalBalance
from common.methods.conflict import CONFLICT_RULES
from common.methods.procedures import PROCEDURES
from common.orders import Order, PollKind, PollReply, UpdateState
from common.tasks import TASK_KINDS, TaskDefinition
from common.wire.messages import POLL_REPLY
from tests.federations import array_config, digest_of, federate
from tests.row_cases import conflict_rule
from tests.training_cases import SETTINGS, make_model, make_sets, make_work, values_of

CPU = torch.device("cpu")
CONFLICTS = tuple(CONFLICT_RULES)
ROWS = [name for name in BALANCES if name != "plain"]


def tasks(*weights: float) -> list[TaskDefinition]:
    return [
        TaskDefinition(f"t{i}", TASK_KINDS["regression"], (), False, ("rmse",), weight)
        for i, weight in enumerate(weights)
    ]


def choose(rule: str, **changes: Any) -> LocalBalance:
    """A row with the configuration's defaults."""
    return BALANCES[rule](**changes)


class Linear(nn.Module):
    """Losses g_t . w + h_t: w is the encoder, one number h_t the head of each task."""

    def __init__(self, gradients: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.gradients = torch.tensor(gradients)
        self.encoder = nn.Linear(len(gradients[0]), 1, bias=False)
        self.idle = nn.Parameter(torch.zeros(3))  # no loss depends on it
        self.encoder.register_parameter("idle", self.idle)
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in gradients])

    def losses(self) -> list[Tensor]:
        return [g @ self.encoder.weight[0] + head for g, head in zip(self.gradients, self.heads, strict=True)]

    def step(self, balance: Balance, weights: Sequence[float]) -> Tensor:
        self.zero_grad(set_to_none=True)
        balance.backward(tasks(*weights), self.losses())
        assert self.idle.grad is None
        found: Tensor = self.encoder.weight.grad
        return found[0]


def settle(rule: str, gradients: Sequence[Sequence[float]], weights: Sequence[float], **changes: Any) -> Linear:
    model = Linear(gradients)
    chosen = conflict_rule(rule, changes.get("c", 0.5), changes.get("rescale", False))
    model.step(Conflict(chosen, model.encoder), weights)
    return model


TWO = [[1.0, 0.0], [-0.8, 0.6]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("pcgrad", (0.18, 0.54)),
        ("mgda", (0.1, 0.3)),
        ("imtl_g", (0.1, 0.3)),
        ("cagrad", (0.15, 0.45)),
        ("nash", (math.sqrt(5) * 0.2, math.sqrt(5) * 0.6)),
    ],
)
def test_two_gradients_that_conflict(rule: str, expected: tuple[float, float]) -> None:
    """g_1 = (1, 0), g_2 = (-.8, .6), through the backward pass.

    PCGrad: g_1 - (-.8) g_2 = (.36, .48) and g_2 - (-.8) g_1 = (0, .6), of which ours is the mean. MGDA: both have
    length 1, so it is the middle of the two, (.1, .3); it gains as much along both, so IMTL-G agrees. CAGrad, c = .5:
    the mean g_0 is (.1, .3) too and is followed by half its length along itself. Nash: a_t = 1 / sqrt(1 + cos) =
    sqrt(5). Heads see their own task alone.
    """
    model = settle(rule, TWO, (1.0, 1.0))
    torch.testing.assert_close(model.encoder.weight.grad[0], torch.tensor(expected), rtol=0, atol=1e-6)
    assert [float(head.grad) for head in model.heads] == [1.0, 1.0]  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", CONFLICTS)
def test_a_rescaled_gradient_has_the_length_of_the_plain_one(rule: str) -> None:
    """g_1 + 2 g_2 = (-.6, 1.2), of length sqrt(1.8); the second head's gradient carries its task's weight."""
    model = settle(rule, TWO, (1.0, 2.0), rescale=True)
    assert float(model.encoder.weight.grad.norm()) == pytest.approx(math.sqrt(1.8), abs=1e-6)
    assert [float(head.grad) for head in model.heads] == [1.0, 2.0]  # type: ignore[arg-type]
    same = settle(rule, [[3.0, 4.0], [3.0, 4.0]], (1.0, 1.0), rescale=True)
    torch.testing.assert_close(same.encoder.weight.grad[0], torch.tensor([6.0, 8.0]))


def test_a_gradient_without_bounds_is_left_to_the_check_of_the_losses() -> None:
    model = settle("nash", [[1e30, 0.0], [1.0, 1.0]], (1.0, 1.0))
    assert model.encoder.weight.grad[0].tolist() == pytest.approx([1e30, 1.0])


def test_uncertainties_come_to_rest_at_the_logarithms_of_the_losses() -> None:
    """d/ds (L exp(-s) / 2 + s / 2) = 0 at s = log L, where the weight of the loss is 1 / (2 L)."""
    balance, both = Uncertainty(0.05, ["t0", "t1"], CPU), tasks(1.0, 3.0)
    model = nn.ParameterList([nn.Parameter(torch.tensor(loss)) for loss in (0.3, 2.5)])
    for _ in range(400):
        model.zero_grad()
        balance.backward(both, list(model))
    torch.testing.assert_close(balance.variances.of(both), torch.tensor([0.3, 2.5]).log(), rtol=0, atol=1e-4)
    slopes = [float(value.grad) for value in model]  # type: ignore[arg-type]
    assert slopes == pytest.approx([1 / 0.6, 3 / 5.0], rel=1e-3)


def test_gradnorm_makes_gradients_alike() -> None:
    """With alpha 0 (or equal paces) the weighted lengths c_t n_t meet: lengths 5 and 1 give c = (1/3, 5/3)."""
    for alpha in (0.0, 1.5):
        model = Linear([[3.0, 4.0], [1.0, 0.0]])
        with torch.no_grad():  # both losses are 2 and stay there
            for head in model.heads:
                head.fill_(2.0)
            model.encoder.weight.zero_()
        balance = GradNorm(0.01, alpha, model.encoder, ["t0", "t1"], CPU)
        for _ in range(600):
            found = model.step(balance, (1.0, 2.0))
        factors = [float(head.grad) / weight for head, weight in zip(model.heads, (1.0, 2.0), strict=True)]  # type: ignore[arg-type]
        assert factors == pytest.approx([1 / 3, 5 / 3], rel=0.02) and sum(factors) == pytest.approx(2.0)
        torch.testing.assert_close(found, torch.tensor([3.0 * factors[0] + 2 * factors[1], 4.0 * factors[0]]))


def test_gradnorm_gives_more_to_a_task_that_falls_behind() -> None:
    """Gradients of one length; the first loss halves and the second stays: paces 2/3 and 4/3, so c_1 < 1 < c_2."""
    model = Linear([[1.0], [1.0]])
    balance = GradNorm(0.01, 1.0, model.encoder, ["t0", "t1"], CPU)
    with torch.no_grad():
        model.encoder.weight.zero_()
        for losses in ((2.0, 2.0), (1.0, 2.0)):
            for head, loss in zip(model.heads, losses, strict=True):
                head.fill_(loss)
            for _ in range(1 if losses[0] == 2.0 else 400):
                with torch.enable_grad():
                    model.step(balance, (1.0, 1.0))
    factors = [float(head.grad) for head in model.heads]  # type: ignore[arg-type]
    assert factors == pytest.approx([2 / 3, 4 / 3], rel=0.02)


def test_famo_weighs_by_relative_fall() -> None:
    """At first the weights are T (1 / L_t) / sum(1 / L); then the task whose loss fell less, relatively, gets more.

    Losses 1 and 4: weights 1.6 and .4. The fall of log L is 0 for the first and log 2 for the second, softmax's
    Jacobian at (.5, .5) turns it into -+.25 log 2, and Adam's first step is -+rate.
    """
    balance, both = Famo(0.1, 0.0, ["t0", "t1"], CPU), tasks(1.0, 1.0)
    model = nn.ParameterList([nn.Parameter(torch.tensor(loss)) for loss in (1.0, 4.0)])
    balance.backward(both, list(model))
    assert [float(value.grad) for value in model] == pytest.approx([1.6, 0.4])  # type: ignore[arg-type]
    balance.after_step(both, [value.detach() for value in model], lambda: [torch.tensor(1.0), torch.tensor(2.0)])
    torch.testing.assert_close(balance.logits.of(both), torch.tensor([0.1, -0.1]), rtol=0, atol=1e-5)
    balance.after_step(both[:1], [torch.tensor(1.0)], lambda: pytest.fail("one task alone needs no second look"))


# ---- one client's training ----


def work_on(
    settings: TrainingSettings, held: Sequence[str] = ("sst2", "qqp"), compact: bool = False, half: bool = False
) -> dict[str, Any]:
    """Values of a small model, and its losses under `losses`."""
    model = make_model()
    model.precision = torch.bfloat16 if half else torch.float32
    sets = [item for item in make_sets(0) if item.task.name in held]
    work = make_work(model, sets, settings, compact=compact)
    assert (work.examples.vocabulary is not None) == compact
    losses = procedure_of(settings.procedure)(work, {}).losses
    return {**values_of(model), "losses": torch.tensor([losses[name] for name in sorted(losses)])}


def same(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 0.0) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=0, atol=atol) for name in one)


@pytest.mark.parametrize("rule", ROWS)
def test_with_one_task_every_row_is_plain_training_bit_for_bit(rule: str) -> None:
    chosen = replace(SETTINGS, balance=choose(rule))
    assert same(work_on(chosen, ["qqp"]), work_on(SETTINGS, ["qqp"]))
    both = work_on(chosen)
    assert not same(both, work_on(SETTINGS)) and same(both, work_on(chosen))
    assert balance_of(make_model(), PlainBalance()) is PLAIN_BALANCE


@pytest.mark.parametrize("rule", ROWS)
def test_compact_tables_change_little_or_nothing(rule: str) -> None:
    """Rows that look at losses alone change no bit; inner products add fewer zeros, in another order."""
    chosen = replace(SETTINGS, learning_rate=1e-3, head_learning_rate=1e-3, balance=choose(rule))
    exact = rule in ("uncertainty", "famo")
    assert same(work_on(chosen), work_on(chosen, compact=True), 0.0 if exact else 1e-4)


@pytest.mark.parametrize("rule", ["famo", "cagrad"])
def test_rows_go_with_bfloat16(rule: str) -> None:
    settings = replace(SETTINGS, local_epochs=1, balance=choose(rule))
    exact, half = work_on(settings), work_on(settings, half=True)
    assert not same(exact, half) and torch.allclose(exact["losses"], half["losses"], rtol=0.05)


@pytest.mark.parametrize("name", ["fedprox", "fedrep", "per_fedavg"])
@pytest.mark.parametrize("rule", ["uncertainty", "gradnorm", "cagrad"])
def test_rows_go_with_every_procedure(name: str, rule: str) -> None:
    """They move what a procedure trains, and nothing else: in FedRep's first phase the encoder stands still."""
    read = {"fedprox": {"mu": 0.5}, "fedrep": {"head_epochs": 1}, "per_fedavg": {"inner_learning_rate": 0.01}}
    procedure = PROCEDURES[name](**read[name])
    settings = replace(SETTINGS, procedure=procedure)
    assert not same(work_on(replace(settings, balance=choose(rule))), work_on(settings))
    if name == "fedrep":
        start, heads = values_of(make_model()), work_on(replace(settings, local_epochs=0, balance=choose(rule)))
        for key, value in start.items():
            assert torch.equal(value, heads[key]) == key.startswith("encoder."), key


# ---- whole federations ----

CLIENTS = (("a", ("a0", "b1", "c2"), "1/2"), ("b", ("b1",), "2/2"), ("c", ("a0", "c2"), "2/2"))
WHOLE = ("tasks.b1.train_samples=24", "federation.min_clients=3")


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    config = array_config(*WHOLE, tasks=("a0", "b1", "c2"))
    state = tmp_path_factory.mktemp("plain")
    return {"plain": digest_of(asyncio.run(federate(config, state, CLIENTS)))}


@pytest.mark.parametrize("rule", ROWS)
def test_every_row_comes_to_one_model_over_every_transport(rule: str, digests: dict[str, str], tmp_path: Path) -> None:
    config = array_config(*WHOLE, f"training.balance={rule}", tasks=("a0", "b1", "c2"))
    found = {
        digest_of(asyncio.run(federate(config, tmp_path / how, CLIENTS, how=how, shuffle=5)))
        for how in ("direct", "grpc")
    }
    assert len(found) == 1
    digests[rule] = found.pop()
    assert len(set(digests.values())) == len(digests), "two rows came to the same model"


def test_local_and_central_conflict_rules_go_together(tmp_path: Path) -> None:
    more = ("training.balance=upgrad", "aggregation.weights=task_balanced", "aggregation.conflict=pcgrad")
    config = array_config(*WHOLE, *more, "training.procedure=ditto", tasks=("a0", "b1", "c2"))
    coordinator = asyncio.run(federate(config, tmp_path, CLIENTS))
    assert all(np.isfinite(vector).all() for vector in coordinator.vectors.values())


# ---- settings: on the wire, in the configuration, in the documentation ----

ORDER = Order("o1", 1, 1, (), 60.0, Train(SETTINGS, seed=5))


@pytest.mark.parametrize("rule", list(BALANCES))
def test_settings_travel_with_the_order(rule: str) -> None:
    chosen = load_config(None, ["tasks.sst2=", f"training.balance={rule}"]).training.settings()
    assert chosen.balance == choose(rule)
    reply = PollReply(PollKind.ORDER, UpdateState.NONE, order=replace(ORDER, body=Train(chosen, 5)))
    assert POLL_REPLY.decode(POLL_REPLY.encode(reply)) == reply


@pytest.mark.parametrize(
    ("balance", "problem"),
    [
        (FamoBalance(rate=math.nan), "balance.rate: nan"),
        (FamoBalance(rate=0.0), "balance.rate: 0 is out of range; write more than 0"),
        (GradNormBalance(alpha=-1.0), "balance.alpha: -1 is out of range"),
        (conflict_rule("cagrad", radius=2e6), "balance.radius: 2e[+]06 is out of range; write at most 1e"),
    ],
)
def test_the_decoder_refuses_nonsense(balance: LocalBalance, problem: str) -> None:
    order = replace(ORDER, body=Train(replace(SETTINGS, balance=balance), 5))
    with pytest.raises(WireError, match=problem):
        POLL_REPLY.decode(POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=order)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["training.balance=fair"], "training.balance: 'fair' is not a choice"),
        (
            ["training.balance.rate=0.1"],
            "training.balance.rate: not read by plain; write name: uncertainty or",
        ),
        (["training.balance={name: mgda, alpha: 1.0}"], "training.balance.alpha: not read by mgda"),
        (["training.balance=famo", "training.procedure=per_fedavg"], "training.balance: famo compares losses"),
        (["training.balance.name=cagrad", "training.balance.radius=0"], "training.balance.radius: 0 is out of"),
    ],
)
def test_a_contradiction_is_refused_in_one_line(changes: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", *changes])
    (line,) = caught.value.problems
    assert line.startswith(problem) and "\n" not in line


def test_every_row_is_in_the_documentation() -> None:
    text = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\|.*`training\.balance: (?:\{name: )?(\w+)", text, re.MULTILINE))
    assert shown == set(BALANCES)
