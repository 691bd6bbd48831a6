"""Single rows that are hidden in whole federations: the ledger, its budget, crashes, and what goes with it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from client.agent import Agent
from client.disclosure import what_leaves
from client.jobs.hiding import RowKeeper
from client.limits import Limits
from client.state.row_ledger import RowLedger
from client.state.store import RunStore
from common.bodies import Evaluate, Probe, RowNoise, Train, TrainingSettings
from common.clock import ManualClock
from common.config import Config, checks
from common.config.checks import Role
from common.config.render import notes
from common.errors import ConfigError, RunFailedError
from common.orders import Answer, Order
from common.privacy.accounting import Mechanism
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.federations import (
    array_config,
    digest_of,
    federate,
    make_client,
    make_model,
    small_config,
)
from tests.test_client_failures import Overheard
from tests.test_row_ledger import charges

ROWS = ("privacy.noise=rows", "privacy.noise_multiplier=1.0", "federation.min_clients=3", "privacy.delta=1e-3")
CLIENTS = (("a", ("a0",), "1/2"), ("b", ("a0",), "2/2"), ("c", ("a0", "b1"), "1/2"))


def hidden_config(*more: str, tasks: tuple[str, ...] = ("a0", "b1")) -> Config:
    return array_config(*ROWS, *more, tasks=tasks)


def give_keys(state: Path, names: str = "abcd") -> Path:
    """The secrets of clients, so that runs can be compared."""
    for number, name in enumerate(names):
        (state / name).mkdir(parents=True)
        (state / name / "rows.key").write_bytes(bytes([number]) * 32)
    return state


# ---- federations ----


def test_one_secret_gives_one_model_over_every_transport_and_another_secret_another(tmp_path: Path) -> None:
    config = hidden_config()
    found = {
        how: digest_of(asyncio.run(federate(config, give_keys(tmp_path / how), CLIENTS, how)))
        for how in ("direct", "codec", "grpc")
    }
    assert len(set(found.values())) == 1
    assert digest_of(asyncio.run(federate(config, tmp_path / "other", CLIENTS))) not in found.values()


def test_texts_are_hidden_with_frozen_and_with_trained_embeddings(tmp_path: Path) -> None:
    clients = (("a", ("sst2",), "1/2"), ("b", ("qqp",), "1/1"), ("c", ("sst2", "qqp"), "2/2"))
    for name, more in (("frozen", ["training.frozen_layers=0", "training.frozen_rounds=2"]), ("all", [])):
        config = small_config(tmp_path, *ROWS, "model.weights=random", *more)
        run = asyncio.run(federate(config, tmp_path / name, clients, "codec"))
        tables = []
        for vectors in ({}, run.vectors):
            model = make_model(config)
            model.load_vectors(vectors)
            tables.append(model.model.encoder.get_input_embeddings().weight.detach().numpy().copy())
        assert (tables[0] != tables[1]).mean() == pytest.approx(float(name == "all"), abs=1e-3)
        assert len(charges(tmp_path / name / "c")) == 4


def test_neither_losses_nor_scores_leave(tmp_path: Path) -> None:
    answers: list[Answer] = []
    save = RunStore.save

    def watched(self: RunStore, answer: Answer, private: Any) -> None:
        answers.append(answer)
        save(self, answer, private)

    with mock.patch.object(RunStore, "save", watched):
        asyncio.run(federate(hidden_config(), tmp_path, CLIENTS))
    results = [found for answer in answers for found in answer.head.results]
    assert len(results) == 3 * 4, "two rounds and a scoring one"
    assert all((found.train_loss, found.validation, found.personal) == (None, None, None) for found in results)


def test_every_order_is_charged_for_each_of_its_tasks(tmp_path: Path) -> None:
    asyncio.run(federate(hidden_config(), tmp_path, CLIENTS))
    found = charges(tmp_path / "c")
    said = [(c["task"], c["steps"], c["noise"], c["clip"]) for c in found]
    assert said == [("a0", 5, 1.0, 1.0), ("b1", 5, 1.0, 1.0)] * 2
    assert {c["chance"] for c in found} == {8 / 40}
    assert len({c["rows"] for c in found}) == 2 and len({c["key"] for c in found}) == 2


def test_head_epochs_of_fedrep_count(tmp_path: Path) -> None:
    more = ("training.procedure={name: fedrep, head_epochs: 2}", "sharing.plan=private_heads")
    asyncio.run(federate(hidden_config(*more), tmp_path, CLIENTS))
    assert [c["steps"] for c in charges(tmp_path / "a")] == [15, 15]


@pytest.mark.parametrize(
    "more",
    [
        ("training.procedure={name: fedprox, mu: 0.1}",),
        ("sharing.plan=soft", "sharing.members=clients", "relation={name: mean}"),
        ("training.finetune_epochs=1",),
        ("training.procedure={name: ditto, mu: 0.1}",),
        ("sharing.plan=private_heads", "client.trains=head"),
    ],
)
def test_what_goes_with_it_runs_and_is_charged_once_per_order(tmp_path: Path, more: tuple[str, ...]) -> None:
    asyncio.run(federate(hidden_config(*more), tmp_path, CLIENTS))
    assert [c["steps"] for c in charges(tmp_path / "a")] == [5, 5]


# ---- the budget ----


FOUND = ("privacy.epsilon=3", "privacy.noise_multiplier=null")


def test_a_budget_alone_finds_the_noise_that_lasts_for_all_rounds(tmp_path: Path) -> None:
    config = hidden_config(*FOUND, "training.num_rounds=4", "federation.round_attempts=1")
    asyncio.run(federate(config, tmp_path, CLIENTS))
    for name, _, _ in CLIENTS:
        ledger = RowLedger(tmp_path / name)
        for account in {c["rows"] for c in charges(tmp_path / name)}:
            assert 2.9 < ledger.spent(account).epsilon(1e-3) <= 3.0


def one_client(config: Config, state: Path) -> Overheard:
    """What a client reports in a run of its own, which may fail."""
    coordinator = in_memory(config, make_model(config), ManualClock())
    port = Overheard(coordinator)

    async def run() -> None:
        await coordinator.start()
        await Agent(port, make_client(config, "a", ["a0"], "1/1"), state).run()

    with pytest.raises(RunFailedError) if state.name == "fails" else mock.MagicMock():
        asyncio.run(run())
    return port


ALONE = ("federation.min_clients=1", "federation.round_attempts=1")


def test_a_client_whose_budget_is_spent_says_so_and_does_nothing(tmp_path: Path) -> None:
    config = hidden_config(*ALONE, "privacy.epsilon=0.5", tasks=("a0",))
    port = one_client(config, tmp_path / "fails")
    assert [reason for _, reason in port.reports] == ["BudgetSpent: the privacy budget of task a0 is spent"]
    assert charges(tmp_path / "fails") == [] and not port.left


def test_the_budget_goes_on_in_the_next_run(tmp_path: Path) -> None:
    state, budget = tmp_path / "fails", "privacy.epsilon=12"
    config = hidden_config(*ALONE, budget, "training.num_rounds=2", tasks=("a0",))
    (tmp_path / "ok").mkdir()
    one_client(config, tmp_path / "ok")
    (tmp_path / "ok").rename(state)
    assert len(charges(state)) == 2
    port = one_client(
        hidden_config(*ALONE, budget, "training.num_rounds=40", "training.weight_decay=0.1", tasks=("a0",)), state
    )
    assert port.reports[-1][1] == "BudgetSpent: the privacy budget of task a0 is spent"
    found = charges(state)
    assert len(found) > 2 and len({c["rows"] for c in found}) == 1
    ledger = RowLedger(state)
    spent = ledger.spent(found[0]["rows"])
    assert spent.epsilon(1e-3) <= 12 < spent.add(Mechanism(1.0, 8 / 40), 5).epsilon(1e-3)


def test_other_rows_have_an_account_of_their_own_and_their_order_does_not_matter(tmp_path: Path) -> None:
    client = make_client(hidden_config(), "a", ["a0"], "1/1")
    rows = client.data["a0"].train
    places = np.arange(len(rows))
    same, fewer = (
        replace(client, data={"a0": replace(client.data["a0"], train=rows.take(chosen))})
        for chosen in (places[::-1].copy(), places[1:])
    )
    one, other, third = (RowKeeper(c, "run", tmp_path)._digests_of("a0") for c in (client, same, fewer))
    assert one[1] == other[1] != third[1] and one[0] != other[0]


# ---- crashes ----


class Killed(Exception):
    """The client's process is gone."""


