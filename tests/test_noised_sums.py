"""Noise of the coordinator on sums that it cannot take apart: clients clip, and whole runs come to one digest."""

from __future__ import annotations

import asyncio
import logging
from fractions import Fraction
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.jobs.summing import layouts_of, summed, trained_cells
from client.jobs.synchronizer import PayloadMemory
from client.limits import Limits
from common.bodies import RING, NoisePromise, ScopeVersion, Train
from common.errors import ConfigError
from common.orders import Order, TaskResult
from common.parameters.schema import ParameterSchema
from common.privacy.accounting import Mechanism
from common.privacy.clipping import Clip
from common.secure.layout import COUNTS
from common.secure.ring import COUNT_BITS, fraction_bits
from common.secure.terms import Circle, SumCell, SumOrder, SumPart, largest_change
from server.core.events import Started
from server.core.privacy_facts import Ledger, NoiseRules
from server.core.state import FederationState
from server.storage.journal import Journal
from tests.core_cases import SETTINGS
from tests.crashes import one_digest_whenever_it_dies
from tests.federations import array_config, digest_of, federate
from tests.masked_cases import ALL, FIVE, MaskedTable, combined, masked_rules, trained
from tests.sum_cases import TERMS, cells

CLIENTS = tuple((name, ("a0", "b1"), f"{i + 1}/4") for i, name in enumerate("abcd"))
NOISE = (
    "privacy.noise=coordinator",
    "privacy.noise_multiplier=0.5",
    "privacy.min_clients=3",
    "privacy.delta=1e-3",
    "aggregation.weights=uniform",
    "federation.min_clients=4",
)
SUMS = ("secure_aggregation.enabled=true", "secure_aggregation.min_clients=3")
UNMASKED = (*SUMS, "secure_aggregation.masks=false")
BY_TASK = ("aggregation.weights=task_balanced", "aggregation.conflict=pcgrad")
METHODS = {
    "plain": (),
    "heads longer": ("privacy.head_scale=2", "privacy.clip=0.1"),
    "by task": BY_TASK,
    "server adam": ("aggregation.optimizer=adam", "federation.server_learning_rate=1e-2"),
    "private heads, no scores": ("sharing.plan=private_heads", "privacy.scores=none"),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_masked_and_plain_sums_with_noise_come_to_one_digest(tmp_path: Path, method: tuple[str, ...]) -> None:
    ways = (("direct", None), ("codec", None), ("grpc", None), ("direct", 3))
    config = array_config(*NOISE, *SUMS, *method)
    runs = [asyncio.run(federate(config, tmp_path / f"{how}{s}", CLIENTS, how, s)) for how, s in ways]
    runs.append(asyncio.run(federate(array_config(*NOISE, *UNMASKED, *method), tmp_path / "plain", CLIENTS)))
    assert len({digest_of(run) for run in runs}) == 1
    for run in runs:
        ledger = run.journal.facts().ledger
        assert ledger is not None and ledger == run.state.ledger
        assert ledger.releases == run.state.completed_rounds == 2
        assert ledger.spent == dict.fromkeys("abcd", 2)


@pytest.mark.parametrize("method", [(), BY_TASK], ids=["plain", "by task"])
@pytest.mark.parametrize("clip", [0.05, 10.0])
def test_it_comes_close_to_the_clip_and_noise_of_a_coordinator_that_sees_single_updates(
    tmp_path: Path, clip: float, method: tuple[str, ...]
) -> None:
    """With hardly any noise, what is left are the clip, the weights and the denominators."""
    quiet = (*NOISE, *method, "privacy.noise_multiplier=1e-6", f"privacy.clip={clip}")
    summed_up = asyncio.run(federate(array_config(*quiet, *SUMS), tmp_path / "sums", CLIENTS))
    single = asyncio.run(federate(array_config(*quiet), tmp_path / "single", CLIENTS))
    for scope, vector in single.vectors.items():
        assert summed_up.vectors[scope] == pytest.approx(vector, abs=1e-4), scope


def test_without_a_clip_that_bites_it_is_the_ring_without_noise(tmp_path: Path) -> None:
    quiet = (*NOISE, "privacy.noise_multiplier=1e-6", "privacy.clip=10")
    noised = asyncio.run(federate(array_config(*quiet, *SUMS), tmp_path / "noised", CLIENTS))
    plain = array_config("aggregation.weights=uniform", "federation.min_clients=4", *SUMS)
    for scope, vector in asyncio.run(federate(plain, tmp_path / "plain", CLIENTS)).vectors.items():
        assert noised.vectors[scope] == pytest.approx(vector, abs=1e-4), scope


def test_scores_that_stay_at_home_are_in_no_sum(tmp_path: Path) -> None:
    config = array_config(*NOISE, *SUMS, "privacy.scores=none")
    rounds = asyncio.run(federate(config, tmp_path, CLIENTS)).journal.rounds()
    results = [result for round_ in rounds for result in round_.results]
    assert results and all(r.train_loss is r.validation is r.personal is None for r in results)


SCHEMAS = {
    "shared": ParameterSchema.of({"w": (5,)}),
    "task/a": ParameterSchema.of({"h": (3,)}),
    "task/b": ParameterSchema.of({"h": (3,)}),
}
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-1.0, 1.0, width=32)


