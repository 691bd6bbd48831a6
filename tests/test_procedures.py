"""Local procedures: their numbers, their laws, and what a personal model may not do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from client.training.own_model import OWN
from client.training.own_models import training_of
from client.training.step import ProximalStepTerm, looked_ahead
from common.bodies import Train, TrainingSettings
from common.config import Config
from common.errors import ConfigError
from common.methods.choice import parameters_of
from common.methods.own_models import FineTunedModel
from common.methods.procedures import (
    PROCEDURES,
    Ditto,
    FedProx,
    FedRep,
    LocalProcedure,
    PerFedAvg,
    PlainProcedure,
    ProximalStep,
    Scaffold,
)
from common.orders import Order, PollKind, PollReply, UpdateState
from common.parameters.flat import views
from common.wire.messages import POLL_REPLY
from server.core.facts import RunFacts
from server.engine.coordinator import Coordinator
from server.reporting.report import build_report
from server.reporting.values import to_json
from tests.federations import digest_of, federate, make_model, small_config
from tests.training_cases import SETTINGS, make_sets, make_work, values_of
from tests.training_cases import make_model as small_model

Values = dict[str, torch.Tensor]
BODY = "encoder."


pytestmark = pytest.mark.usefixtures("one_tokenizer")


# ---- the term and the look ahead, on problems that can be worked out by hand ----

X, W = [[1.0, 0.0], [0.0, 2.0]], [[2.0, 4.0], [3.0, 5.0]]


@pytest.mark.parametrize(
    ("targets", "mu", "delta"),
    [
        ([[4.0, 6.0], [8.0, 12.0]], 0.0, [[0.5, 0.5], [1.0, 1.0]]),
        ([[4.0, 6.0], [8.0, 12.0]], 1.0, [[0.375, 0.375], [0.75, 0.75]]),
        ([[0.0, 2.0], [2.0, 4.0]], 1.0, [[-0.375, -0.375], [-0.75, -0.75]]),
        ([[4.0, 2.0], [8.0, 4.0]], 1.0, [[0.375, -0.375], [0.75, -0.75]]),
    ],
)
def test_fedprox_numbers(targets: list[list[float]], mu: float, delta: list[list[float]]) -> None:
    """Two full-batch steps of rate 0.5 on mean-over-rows absolute error, FedProx (Li et al. 2020).

    The gradient is x' sign(xw - t) / 2 = -+[[.5, .5], [1, 1]]. The first step moves by [[.25, .25], [.5, .5]], and
    the second by as much less 0.5 mu times that.
    """
    weights = torch.tensor(W, requires_grad=True)
    term = ProximalStepTerm([(weights, torch.tensor(W))], mu, ProximalStep.GRADIENT, 0.5) if mu else None
    optimizer = torch.optim.SGD([weights], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        ((torch.tensor(X) @ weights - torch.tensor(targets)).abs().sum() / 2).backward()  # type: ignore[no-untyped-call]
        if term is not None:
            term.before_step()
        optimizer.step()
    assert (weights - torch.tensor(W)).tolist() == delta


@pytest.mark.parametrize("step", list(ProximalStep))
@pytest.mark.parametrize("mu", [0.1, 1.0, 7.5])
def test_the_minimum_of_a_pulled_quadratic(step: ProximalStep, mu: float) -> None:
    """F(v) = 0.5 ||v - a||^2 has its pulled minimum at (a + mu w) / (1 + mu): Ditto (Li et al. 2021)."""
    a, w = torch.tensor([1.0, -2.0, 5.0]).double(), torch.tensor([0.5, 3.0, -1.0]).double()
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    term = ProximalStepTerm([(v, w)], mu, step, 0.1)
    optimizer = torch.optim.SGD([v], lr=0.1)
    for _ in range(1000):
        optimizer.zero_grad()
        (0.5 * (v - a).square().sum()).backward()  # type: ignore[no-untyped-call]
        term.before_step()
        optimizer.step()
        term.after_step()
    torch.testing.assert_close(v.detach(), (a + mu * w) / (1 + mu), rtol=0, atol=1e-8)


def test_a_look_ahead_finds_the_first_order_optimum() -> None:
    """F_k = 0.5 h_k (w - a_k)^2 gives sum h_k (1 - r h_k) a_k / sum h_k (1 - r h_k) (Fallah et al. 2020, FO).

    The gradient at w - r h_k (w - a_k) is h_k (1 - r h_k) (w - a_k).
    """
    clients, rate = [(1.0, 3.0), (4.0, -1.0), (2.0, 0.5)], 0.1
    w = nn.Parameter(torch.tensor(9.0, dtype=torch.float64))
    untouched = nn.Parameter(torch.tensor(1.0))
    for _ in range(2000):
        total = torch.zeros((), dtype=torch.float64)
        for h, a in clients:
            w.grad = h * (w.detach() - a)
            here = w.detach().clone()
            with looked_ahead([w, untouched], rate):
                total += h * (w.detach() - a)
            assert torch.equal(w.detach(), here)
        with torch.no_grad():
            w -= 0.05 * total
    weights = [h * (1 - rate * h) for h, _ in clients]
    optimum = sum(c * a for c, (_, a) in zip(weights, clients, strict=True)) / sum(weights)
    assert abs(w.item() - optimum) < 1e-8


# ---- one client's training ----


def settings_of(name: str, **changes: Any) -> TrainingSettings:
    """The settings of a row, whose parameters are 0 unless given."""
    row = PROCEDURES[name]
    values = {key: changes.pop(key, 0) for key in parameters_of(row)}
    procedure, own = row(**values).parts()
    return replace(SETTINGS, procedure=procedure, own_model=own, **changes)


def work_on(settings: TrainingSettings, compact: bool = False) -> tuple[Values, dict[str, float]]:
    """Values of a small model after a procedure, and its losses."""
    model = small_model()
    sets = make_sets(0)
    seen: list[float] = []
    work = make_work(model, sets, settings, seen.append, compact)
    assert (work.examples.vocabulary is not None) == compact
    losses = training_of(settings)(work, {}).losses
    assert seen == sorted(seen) and all(0 <= share < 1 for share in seen)
    assert all(parameter.requires_grad for parameter in model.parameters())
    return values_of(model), dict(losses)


def same(one: Values, other: Values, prefix: str = "") -> bool:
    return all(torch.equal(one[name], other[name]) for name in one if name.startswith(prefix))


def test_a_procedure_without_strength_is_plain_bit_for_bit() -> None:
    plain = work_on(settings_of("plain"))
    for name in ("fedprox", "ditto", "per_fedavg"):
        values, losses = work_on(settings_of(name))
        assert same(values, plain[0]) and losses == plain[1], name
    for changes in ({"mu": 0.5}, {"mu": 0.5, "proximal_step": ProximalStep.PROXIMAL}):
        assert not same(work_on(settings_of("fedprox", **changes))[0], plain[0])
    assert not same(work_on(settings_of("per_fedavg", inner_learning_rate=0.1))[0], plain[0])


def test_the_stronger_the_pull_the_smaller_the_step() -> None:
    start = values_of(small_model())

    def moved(**changes: Any) -> float:
        values = work_on(settings_of("fedprox", **changes))[0]
        return max(float((values[name] - start[name]).abs().max()) for name in start)

    steps = [moved(mu=mu, proximal_step=ProximalStep.PROXIMAL) for mu in (0.0, 10.0, 1e3, 1e6)]
    assert steps == sorted(steps, reverse=True) and steps[0] > 1e-2 and steps[-1] < 1e-5
    assert moved(mu=50.0) < steps[0] / 2


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fedprox", {"mu": 0.5}),
        ("fedprox", {"mu": 5.0, "proximal_step": ProximalStep.PROXIMAL}),
        ("fedrep", {"head_epochs": 1}),
        ("per_fedavg", {"inner_learning_rate": 0.1}),
    ],
)
def test_compact_tables_change_no_bit(name: str, changes: dict[str, Any]) -> None:
    whole, compact = (work_on(settings_of(name, **changes), compact=choice) for choice in (False, True))
    assert same(*(values for values, _ in (whole, compact))) and whole[1] == compact[1]


def test_fedrep_freezes_one_half_at_a_time() -> None:
    start = values_of(small_model())
    heads, losses = work_on(settings_of("fedrep", head_epochs=2, local_epochs=0))
    assert same(start, heads, BODY) and not any(
        torch.equal(start[name], heads[name]) for name in start if name.startswith("heads.")
    )
    assert set(losses) == {"sst2", "qqp"}
    body = work_on(settings_of("fedrep", head_epochs=0, local_epochs=1))[0]
    assert same(start, body, "heads.") and not same(start, body, BODY)
    both = work_on(settings_of("fedrep", head_epochs=2, local_epochs=1))[0]
    assert same(heads, both, "heads."), "the second phase moved a head"
    assert not same(start, both, BODY)
    nothing, losses = work_on(settings_of("fedrep", head_epochs=0, local_epochs=0))
    assert same(start, nothing) and losses == {}


def test_a_personal_model_is_pulled_to_what_it_is_not() -> None:
    model = small_model()
    before = values_of(model)
    settings = settings_of("ditto", mu=1e6, proximal_step=ProximalStep.PROXIMAL)
    travelling = frozenset(name for name in before if name.startswith(BODY))
    work = make_work(model, make_sets(0), settings, travelling=travelling)
    state = {f"{OWN}shared": torch.full_like(work.own.received["shared"], 0.3)}
    trained = training_of(settings)(work, state)
    own = views(trained.state[f"{OWN}shared"], work.own.schemas["shared"])
    shared = values_of(model)
    for name, value in own.items():
        near = (value - before[name]).abs().max() < 1e-4
        assert near == (name in travelling), f"{name}: private parameters have nothing to be pulled to"
        assert not torch.equal(value, shared[name])
    assert set(trained.scores) == {"sst2", "qqp"}


# ---- whole federations ----

FEDERATED = {
    "fedprox": ["training.procedure=fedprox", "training.procedure.mu=1.0"],
    "fedrep": ["training.procedure=fedrep", "sharing.plan=private_heads"],
    "ditto": ["training.procedure=ditto", "training.procedure.mu=0.5", "training.proximal_step=proximal"],
    "per_fedavg": ["training.procedure=per_fedavg", "training.finetune_epochs=1"],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_config(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def plain(config: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest_of(asyncio.run(federate(config, tmp_path_factory.mktemp("state"))))


def own_values(state: Path) -> dict[str, dict[str, Any]]:
    """What every client keeps, by client and scope."""
    return {path.parent.parent.name: load_file(path) for path in sorted(state.rglob("private.safetensors"))}


def report_of(coordinator: Coordinator) -> dict[str, Any]:
    journal = coordinator.journal
    return to_json(
        build_report(RunFacts(), 0, coordinator.settings.tasks, journal.rounds(), journal.clients(), "finished", "")
    )


@pytest.mark.parametrize("name", FEDERATED)
def test_every_procedure_comes_to_one_model_over_every_transport(tmp_path: Path, plain: str, name: str) -> None:
    config = small_config(tmp_path, *FEDERATED[name])
    found = [asyncio.run(federate(config, tmp_path / how, how=how, shuffle=5)) for how in ("direct", "grpc")]
    digests = {digest_of(coordinator) for coordinator in found}
    assert len(digests) == 1
    assert (digests == {plain}) == (name == "ditto"), "the global path of Ditto is that of FedAvg, and of no other"
    np.testing.assert_equal(own_values(tmp_path / "direct"), own_values(tmp_path / "grpc"))
    assert report_of(found[0]) == report_of(found[1])
    personal = report_of(found[0])["personalisation"]
    assert bool(personal) == (name in ("ditto", "per_fedavg"))


def test_no_strength_and_no_look_ahead_is_fedavg(tmp_path: Path, plain: str) -> None:
    for name, parameter in (("fedprox", "mu"), ("per_fedavg", "inner_learning_rate")):
        changes = [f"training.procedure={name}", f"training.procedure.{parameter}=0"]
        config = small_config(tmp_path, *changes, "training.finetune_epochs=1")
        assert digest_of(asyncio.run(federate(config, tmp_path / name))) == plain


def test_reptile_is_plain_deltas_and_a_server_rate(tmp_path: Path) -> None:
    """w <- w + eps mean(w_k - w) (Nichol et al. 2018): with eps = 0.5 half the step of eps = 1."""
    ends = []
    for rate in (1.0, 0.5):
        config = small_config(tmp_path, f"federation.server_learning_rate={rate}", "training.num_rounds=1")
        ends.append(asyncio.run(federate(config, tmp_path / str(rate))).vectors)
    start = make_model(config).vectors
    for scope, first in start.items():
        whole, half = (end[scope].astype(np.float64) - first.numpy() for end in ends)
        np.testing.assert_allclose(half, whole / 2, rtol=0, atol=1e-7)


def test_ditto_without_pull_is_training_alone(tmp_path: Path) -> None:
    alone = small_config(tmp_path, "sharing.plan=local", "training.max_grad_norm=0")
    ditto = small_config(tmp_path, "training.procedure=ditto", "training.procedure.mu=0", "training.max_grad_norm=0")
    asyncio.run(federate(alone, tmp_path / "alone"))
    asyncio.run(federate(ditto, tmp_path / "ditto"))
    for client, scopes in own_values(tmp_path / "ditto").items():
        lone = own_values(tmp_path / "alone")[client]
        assert all(scope.startswith("own/") for scope in scopes)
        ours = np.sort(np.concatenate(list(scopes.values())))
        np.testing.assert_array_equal(ours, np.sort(np.concatenate(list(lone.values()))))


def test_a_personal_model_with_a_strong_pull_is_the_received_one(tmp_path: Path) -> None:
    config = small_config(
        *(tmp_path, "training.procedure=ditto", "training.procedure.mu=1e6", "training.proximal_step=proximal"),
        *("sharing.plan=private_heads", "training.num_rounds=1"),
    )
    asyncio.run(federate(config, tmp_path / "state"))
    start = make_model(config).vectors
    for scopes in own_values(tmp_path / "state").values():
        np.testing.assert_allclose(scopes["own/shared"], start["shared"], rtol=0, atol=1e-5)
        for scope in scopes.keys() - {"own/shared"}:
            assert np.abs(scopes[scope] - start[scope.removeprefix("own/")].numpy()).max() > 1e-4, scope


def test_personal_scores_stand_beside_those_of_the_received_model(tmp_path: Path) -> None:
    report = report_of(asyncio.run(federate(small_config(tmp_path, *FEDERATED["ditto"]), tmp_path / "state")))
    rounds = [(entry["round"], "personal" in entry) for entry in report["tasks"]["sst2"]["history"]]
    assert rounds == [(0, False), (1, True), (2, True)], "no own model before the first round"
    found = report["personalisation"]
    assert {client: sorted(tasks) for client, tasks in found.items()} == {
        "a": ["sst2"],
        "b": ["sst2"],
        "c": ["qqp"],
        "d": ["qqp", "sst2"],
    }
    for tasks in found.values():
        for scores in tasks.values():
            assert scores["round"] == 2 and scores["personal"]["loss"] != scores["received"]["loss"]


def test_fine_tuning_touches_neither_the_published_model_nor_private_values(tmp_path: Path, plain: str) -> None:
    tuned = small_config(tmp_path, "training.finetune_epochs=2", "training.learning_rate=2e-3")
    coordinator = asyncio.run(federate(tuned, tmp_path / "tuned"))
    usual = asyncio.run(federate(small_config(tmp_path, "training.learning_rate=2e-3"), tmp_path / "usual"))
    assert digest_of(coordinator) == digest_of(usual)
    found = report_of(coordinator)
    assert sorted(found["personalisation"]) == ["a", "b", "c", "d"]
    assert [("personal" in entry) for entry in found["tasks"]["qqp"]["history"]] == [False, False, True]
    kept = own_values(tmp_path / "tuned")["d"]
    assert sorted(kept) == ["own/shared", "own/task/qqp", "own/task/sst2"]
    assert not np.array_equal(kept["own/shared"], coordinator.vectors["shared"])
    before = [small_config(tmp_path, "sharing.plan=private_heads", f"training.finetune_epochs={n}") for n in (0, 1)]
    for number, config in enumerate(before):
        asyncio.run(federate(config, tmp_path / f"private{number}"))
    for client, scopes in own_values(tmp_path / "private0").items():
        after = own_values(tmp_path / "private1")[client]
        assert scopes.keys() < after.keys()
        np.testing.assert_equal({scope: after[scope] for scope in scopes}, scopes)


# ---- settings: on the wire and in the configuration ----

ORDER = Order("o1", 1, 1, (), 60.0, Train(SETTINGS, seed=5))


ROWS = [PlainProcedure(), FedProx(0.5), FedRep(3), Ditto(0.5), PerFedAvg(0.1), Scaffold()]


@pytest.mark.parametrize("procedure", ROWS)
def test_settings_travel_with_the_order(procedure: LocalProcedure) -> None:
    handed_in, own = procedure.parts()
    training = replace(SETTINGS, procedure=handed_in, own_model=own, proximal_step=ProximalStep.PROXIMAL)
    for settings in (training, replace(training, own_model=FineTunedModel(2))):
        reply = PollReply(PollKind.ORDER, UpdateState.NONE, order=replace(ORDER, body=Train(settings, 5)))
        assert POLL_REPLY.decode(POLL_REPLY.encode(reply)) == reply


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            ["training.procedure=fedprox", "training.procedure.mu=1e4"],
            r"training.procedure.mu: .* write training.proximal_step: proximal",
        ),
        (["training.procedure=ditto", "sharing.plan=local"], "training.procedure: plan local shares nothing"),
        (["training.procedure=fedrep", "sharing.plan=full"], "training.procedure: fedrep, but plan full"),
        (
            ["training.procedure=ditto", "training.finetune_epochs=1"],
            "training.procedure: training.procedure and",
        ),
        (["training.procedure=fedavg"], "training.procedure"),
        (["training.procedure.mu=0.5"], "training.procedure.mu: not read by plain; write name: fedprox or ditto"),
        (["training.procedure={name: ditto, head_epochs: 1}"], "training.procedure.head_epochs: not read by ditto"),
        (["training.proximal_step=proximal"], "training.proximal_step: only fedprox or ditto as training.procedure"),
    ],
)
def test_the_configuration_refuses_what_contradicts_itself(tmp_path: Path, changes: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        small_config(tmp_path, *changes)
    assert small_config(tmp_path).training.settings().procedure == PlainProcedure()