async def die(*_: object) -> None:
    raise Killed


def test_killed_between_the_charge_and_the_update_it_makes_the_same_update_and_one_line(tmp_path: Path) -> None:
    config = hidden_config(*ALONE, tasks=("a0",))
    undisturbed = in_memory(config, make_model(config), ManualClock())
    killed = in_memory(config, make_model(config), ManualClock())

    async def run(coordinator: Coordinator, state: Path) -> None:
        await Agent(coordinator, make_client(config, "a", ["a0"], "1/1"), state / "a").run()

    async def calm() -> None:
        await undisturbed.start()
        await run(undisturbed, give_keys(tmp_path / "calm"))

    async def disturbed() -> None:
        state = give_keys(tmp_path / "killed")
        await killed.start()
        with mock.patch("client.participation.keep", die), pytest.raises(Killed):
            await run(killed, state)
        assert len(charges(state / "a")) == 1, "nothing is kept before it is charged"
        await run(killed, state)

    asyncio.run(calm())
    asyncio.run(disturbed())
    assert [c["order"] for c in charges(tmp_path / "killed" / "a")] == [
        c["order"] for c in charges(tmp_path / "calm" / "a")
    ]
    assert digest_of(killed) == digest_of(undisturbed)


def test_an_update_is_on_the_disk_only_after_its_charge(tmp_path: Path) -> None:
    saved = []
    save = RunStore.save

    def watched(self: RunStore, answer: Answer, private: Any) -> None:
        if answer.order_id.startswith("train"):
            assert answer.order_id in [c["order"] for c in charges(tmp_path / answer.order_id[-1])]
            saved.append(answer.order_id)
        save(self, answer, private)

    with mock.patch.object(RunStore, "save", watched):
        asyncio.run(federate(hidden_config(), tmp_path, CLIENTS))
    assert len(saved) == 6


