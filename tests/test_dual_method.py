"""MOCHA's dual over a federation: one optimum by every way, and a certificate that is valid whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.state.store import RunStore
from common.config import Config
from common.errors import ConfigError, RunFolderError, StateError
from common.methods.covariance import correlations, of_graph
from common.parameters.scope import Scope
from server.core.dual_facts import Certificate
from server.reporting.page import page_of
from server.reporting.values import Report, from_json
from server.runs.card import card_facts
from server.runs.extension import same_federation
from server.runs.run_folder import RunFolder
from server.runs.saved import load_run
from server.storage.journal import Journal
from simulation.app import simulate
from simulation.population import VirtualClient
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import array_config, digest_of, federate, make_client

CLIENTS = (("a", ("a0",), "1/3"), ("b", ("a0", "b1"), "2/3"), ("c", ("a0",), "3/3"), ("d", ("b1",), "2/2"))
LINEAR = ("model.mlp={features: 5, hidden: []}", "federation.min_clients=4", "training.num_rounds=4")


def config_of(solver: str = "passes: 2, strength: 0.1", *overrides: str) -> Config:
    return array_config(*LINEAR, f"training.procedure={{name: sdca, {solver}}}", *overrides)


def require_valid(certificates: Sequence[Certificate]) -> None:
    assert certificates and all(found.gap >= -1e-9 for found in certificates), certificates


def supports_kept(state: Path, heads: Sequence[str]) -> Mapping[str, np.ndarray]:
    """What clients keep of their supports, summed by task."""
    sums: dict[str, np.ndarray] = {}
    for run in sorted(path for client in state.iterdir() for path in client.iterdir() if path.is_dir()):
        for name, values in (RunStore(run).private() or {}).items():
            if name.startswith("sdca/") and name.endswith("/support"):
                task = name.split("/")[1]
                sums[task] = sums.get(task, 0.0) + values.numpy()
    return sums


@pytest.mark.parametrize("how", ["direct", "codec", "grpc"])
def test_one_model_by_every_way_and_in_any_order_of_arrival(tmp_path: Path, how: str) -> None:
    one = asyncio.run(federate(config_of(), tmp_path / "one", CLIENTS, shuffle=1))
    other = asyncio.run(federate(config_of(), tmp_path / "other", CLIENTS, how=how, shuffle=2))
    assert digest_of(one) == digest_of(other)
    assert one.journal.certificates() == other.journal.certificates()


@pytest.mark.slow
def test_29_tasks_at_five_daemons_come_to_what_a_simulation_comes_to(tmp_path: Path) -> None:
    """The daemons have about six tasks each and talk gRPC on loopback; Sigma is learned."""
    tasks = [f"t{number:02}" for number in range(29)]
    settings = ("federation.min_clients=5", "relation={name: mocha, every: 2}", f"run.run_dir='{tmp_path / 'run'}'")
    config = array_config(*LINEAR, "training.procedure={name: sdca, strength: 0.01, passes: 5}", *settings, tasks=tasks)
    daemons = tuple((f"d{part}", tuple(tasks[part::5]), "1/1") for part in range(5))
    coordinator = asyncio.run(federate(config, tmp_path / "grpc", daemons, how="grpc", shuffle=1))
    virtual = [VirtualClient(name, dict.fromkeys(held, (1, 1))) for name, held, _ in daemons]
    asyncio.run(simulate(config, False, None, virtual))
    saved, number = load_run(tmp_path / "run"), coordinator.state.completed_rounds
    assert saved.version == number == 4
    for task in tasks:
        found = saved.vectors[f"task/{task}"]
        assert np.abs(found).max() > 0.01
        np.testing.assert_allclose(found, coordinator.vectors[f"task/{task}"], rtol=0, atol=1e-12)
    journal = Journal.read(tmp_path / "run" / "journal.sqlite")
    certificates = coordinator.journal.certificates()
    require_valid(certificates)
    for one, other in zip(certificates, journal.certificates(), strict=True):
        assert (one.primal, one.dual) == pytest.approx((other.primal, other.dual), abs=1e-9)


def test_weights_are_made_of_the_dual_variables_that_clients_keep(tmp_path: Path) -> None:
    config = config_of("passes: 1, strength: 0.1", "client.least_work=0", "relation=none")
    coordinator = asyncio.run(federate(config, tmp_path, CLIENTS))
    kept = supports_kept(tmp_path, ("a0", "b1"))
    assert coordinator.state.dual is not None
    for task, support in kept.items():
        np.testing.assert_allclose(coordinator.vectors[f"support/task/{task}"], support, rtol=0, atol=1e-12)
        rows = coordinator.state.dual.relationship.heads[f"task/{task}"].rows
        np.testing.assert_allclose(coordinator.vectors[f"task/{task}"], support / rows / 2 / 0.1, rtol=0, atol=1e-12)
    require_valid(coordinator.journal.certificates())


@pytest.mark.parametrize("plan", ["hard", "soft"])
def test_squared_losses_come_to_the_solution_of_one_linear_system(tmp_path: Path, plan: str) -> None:
    """sum_t (1/n_t) sum_i (w_t'x_i - y_i)^2 / 2 + (lambda/2) tr(W Omega W'), Omega = Sigma^-1, of two related heads."""
    strength, features = 0.05, 5
    clients = (("a", ("a0",), "1/1"), ("b", ("b1",), "1/1"))
    config = array_config(
        *LINEAR[:1],
        f"training.procedure={{name: sdca, loss: squared, strength: {strength}, passes: 20}}",
        "training.num_rounds=300",
        "training.stop_at_gap=1e-13",
        "federation.min_clients=2",
        f"sharing.plan={plan}",
        "relation={name: mean, strength: 3}",
    )
    coordinator = asyncio.run(federate(config, tmp_path, clients))
    assert "training.stop_at_gap" in coordinator.state.reason
    omega = np.linalg.inv(of_graph(np.full((2, 2), 0.5), 3.0))
    size = features + 1
    system, right = np.kron(omega * strength, np.eye(size)), np.zeros(2 * size)
    for place, (name, (task,), part) in enumerate(clients):
        examples = make_client(config, name, (task,), part).data[task].train
        x = np.append(examples.values.astype(np.float64), np.ones((len(examples), 1)), axis=1)
        here = slice(place * size, (place + 1) * size)
        system[here, here] += x.T @ x / len(x)
        right[here] = x.T @ np.where(examples.labels == 1, 1.0, -1.0) / len(x)
    wanted = np.linalg.solve(system, right).reshape(2, size).T
    heads = [name for name in coordinator.vectors if Scope.parse(name).task and not Scope.parse(name).is_derived]
    heads = [name for name in heads if not Scope.parse(name).is_template]
    found = [coordinator.vectors[name] for name in sorted(heads)]
    weights = np.stack([np.append(2 * head[features : 2 * features], 2 * head[-1]) for head in found], axis=1)
    np.testing.assert_allclose(weights, wanted, rtol=0, atol=1e-6)


def test_a_gap_ends_a_run_only_after_the_relationship_was_learned(tmp_path: Path) -> None:
    """Before that the gap is about a Sigma that is still to change."""
    settings = ("training.num_rounds=9", "training.stop_at_gap=1e3", "relation={name: mocha, every: 3}")
    coordinator = asyncio.run(federate(config_of("strength: 0.1", *settings), tmp_path, CLIENTS))
    assert [found.version for found in coordinator.journal.certificates()] == [0, 1, 2, 3, 4]
    assert "version 4: primal" in coordinator.state.reason


def test_more_than_two_labels_are_a_problem_each(tmp_path: Path) -> None:
    """Ridge regression of +1 and -1 for each label, (X'X/n + lambda m I) w = X'y/n with one head."""
    kind = "{type: classification, labels: [x, y, z], metrics: [accuracy], train_samples: 40, val_samples: 20}"
    solver = "{name: sdca, loss: squared, strength: 0.1, passes: 20, bias: 0}"
    settings = (f"training.procedure={solver}", "training.num_rounds=60", "training.stop_at_gap=1e-14")
    config = array_config(LINEAR[0], *settings, "relation=none", f"tasks={{t: {kind}}}")
    coordinator = asyncio.run(federate(config, tmp_path, (("a", ("t",), "1/1"),)))
    examples = make_client(config, "a", ("t",), "1/1").data["t"].train
    x, y = examples.values.astype(np.float64), np.eye(3)[examples.labels] * 2 - 1
    wanted = np.linalg.solve(x.T @ x / len(x) + 0.1 * np.eye(5), x.T @ y / len(x))
    head = coordinator.vectors["task/t"]
    np.testing.assert_allclose(head[:15].reshape(3, 5).T, wanted, rtol=0, atol=1e-6)
    assert not head[15:].any()
    require_valid(coordinator.journal.certificates())


def test_equal_tasks_are_found_alike_and_opposite_ones_opposite_in_any_order(tmp_path: Path) -> None:
    """Four tasks over the same rows: b has a's labels, c the opposite ones, d others."""
    rng = np.random.Generator(np.random.PCG64(1))
    x = rng.normal(size=(80, 5)).astype(np.float32)
    labels = {"a": x[:, 0] > 0, "b": x[:, 0] > 0, "c": x[:, 0] <= 0, "d": x[:, 1] > 0}
    for task, y in labels.items():
        np.savez(tmp_path / f"{task}.npz", x=x, y=y.astype(np.int64))
    kind = "{type: classification, labels: [no, yes], metrics: [accuracy]}"
    found = []
    for names in ("abcd", "dcba"):
        tasks = "tasks={" + ", ".join(f"{task}: {kind}" for task in names) + "}"
        settings = (f"data.dir='{tmp_path}'", tasks, "relation={name: mocha, floor: 1e-3}", "training.num_rounds=15")
        config = config_of("strength: 0.05, passes: 3", *settings)
        clients = tuple((f"of-{task}", (task,), "1/1") for task in names)
        coordinator = asyncio.run(federate(config, tmp_path / names, clients))
        state = json.loads(coordinator.state.relations["heads"].state)
        places = [state["members"].index(task) for task in "abcd"]
        found.append(correlations(np.array(state["covariance"]))[np.ix_(places, places)])
    one, other = found
    assert one[0, 1] > 0.9 and one[0, 2] < -0.9 and abs(one[0, 3]) < 0.5
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def require_card(path: Path, loss: str, certificates: Sequence[Certificate]) -> None:
    """The model card says how the dual was solved, and how far its version is from the optimum at most."""
    run, folder = load_run(path), RunFolder.open(path)
    rows, of_version = dict(card_facts(run, folder, "a0").rows), {found.version: found for found in certificates}
    named = f"{loss} (smoothing 0.5)" if loss == "smoothed_hinge" else loss
    told = f"sdca, loss {named}, strength 0.02, 1 passes per round, relation mocha"
    assert rows["local training"].startswith(told) and "epochs" not in rows["local training"]
    last = of_version[run.version]
    assert rows["certificate"].startswith(f"objective {last.primal:.6g}, duality gap: at most {last.gap:.2g} above")
    assert ("silent" in rows["certificate"]) is (last.silent > 0)
    first = certificates[0]
    there, before = (
        dict(card_facts(replace(run, version=version), folder, "a0").rows)
        for version in (first.version, first.version - 1)
    )
    assert f"{first.gap:.2g} above" in there["certificate"] and "certificate" not in before


@pytest.mark.parametrize("loss", ["hinge", "smoothed_hinge", "logistic", "squared"])
def test_certificates_stay_valid_with_stragglers_dropouts_and_a_relationship_that_is_learned(
    tmp_path: Path, loss: str
) -> None:
    config = config_of(
        f"loss: {loss}, strength: 0.02",
        "training.num_rounds=12",
        "relation=mocha",
        "client.least_work=0",
        "simulation={clients: 8, dropouts: 0.3}",
        "federation.client_fraction=0.6",
        f"run.run_dir='{tmp_path / 'run'}'",
    )
    asyncio.run(simulate(config, False, None))
    journal = Journal.read(tmp_path / "run" / "journal.sqlite")
    certificates = journal.certificates()
    require_valid(certificates)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [found["gap"] for found in report["certificates"]] == [found.gap for found in certificates]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["certificate"] for line in lines if "certificate" in line] == report["certificates"]
    assert all(
        0.0 <= theta <= 1.0 for line in lines for found in line.get("theta", {}).values() for theta in found.values()
    )
    page = page_of(from_json(Report, report), None, ())
    require_card(tmp_path / "run", loss, certificates)
    assert f"{certificates[-1].gap:.6g}" in page and "log10 of the gap" in page
    assert any(found.silent for found in certificates)
    assert certificates[-1].gap < 0.5 * certificates[0].gap


