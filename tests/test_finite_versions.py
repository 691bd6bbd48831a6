"""A version whose values are not all finite is never stored, whatever clients send and when the coordinator dies."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.training.balance import Famo, GradNorm
from common.config import Config
from common.errors import ModelError, RunFailedError
from common.methods.task_weights import DynamicWeights, Evidence, FamoWeights
from common.tasks import KNOWN_TASKS
from server.core.closing import LARGEST_TREND, trends
from server.core.effects import ClearSums, Combine, InstallVersion, Notice, RunEnded
from server.core.events import Outcome, VersionSpoiled
from server.core.phases import Phase
from server.engine.coordinator import Coordinator
from server.runs.model import MTLServerModel
from server.runs.preparation import prepare_run as prepare_model
from server.storage.journal import Journal
from tests.core_cases import Table, rules
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import array_config
from tests.hands import NAMES, Hands


class Spoiled(Table):
    """A core whose versions are not finite, as long as it is told so."""

    spoils = True

    def outcome(self, now: float, asked: Combine) -> Outcome:
        lengths = (("train-1.1-a", 3e38), ("train-1.1-b", 1.5))
        return VersionSpoiled(now, ("shared",), lengths) if self.spoils else super().outcome(now, asked)


def test_a_spoiled_version_changes_nothing_but_the_attempt() -> None:
    table = Spoiled(rules())
    table.join("a", "sst2")
    table.join("b", "qqp")
    before = table.state
    table.answer("a")
    effects = table.answer("b")
    assert [type(e).__name__ for e in effects if not isinstance(e, Notice)] == [
        *("Fold", "Combine", "Commit", "ClearSums", "Wake")
    ]
    (notice,) = [effect.text for effect in effects if isinstance(effect, Notice)]
    assert notice.startswith("round 1, attempt 1: values of shared would not be finite; longest updates (norms): ")
    assert "a 3e+38, b 1.5" in notice and notice.endswith("; the round starts again")
    state = table.state
    assert (state.versions, state.completed_rounds, state.losses, state.trends) == (before.versions, 0, {}, ())
    assert state.open is not None and state.open.attempt == 2
    table.spoils = False
    table.answer("a")
    table.answer("b")
    assert table.state.versions == dict.fromkeys(before.versions, 1)


def test_after_the_last_attempt_the_run_fails_and_says_why() -> None:
    table = Spoiled(rules(round_attempts=2))
    table.join("a", "sst2")
    table.join("b", "qqp")
    for _ in range(2):
        table.answer("a")
        table.answer("b")
    assert table.state.phase is Phase.FAILED
    assert "values of shared would not be finite" in table.state.reason
    assert "given up after 2 attempts (federation.round_attempts)" in table.state.reason
    assert not table.of(InstallVersion) and len(table.of(ClearSums)) == 1
    ended = [r for e in table.effects for r in getattr(e, "records", ()) if isinstance(r, RunEnded)]
    assert [record.phase for record in ended] == [Phase.FAILED]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1e100)] * 3), min_size=2, max_size=5))
def test_no_losses_make_weights_of_tasks_that_are_not_finite(rounds: list[tuple[float, ...]]) -> None:
    losses = [dict(zip(NAMES, found, strict=True)) for found in [*rounds, (1e-300, 0.0, 1.0), (1e100, 1.0, 0.5)]]
    moved = [trends(before, now) for before, now in pairwise(losses)]
    assert all(0 <= value <= LARGEST_TREND for found in moved for value in found.values())
    evidence = Evidence(NAMES, np.ones(3), np.eye(3), moved)
    for rule in (DynamicWeights(1e-3), FamoWeights(1e6, 1e6)):
        weights = rule(evidence)
        assert np.isfinite(weights).all() and abs(weights.sum() - 1.0) < 1e-9, weights


@pytest.mark.parametrize("balance", ["gradnorm", "famo"])
def test_no_losses_make_gradients_at_a_client_that_are_not_finite(balance: str) -> None:
    encoder, cpu = torch.nn.Linear(2, 1), torch.device("cpu")
    tasks = [KNOWN_TASKS["sst2"], KNOWN_TASKS["qqp"]]
    names = [task.name for task in tasks]
    chosen = GradNorm(0.1, 1e6, encoder, names, cpu) if balance == "gradnorm" else Famo(0.1, 0.0, names, cpu)
    for scale in (1e-30, 1e30):
        encoder.zero_grad()
        losses = [factor * (1.0 + encoder(torch.ones(1, 2)).sum() ** 2) for factor in (scale, 1.0)]
        chosen.backward(tasks, losses)
        chosen.after_step(tasks, losses, lambda: [torch.tensor(1.0), torch.tensor(1e-30)])
        weights = torch.softmax(chosen.logits.of(tasks), 0)  # type: ignore[attr-defined]
        assert torch.isfinite(weights).all()


HONEST = {"a": 1e-3, "b": 2e-3, "c": -3e-3}
OPTIMIZERS = ("sgd", "momentum", "adam", "yogi")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 1], ids=["first round", "second round"])
def test_a_spoiled_round_leaves_values_and_moments_and_the_next_attempt_is_as_if_it_had_not_been(
    optimizer: str, before: int
) -> None:
    async def play(spoil: bool) -> dict[str, NDArray[np.float32]]:
        hands = Hands(f"aggregation.optimizer={optimizer}", "federation.server_learning_rate=1e3")
        await hands.join()
        for _ in range(before):
            await hands.round(HONEST)
        if spoil:
            kept = hands.values()
            await hands.round({"a": 1e-3, "b": 3e38, "c": 1e-3})
            np.testing.assert_equal(hands.values(), kept)
            state = hands.coordinator.state
            assert state.completed_rounds == before and state.open is not None and state.open.attempt == 2
        await hands.round(HONEST)
        assert hands.coordinator.state.completed_rounds == before + 1
        return hands.values()

    np.testing.assert_equal(asyncio.run(play(True)), asyncio.run(play(False)))


@pytest.mark.parametrize(
    "rule",
    [
        ("aggregation.weights=task_balanced",),
        ("aggregation.weights=attention",),
        ("aggregation.conflict=upgrad",),
        ("aggregation.robust=median", "aggregation.weights=uniform"),
        ("sharing.plan=soft",),
        ("sharing.plan=soft", "relation.name=agreement", "sharing.members=clients"),
        ("sharing.plan=soft", "relation.name=graph_l1", "sharing.members=clients"),
    ],
)
def test_every_rule_of_combining_is_checked(rule: tuple[str, ...]) -> None:
    async def play() -> Coordinator:
        hands = Hands(*rule, "federation.server_learning_rate=1e3")
        await hands.join()
        for _ in range(2):
            await hands.round({"a": 3e38, "b": 2e38, "c": 2e38})
        return hands.coordinator

    coordinator = asyncio.run(play())
    assert coordinator.state.phase is Phase.FAILED
    assert re.search(r"longest updates \(norms\): a [\d.e+]+, b [\d.e+]+, c ", coordinator.state.reason)
    assert all(np.isfinite(vector).all() for vector in coordinator.vectors.values())


def test_updates_that_add_up_to_infinity_over_the_rounds_end_the_run_with_the_last_finite_version() -> None:
    async def play() -> Coordinator:
        hands = Hands()
        await hands.join()
        for _ in range(3):  # 3e38, and twice the attempt to add as much again
            await hands.round(dict.fromkeys(NAMES, 3e38))
        return hands.coordinator

    coordinator = asyncio.run(play())
    assert coordinator.state.phase is Phase.FAILED and coordinator.state.completed_rounds == 1
    assert all(np.isfinite(vector).all() for vector in coordinator.vectors.values())


CAST = (("a", ("a0",), "1/2"), ("b", ("a0", "b1"), "2/2"))


@pytest.fixture(scope="module")
def spoiling() -> Config:
    rate = "federation.server_learning_rate=1e39"
    return array_config(rate, "federation.min_clients=2", "federation.round_attempts=2", "aggregation.optimizer=adam")


@pytest.mark.parametrize("steps", [(None, *range(4, 9)), pytest.param(range(1, 13), marks=pytest.mark.slow)])
def test_a_coordinator_that_dies_after_any_effect_of_a_spoiled_round_stores_nothing(
    spoiling: Config, steps: Sequence[int | None], tmp_path: Path
) -> None:
    """Effects: Commit, Wake, twice (Fold, Fold, Combine, Commit), ClearSums and Wake between them, Wake."""
    template, cast = prepare_run(spoiling, tmp_path / "template"), Cast(spoiling, CAST)
    for dies_after in steps:
        place = tmp_path / str(dies_after)
        with pytest.raises(RunFailedError) as failed:
            asyncio.run(crash_and_recover(spoiling, template, place, cast, dies_after, clients_die=False))
        assert "would not be finite; longest updates (norms): " in failed.value.message, dies_after
        assert sorted(path.name for path in (place / "run" / "models").glob("*.safetensors")) == [
            *("0.safetensors", "private.safetensors")
        ]
        journal = Journal(place / "run" / "journal.sqlite")
        assert journal.facts().ended is Phase.FAILED and not journal.model(1), dies_after
        attempts = [round_.attempt for round_ in journal.rounds()]
        assert attempts[:2] == [1, 2], dies_after  # killed behind its end, a run tries once more
        journal.close()


def test_a_first_version_that_is_not_finite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = array_config()
    create = MTLServerModel.create

    def poisoned(*parts: object) -> MTLServerModel:
        model = create(*parts)  # type: ignore[arg-type]
        model.vectors["shared"][3] = torch.nan
        return model

    monkeypatch.setattr(MTLServerModel, "create", poisoned)
    with pytest.raises(ModelError, match=r"parameter '.*' holds NaN or infinite values"):
        prepare_model(config, tmp_path)
    assert not (tmp_path / "models").exists()