def handed_in(
    deltas: dict[str, list[float]], clip: Clip, tasks: tuple[str, ...], by_task: bool, members: int = 9
) -> dict[str, list[Fraction]]:
    """The integers of one client in each cell, as what they stand for. Heads are summed over fewer clients."""
    shared = tuple(SumCell("shared", task) for task in tasks) if by_task else (SumCell("shared"),)
    heads = tuple(SumCell(f"task/{task}") for task in tasks)
    most = largest_change(TERMS, clip)
    circles = [
        Circle(str(n), found, (), n + members, fraction_bits(n + members, 1, most))
        for n, found in enumerate((heads, shared))
    ]
    sums = SumOrder(TERMS, 1, tuple(map(SumPart, circles)), one_each=True, clip=clip)
    scopes = tuple(ScopeVersion(scope, 3) for scope in SCHEMAS)
    order = Order("train-1.1-ann", 1, 0, scopes, 60.0, Train(SETTINGS, 1, RING, sums=sums), tasks)
    results = tuple(TaskResult(task, 70, None, None) for task in tasks)
    changes = {name: np.array(deltas[name], np.float32) for name in trained_cells(sums, results)}
    layouts = layouts_of(order, sums, SCHEMAS, [])
    found: dict[str, list[Fraction]] = {}
    for circle, part in zip(
        circles, cells(summed(order, layouts, results, changes, [], PayloadMemory()), layouts), strict=True
    ):
        assert set((part.pop(COUNTS) >> np.uint64(COUNT_BITS)).tolist()) == {1}
        for name, cell in part.items():
            found[name] = [Fraction(value, 1 << circle.bits) for value in cell.view(np.int32).tolist()]
    return found


def square(found: dict[str, list[Fraction]], clip: Clip) -> Fraction:
    """The squared length of a contribution, exactly."""
    scales = {name: Fraction(clip.head_scale if name.startswith("task/") else 1.0) for name in found}
    return sum((value / scales[name]) ** 2 for name, cell in found.items() for value in cell)  # type: ignore[return-value]


@given(
    st.fixed_dictionaries(
        {name: st.lists(FLOATS, min_size=s.size, max_size=s.size) for name, s in SCHEMAS.items()}
    ),
    st.builds(Clip, st.sampled_from([1e-3, 0.3, 1.0, 7.5]), st.sampled_from([0.25, 1.0, 4.0])),
    st.sampled_from([("a",), ("a", "b")]),
    st.booleans(),
    st.sampled_from([3, 1_000_000]),
)  # fmt: skip
def test_no_client_moves_the_sums_by_more_than_the_clip(
    deltas: dict[str, list[float]], clip: Clip, tasks: tuple[str, ...], by_task: bool, members: int
) -> None:
    assert square(handed_in(deltas, clip, tasks, by_task, members), clip) <= Fraction(clip.length) ** 2


def test_a_clipped_update_is_nearly_as_long_as_the_clip_and_the_client_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    deltas = {"shared": [3.0, 4.0, 0.0, 0.0, 0.0], "task/a": [0.0, 12.0, 0.0], "task/b": [84.0, 0.0, 0.0]}
    for by_task in (False, True):  # norm 85
        found = handed_in(deltas, Clip(0.25), ("a", "b"), by_task)
        assert sqrt(square(found, Clip(0.25))) == pytest.approx(0.25, abs=1e-6)
    assert [float(value) for value in found["shared (b)"][:2]] == pytest.approx(
        [x / sqrt(2) * 0.25 / 85 for x in (3, 4)], abs=1e-6
    )
    assert "has a length of 85 and is shortened to 0.25 (privacy.clip)" in caplog.text
    assert "largest_change" not in caplog.text
    found = handed_in(deltas, Clip(850.0), ("a", "b"), False)  # 84 is above the largest change
    assert float(found["task/b"][0]) == pytest.approx(0.5) and "largest_change (0.5)" in caplog.text