# ---- what is refused ----

NOISE = RowNoise(1.0, 1e-5, 10, 8.0, 1.0)
SETTINGS = TrainingSettings(1, 8, 0.1, 0.1, 0.0, 1.0, 8, keeps_scores=True, row_noise=NOISE)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (replace(SETTINGS, row_noise=None), "asks for training without noise"),
        (replace(SETTINGS, keeps_scores=False), "asks for exact scores"),
        (replace(SETTINGS, row_noise=replace(NOISE, epsilon=None)), "does not end at an epsilon of 8"),
        (replace(SETTINGS, row_noise=replace(NOISE, epsilon=9.0)), "does not end at an epsilon of 8"),
        (replace(SETTINGS, row_noise=replace(NOISE, delta=1e-4)), "has a delta of 0.0001, above 1e-05"),
        (replace(SETTINGS, row_noise=replace(NOISE, noise_multiplier=0.9)), "has less noise than 1 times the clip"),
        (replace(SETTINGS, row_noise=replace(NOISE, noise_multiplier=None)), "has less noise than 1 times the clip"),
    ],
)
def test_a_client_that_hides_its_rows_does_not_take_the_coordinators_word(
    settings: TrainingSettings, line: str
) -> None:
    limits = Limits(row_noise=NOISE, keeps_scores=True)
    with pytest.raises(ConfigError, match=f"privacy.noise: order train-1 of the coordinator {line}"):
        limits.check_order(Order("train-1", 1, 0, (), 60.0, Train(settings, 1)))
    Limits().check_order(Order("train-1", 1, 0, (), 60.0, Train(settings, 1)))


def test_orders_that_hide_rows_as_well_are_taken_and_others_never() -> None:
    limits = Limits(row_noise=NOISE, keeps_scores=True)
    better = replace(NOISE, epsilon=4.0, noise_multiplier=2.0, clip=3.0, delta=1e-6)
    for settings in (SETTINGS, replace(SETTINGS, row_noise=better)):
        limits.check_order(Order("train-1", 1, 0, (), 60.0, Train(settings, 1)))
    limits.check_order(Order("score-1", 1, 0, (), 60.0, Evaluate(replace(SETTINGS, row_noise=None), 1)))
    with pytest.raises(ConfigError, match="asks for comparing without noise"):
        limits.check_order(Order("probe-1", 1, 0, (), 60.0, Probe((), "train", 8, 1)))