@pytest.mark.slow
@pytest.mark.parametrize("clients_die", [False, True], ids=["clients live on", "clients die too"])
def test_dying_after_any_effect_leaves_no_trace(tmp_path: Path, clients_die: bool) -> None:
    config = config_of("strength: 0.1", "training.num_rounds=2", "relation=mocha")
    whole = digest_of(asyncio.run(federate(config, tmp_path / "whole", CLIENTS)))
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    for dies_after in range(1, 20, 3):
        place = tmp_path / str(dies_after)
        found, _ = asyncio.run(crash_and_recover(config, template, place, cast, dies_after, clients_die))
        assert found == whole, dies_after


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("sharing.plan=full", "sharing.plan: heads must be apart"),
        ("guard=true", "guard: compares"),
        ("aggregation.robust=median", "aggregation: supports"),
        ("relation=attention", "relation: has no covariance"),
        ("training.procedure={name: sdca, loss: huber}", "training.procedure.loss: 'huber'"),
        ("federation.update_encoding=rows-bfloat16", "federation.update_encoding: supports"),
        ("client={least_work: 0.5, work: 0.2}", "client.least_work: is more"),
    ],
)
def test_what_does_not_fit_is_refused(change: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of("strength: 0.1", change)
    assert any(problem.startswith(line) for problem in caught.value.problems), caught.value.problems


def test_what_a_dual_method_alone_reads_is_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"stop_at_gap: only training.procedure: sdca reads it"):
        array_config("training.stop_at_gap=0.1")


