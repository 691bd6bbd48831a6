"""Whole runs under noise of the coordinator: one digest by every transport and through crashes, and a budget."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from common.config import Config, render
from common.privacy.accounting import Mechanism
from common.privacy.promise import NOT_COVERED
from federated_main import main
from server.runs.noise import KEY, first_ledger, key_of
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal
from tests.crashes import one_digest_whenever_it_dies
from tests.federations import CLIENTS as TEXT_CLIENTS
from tests.federations import array_config, digest_of, federate, small_config

CLIENTS = tuple((name, ("a0", "b1"), f"{i + 1}/3") for i, name in enumerate("abc"))
NOISE = (
    "privacy.noise=coordinator",
    "privacy.noise_multiplier=0.5",
    "privacy.min_clients=3",
    "privacy.delta=1e-3",
    "aggregation.weights=uniform",
    "federation.min_clients=3",
)
SIX = ("simulation.clients=6", "simulation.tasks_per_client=2")
METHODS = {
    "plain": NOISE,
    "heads longer, clip follows": (*NOISE, "privacy.head_scale=2", "privacy.clip_quantile=0.5"),
    "by task": (*NOISE, "aggregation.weights=task_balanced", "aggregation.conflict=pcgrad"),
    "server adam": (*NOISE, "aggregation.optimizer=adam", "federation.server_learning_rate=1e-2"),
    "no scores": (*NOISE, "privacy.scores=none"),
    "coins": (*NOISE, "privacy.sampling=poisson", "federation.client_fraction=0.6", "training.num_rounds=4"),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_noise_is_the_same_by_every_transport_and_in_any_order_of_arrival(
    tmp_path: Path, method: tuple[str, ...]
) -> None:
    config = array_config(*method)
    found = {
        digest_of(asyncio.run(federate(config, tmp_path / f"{how}{shuffle}", CLIENTS, how, shuffle)))
        for how, shuffle in (("direct", None), ("codec", None), ("grpc", None), ("direct", 3))
        if shuffle is None or "poisson" not in " ".join(method)
    }
    assert len(found) == 1


def test_scores_that_stay_at_home_are_in_no_record(tmp_path: Path) -> None:
    coordinator = asyncio.run(federate(array_config(*METHODS["no scores"]), tmp_path, CLIENTS))
    results = [r for round_ in coordinator.journal.rounds() for o in round_.orders.values() for r in o.results]
    assert results and all(r.train_loss is r.validation is r.personal is None for r in results)


def test_the_ledger_of_a_run_counts_what_was_published(tmp_path: Path) -> None:
    for method in ("plain", "coins"):
        coordinator = asyncio.run(federate(array_config(*METHODS[method]), tmp_path / method, CLIENTS))
        ledger = coordinator.journal.facts().ledger
        assert ledger is not None and ledger == coordinator.state.ledger
        assert ledger.releases == coordinator.state.completed_rounds
        assert ledger.spent == dict.fromkeys("abc", ledger.releases)


def test_the_noise_of_a_budget_is_found_for_all_rounds_and_lasts_for_them() -> None:
    budget = ("privacy.epsilon=8", "privacy.delta=1e-5", "training.num_rounds=20")
    config = array_config(*(text for text in NOISE if "multiplier" not in text), *budget)
    ledger = first_ledger(config)
    assert ledger is not None and ledger.limit == 20
    assert ledger.mechanism.noise_multiplier == pytest.approx(2.68431, abs=1e-4)


def test_the_key_is_for_the_coordinator_alone_and_stays(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    key = key_of(folder)
    assert len(key) == 32 and key_of(folder) == key
    assert stat.S_IMODE((folder.path / KEY).stat().st_mode) == 0o600
    folder.close()
    other = RunFolder.create(tmp_path / "other")
    assert key_of(other) != key
    other.close()


def simulated(config: Config, path: Path, *more: str) -> int:
    path.write_text(render(config))
    return main(["--mode", "simulate", "--config", str(path), *more])


def test_a_run_stops_when_its_budget_is_spent_and_resuming_publishes_nothing_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = ("privacy.noise_multiplier=4", "privacy.epsilon=2", "training.num_rounds=9", *SIX)
    config = array_config(*NOISE, *budget, f"run.run_dir='{tmp_path / 'run'}'")
    ledger = first_ledger(config)
    assert ledger is not None and ledger.limit is not None and 2 <= ledger.limit < 9
    assert simulated(config, tmp_path / "c.yaml") == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["rounds_completed"] == ledger.limit
    assert report["reason"] == f"the privacy budget is spent after {ledger.limit} releases"
    spent = {"releases": ledger.limit, "most_releases": ledger.limit, "delta": 1e-3, "noise_multiplier": 4.0}
    assert report["privacy"] | spent == report["privacy"] and 1.5 < report["privacy"]["epsilon"] <= 2
    assert not (tmp_path / "run" / KEY).exists()
    digest = report["model_digest"]
    assert simulated(config, tmp_path / "c.yaml", "--resume", "--set", "training.num_rounds=30") == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["rounds_completed"], report["model_digest"]) == (ledger.limit, digest)
    refused = simulated(config, tmp_path / "c.yaml", "--resume", "--set", "privacy.epsilon=20")
    assert refused != 0 and "privacy.epsilon: 20.0 differs from the run's 2.0" in capsys.readouterr().err


def test_a_run_that_starts_from_a_private_one_goes_on_with_its_charges(tmp_path: Path) -> None:
    first = array_config(*NOISE, *SIX, f"run.run_dir='{tmp_path / 'one'}'")
    assert simulated(first, tmp_path / "c.yaml") == 0
    more = (f"model.warm_start='{tmp_path / 'one'}'", f"run.run_dir='{tmp_path / 'two'}'")
    second = array_config(*NOISE, *SIX, "privacy.noise_multiplier=1", *more)
    assert simulated(second, tmp_path / "c.yaml") == 0
    ledger = Journal.read(tmp_path / "two" / "journal.sqlite").facts().ledger
    assert ledger is not None and [c.mechanism for c in ledger.earlier] == [Mechanism(0.5)]
    alone = Journal.read(tmp_path / "one" / "journal.sqlite").facts().ledger
    assert alone is not None and ledger.epsilon() > alone.epsilon()


@pytest.mark.slow
def test_a_coordinator_that_dies_after_any_effect_publishes_every_version_with_its_charge(tmp_path: Path) -> None:
    config = small_config(tmp_path, *NOISE)

    def charged(run: Path) -> None:
        ledger = Journal.read(run / "journal.sqlite").facts().ledger
        assert ledger is not None and ledger.releases == 2

    one_digest_whenever_it_dies(config, tmp_path, TEXT_CLIENTS, charged)


def test_page_and_model_card_say_what_epsilon_does_not_cover_and_going_back_takes_no_charge_back(
    tmp_path: Path,
) -> None:
    place = tmp_path / "run"
    assert simulated(array_config(*NOISE, *SIX, f"run.run_dir='{place}'"), tmp_path / "c.yaml") == 0
    assert main(["--mode", "report", "--run_dir", str(place)]) == 0
    export = ["--mode", "export", "--run_dir", str(place), "--task", "a0", "--format", "torch"]
    assert main([*export, "--out", str(tmp_path / "out")]) == 0
    for file in (place / "report.html", tmp_path / "out" / "README.md"):
        assert NOT_COVERED in file.read_text(encoding="utf-8"), file
    journal = Journal(place / "journal.sqlite")
    before = journal.facts().ledger
    journal.go_back(1)
    assert before is not None and before.releases == 2 and journal.facts().ledger == before
    assert journal.completed() == 1
    journal.close()