def test_exact_sums_over_scores_stay_with_the_client() -> None:
    numbers = "tasks={n: {type: regression, train_samples: 20, val_samples: 10}}"
    config = hidden_config(numbers, tasks=())
    request = make_client(config, "a", ["n"], "1/1").request
    assert request.targets[0][1].mean == 0.0 and request.targets[0][1].squares == 20.0
    plain = make_client(array_config(numbers, tasks=()), "a", ["n"], "1/1").request
    assert plain.targets != request.targets


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("training.procedure={name: per_fedavg}", "training.procedure: per_fedavg does not follow gradients"),
        ("training.procedure={name: scaffold}", "training.procedure: scaffold does not follow gradients"),
        ("training.balance={name: uncertainty}", "training.balance: uncertainty weighs tasks by gradients or losses"),
        ("client.precision=bfloat16", "client.precision: gradients are clipped in float32; write float32"),
        ("data.statistics=site", "data.statistics: site scales each row by all others"),
        ("guard.enabled=true", "guard: decides by exact scores; remove it"),
        ("model.keep.best=primary", "model.keep.best: chooses by scores"),
        ("training.patience=3", "training.patience: goes by scores"),
        ("aggregation.weights={name: dynamic}", "aggregation.weights: dynamic is made of losses"),
        ("simulation.executor=ray", "simulation.executor: ray keeps no ledgers; write thread"),
        ("tasks.a0.class_weights=balanced", "tasks.a0.class_weights: balanced ones are made of counts"),
        ("tasks.a0.auxiliary=true", "auxiliary tasks are weighed by gradients of rows"),
        ("privacy.min_clients=7", "privacy.min_clients: is read with privacy.noise: coordinator alone"),
        ("privacy.noise_multiplier=null", "privacy.epsilon: missing; write a budget such as 8"),
    ],
)
def test_what_does_not_go_with_it_is_refused_at_load(more: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hidden_config(more)
    assert line in str(caught.value)


@pytest.mark.parametrize(("role", "refuses"), [("client", True), ("simulate", True), ("server", False), ("any", False)])
def test_who_makes_noise_needs_the_package(role: Role, refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    config = hidden_config()
    found = [line for line in checks.problems(config, role, frozenset()) if "cryptography" in line]
    assert bool(found) == refuses


def test_tasks_over_tokens_are_refused_at_load(tmp_path: Path) -> None:
    more = "tasks.m={type: masked_lm, train_samples: 20, val_samples: 10}"
    with pytest.raises(ConfigError, match=r"tasks.m.type: the loss of masked_lm is not one of single rows"):
        small_config(tmp_path, *ROWS, more)


def test_delta_must_be_below_one_in_the_rows_of_a_task(tmp_path: Path) -> None:
    config = hidden_config(*ALONE, "privacy.delta=0.1", tasks=("a0",))
    with pytest.raises(ConfigError, match=r"privacy.delta: 0.1 is not below one in 40 rows of task a0; write less"):
        one_client(config, tmp_path / "ok")


def test_a_procedure_of_ones_own_cannot_hide_rows(tmp_path: Path) -> None:
    config = hidden_config(*ALONE, tasks=("a0",))
    coordinator = in_memory(config, make_model(config), ManualClock())
    client = replace(make_client(config, "a", ["a0"], "1/1"), procedure=lambda work, state: None)

    async def run() -> None:
        await coordinator.start()
        await Agent(coordinator, client, tmp_path).run()

    with pytest.raises(ConfigError, match="not hidden in a procedure of one's own"):
        asyncio.run(run())


def test_simulated_clients_keep_ledgers_too(tmp_path: Path) -> None:
    config = hidden_config("simulation={clients: 4, workers: 2}")
    clients = population(config)
    asyncio.run(run_virtual_clients(config, make_model(config), clients, tmp_path))
    for client in clients:
        assert len(charges(tmp_path / client.client_id)) == 2 * len(client.tasks)


# ---- what people are told ----


def test_what_leaves_says_what_is_hidden_and_what_is_not() -> None:
    numbers = "tasks={n: {type: regression, train_samples: 20, val_samples: 10}}"
    said = "\n".join(what_leaves(hidden_config(numbers, "privacy.epsilon=8", tasks=()), ["n"]))
    assert "Single rows are hidden in them, from the coordinator too" in said and "epsilon at most 8" in said
    assert "squared deviations" not in said and "mean training loss" not in said
    plain = "\n".join(what_leaves(array_config(numbers, tasks=()), ["n"]))
    assert "Nothing is clipped, noised or masked" in plain and "squared deviations" in plain
    exact = "\n".join(what_leaves(hidden_config(numbers, "privacy.scores=exact", tasks=()), ["n"]))
    assert "not covered either (privacy.scores: exact)" in exact and "mean training loss" not in exact


def test_noise_on_word_embeddings_is_advised_against(tmp_path: Path) -> None:
    frozen = ("training.frozen_layers=0", "training.frozen_rounds=2")
    found = [
        [note for note in notes(small_config(tmp_path, *more)) if "every word embedding gets noise" in note]
        for more in (ROWS, (*ROWS, *frozen), ())
    ]
    assert [len(one) for one in found] == [1, 0, 0]