def test_a_client_that_lost_its_dual_variables_is_told_so(tmp_path: Path) -> None:
    """Else the coordinator's sum would hold variables that nobody has, and no certificate would be valid."""
    config, longer = config_of(), config_of("passes: 2, strength: 0.1", "training.num_rounds=6")
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    asyncio.run(crash_and_recover(config, template, tmp_path / "one", cast, None, False))
    for name in "abc":
        shutil.copytree(tmp_path / "one" / name, tmp_path / "other" / name)
    run = tmp_path / "one" / "run"
    with pytest.raises(
        StateError, match=r"task b1: the dual variables here are of round 0, those in the coordinator.s sum"
    ):
        asyncio.run(crash_and_recover(longer, run, tmp_path / "other", Cast(longer, CLIENTS), None, False))


def test_clients_go_back_a_round_with_a_coordinator_from_a_backup(tmp_path: Path) -> None:
    """The run folder is of round 2, what clients keep is of round 3: the end is as if nothing was lost."""
    short, later, longer = (config_of("strength: 0.1", f"training.num_rounds={rounds}") for rounds in (2, 3, 5))
    template, cast = prepare_run(short, tmp_path / "template"), Cast(short, CLIENTS)

    def go_on(config: Config, run: str, clients: str, place: str) -> str:
        if clients:
            shutil.copytree(tmp_path / clients, tmp_path / place, ignore=shutil.ignore_patterns("run"))
        return asyncio.run(crash_and_recover(config, tmp_path / run, tmp_path / place, cast, None, False))[0]

    go_on(short, template.name, "", "backup")
    whole = go_on(longer, "backup/run", "backup", "whole")
    go_on(later, "backup/run", "backup", "later")
    assert go_on(longer, "backup/run", "later", "back") == whole
    require_valid(Journal.read(tmp_path / "back" / "run" / "journal.sqlite").certificates())


def test_a_client_that_comes_back_without_a_task_stays_in_its_problem(tmp_path: Path) -> None:
    config, longer = config_of(), config_of("passes: 2, strength: 0.1", "training.num_rounds=8")
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    asyncio.run(crash_and_recover(config, template, tmp_path / "one", cast, None, False))
    for name in "abcd":
        shutil.copytree(tmp_path / "one" / name, tmp_path / "other" / name)
    fewer = tuple((name, ("a0",) if name == "b" else tasks, part) for name, tasks, part in CLIENTS)
    run = tmp_path / "one" / "run"
    asyncio.run(crash_and_recover(longer, run, tmp_path / "other", Cast(longer, fewer), None, False))
    journal = Journal.read(tmp_path / "other" / "run" / "journal.sqlite")
    certificates = journal.certificates()
    require_valid(certificates)
    assert [found.silent for found in certificates[4:]] == [0, 1, 1, 1, 1]


def test_a_run_goes_on_with_the_problem_that_it_has(tmp_path: Path) -> None:
    before, now = config_of("strength: 0.1"), config_of("strength: 0.2")
    with pytest.raises(RunFolderError, match=r"training.procedure.strength: 0.2 differs from the run's 0.1"):
        same_federation(before, now, tmp_path)