def test_a_client_with_limits_asks_for_a_clip() -> None:
    promise = NoisePromise(1.0, 2.0, 1e-5, 9)
    for clip, said in ((None, "comes without a clip"), (Clip(1.0), "")):
        body = Train(SETTINGS, 1, RING, noise=promise, sums=SumOrder(TERMS, 1, (), clip=clip))
        order = Order("train-1.1-ann", 1, 0, (), 60.0, body)
        Limits().check_order(order)
        if said:
            with pytest.raises(ConfigError, match=f"client.limits.epsilon: .* {said}"):
                Limits(epsilon=8.0).check_order(order)
        else:
            Limits(epsilon=8.0, sums=TERMS).check_order(order)


class Noised(MaskedTable):
    """A coordinator's core with masked sums and a ledger."""

    def apply(self, event: Any) -> Any:
        if isinstance(event, Started) and self.state.ledger is None:
            self.state = FederationState(self.state.versions, ledger=Ledger(Mechanism(4.0), 1e-5, 1.0))
        return super().apply(event)


def noised(least: int, of_sums: int = 3, **changes: Any) -> Noised:
    noise = NoiseRules(min_clients=least)
    return Noised(masked_rules(least=of_sums, noise=noise, one_each=True, min_clients=len(FIVE), **changes), FIVE)


def ledger_of(table: MaskedTable) -> Ledger:
    assert table.state.ledger is not None
    return table.state.ledger


@pytest.mark.parametrize(("least", "of_sums"), [(5, 3), (2, 5)])
def test_a_cell_of_fewer_clients_than_noise_or_sums_ask_for_is_in_no_circle(least: int, of_sums: int) -> None:
    table = noised(least, of_sums)
    order = table.order("ann")
    assert order is not None
    assert {cell.name for circle in order.body.circles for cell in circle.cells} == {"shared"}
    trained(table).answers(*ALL)
    asked = combined(table)
    assert asked.totals == {"shared": 5} and asked.noise is not None and asked.noise.cells == {"shared": 5.0}
    assert ledger_of(table).releases == 1 and ledger_of(table).spent == dict.fromkeys(ALL, 1)


def test_of_sums_by_task_each_client_is_in_those_of_its_tasks_with_weight_one() -> None:
    table = noised(3, by_task=True)
    trained(table).answers(*ALL)
    asked = combined(table)
    assert asked.rows == {"shared": {"sst2": 1, "qqp": 1}}
    three_of_two = 1 + 3 / sqrt(2)
    assert asked.noise is not None and asked.noise.cells == pytest.approx(
        {"shared (qqp)": three_of_two, "shared (sst2)": three_of_two, "task/qqp": 4.0, "task/sst2": 4.0}
    )


def test_a_sum_that_falls_short_is_not_released_and_who_went_is_not_charged() -> None:
    table = noised(3, of_sums=4)
    others = tuple(name for name in ALL if name != "bob")
    for _ in ("keys", "shares"):
        table.answers(*ALL)
    table.answers(*others)
    table.fail("bob")
    table.answers(*others)
    asked = combined(table)
    assert asked.noise is not None and asked.noise.cells == {"shared": 5.0, "task/qqp": 4.0}
    assert asked.totals == {"shared": 4, "task/qqp": 4}
    assert ledger_of(table).spent == dict.fromkeys(others, 1)
    assert table.state.versions["task/sst2"] == 0


@pytest.mark.slow
def test_a_coordinator_that_dies_after_any_effect_publishes_every_version_with_its_charge(tmp_path: Path) -> None:
    config = array_config(*NOISE, *SUMS, "federation.round_attempts=9")

    def charged(run: Path) -> None:
        ledger = Journal.read(run / "journal.sqlite").facts().ledger
        assert ledger is not None and ledger.releases == 2

    one_digest_whenever_it_dies(config, tmp_path, CLIENTS, charged)
