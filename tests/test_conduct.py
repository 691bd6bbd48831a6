"""One client of five that lies is found by name, moves little under a bound by the median, and closes only itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from common.clock import ManualClock
from common.errors import ConfigError, Reason, Refused, RunFolderError
from common.orders import PollKind, Progress
from common.ports import CoordinatorPort
from federated_main import main
from server.aggregation.strategy import strategy_of
from server.core.answers import answer_poll, describe
from server.core.conduct import NO_OFFENCES, NOT_MEASURED, OFFENCES, Conduct, Norms
from server.core.effects import Combine, Commit, Notice
from server.core.events import Combined, Outcome, Started, UpdateRefused
from server.core.state import FederationState
from server.engine.coordinator import Coordinator
from server.reporting.page import page_of
from server.reporting.report import norms_report
from server.runs.app import lift_quarantine, restore_run, write_report
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles
from simulation.inprocess import run_together
from tests.core_cases import Table, rules
from tests.crashes import Cast, prepare_run
from tests.federations import SubmittingPort, array_config, make_model
from tests.hands import Hands, hands_config, in_chunks
from tests.masked_cases import ALL, table_of

FIVE = ("ann", "bob", "cy", "dee", "eve")
HONEST = dict.fromkeys(FIVE[:4], 1e-3)


def norms(*lengths: float) -> Norms:
    return Norms.of(1, dict(zip("abcdefgh", lengths, strict=False)))


@pytest.mark.parametrize(
    ("lengths", "found"),
    [
        ((1.0, 1.1, 0.9, 1.05, 20.0), ("e",)),
        ((1.0, 30.0, 0.9, 20.0, 1.1, 1.2, 0.8), ("b", "d")),  # the longest first
        ((1.0, 1.0, 1.0, 1.0, 1.9), ()),  # others that are all alike make nobody an outlier
        ((1.0, 1.0, 1.0, 1.0, 2.1), ("e",)),
        ((1.0, 2.0, 4.0, 8.0, 16.0), ()),
        ((1.0, 1.1, 0.9, 1.05, 0.01), ()),  # short
        ((1.0, 1.0, 1.0, 20.0), ()),  # too few
        ((1.0, 1.0, 1.0, 0.0, 20.0), ()),  # too few that changed anything
        ((1.0, 1.1, 0.9, 1.05, math.inf), ("e",)),
    ],
)
def test_outliers_are_far_from_the_median_in_deviations_of_the_log(
    lengths: tuple[float, ...], found: tuple[str, ...]
) -> None:
    assert norms(*lengths).outliers == found


def test_the_median_is_that_of_updates_that_changed_something() -> None:
    assert norms(1.0, 3.0, 2.0, 0.0).median == 2.0 and norms(0.0).median is None and NOT_MEASURED.median is None


class Measuring(Table):
    """A core whose updates have lengths."""

    lengths: dict[str, float] = dict.fromkeys(FIVE[:4], 1.0) | {"eve": 20.0}

    def outcome(self, now: float, asked: Combine) -> Outcome:
        assert self.state.open is not None
        orders = self.state.open.orders
        return Combined(now, asked, lengths={name: self.lengths[o.client_id] for name, o in orders.items()})


def five(table: Table) -> Table:
    for name in FIVE:
        table.join(name, "sst2", "qqp")
    return table


def warnings(table: Table) -> list[Notice]:
    return [effect for effect in table.of(Notice) if isinstance(effect, Notice) and effect.warning]


def journal_of(table: Table) -> Journal:
    journal = Journal(":memory:")
    for effect in table.of(Commit):
        assert isinstance(effect, Commit)
        journal.commit(effect.records)
    return journal


def restarted(table: Table) -> Table:
    """The same core after a restart from its journal."""
    again = Table(table.settings)
    again.state = journal_of(table).restore(table.settings.schemas, 100.0)
    again.apply(Started(0.0))
    return again


def test_one_warning_per_round_names_outliers_and_the_journal_keeps_the_lengths() -> None:
    table = five(Measuring(rules(min_clients=5)))
    for name in FIVE:
        table.answer(name)
    (said,) = warnings(table)
    assert said.text.startswith("round 1: updates much longer than the median 1: eve (20 times)")
    assert said.about == {"event": "outliers", "round": 1, "client": "eve"}
    assert "much longer updates in round 1: eve" in describe(table.settings, table.state, "demo").phase
    journal = journal_of(table)
    assert journal.facts().norms == (table.state.norms,) and table.state.norms.lengths["eve"] == 20.0
    assert restarted(table).state.norms == table.state.norms
    journal.go_back(0)
    assert journal.facts().norms == ()


def test_a_report_has_the_lengths_of_few_clients_and_quantiles_of_many() -> None:
    few = norms_report(norms(1.0, 1.0, 1.0, 1.0, 20.0))
    assert few.outliers == {"e": 20.0} and few.lengths is not None and len(few.lengths) == 5 and not few.quantiles
    many = norms_report(Norms.of(3, {f"c{n}": 1.0 + n / 1000 for n in range(200)} | {"eve": 50.0}))
    assert many.lengths is None and many.outliers == {"eve": 50.0} and many.clients == 201
    assert many.quantiles == {"0": 1.0, "0.25": 1.05, "0.5": 1.1, "0.75": 1.15, "1": 50.0}


def refuse(table: Table, client: str, times: int, kind: Reason = Reason.NOT_FINITE) -> None:
    for _ in range(times):
        table.apply(UpdateRefused(table.now, client, "it is wrong", kind))


def test_so_many_offences_lead_into_quarantine_and_no_round_waits() -> None:
    table = five(Table(rules(min_clients=5, rejoin_timeout_seconds=0.0, offences=3)))
    refuse(table, "eve", 2)
    assert not table.state.conduct.quarantined
    table.join("eve", "sst2", "qqp")  # to come back changes nothing
    refuse(table, "eve", 1)
    (closed,) = [said for said in warnings(table) if said.about.get("event") == "client_quarantined"]
    assert closed.about.get("client") == "eve" and "--resume --lift eve" in closed.text
    said = len(table.effects)
    refuse(table, "eve", 5)
    assert len(table.effects) == said  # nothing is said or written any more
    for name in FIVE[:4]:
        table.answer(name)
    assert table.state.completed_rounds == 1 and table.order("ann") is not None and table.order("eve") is None
    reply = answer_poll(table.settings, table.state, table.state.clients["eve"], "", table.now)
    assert reply.kind is PollKind.WAIT and reply.waiting_for == "the operator: this client is in quarantine"
    with pytest.raises(Refused, match=r"'eve' is in quarantine: 3 answers refused .*it is wrong; ask") as refused:
        table.join("eve", "sst2", "qqp")
    assert refused.value.reason is Reason.QUARANTINED
    shown = {client.client_id: client for client in describe(table.settings, table.state, "demo").clients}
    assert (shown["eve"].activity, shown["eve"].present) == ("in quarantine", False)


def test_a_restart_keeps_quarantine_and_counts_and_the_operator_lifts_it() -> None:
    table = five(Table(rules(min_clients=5, rejoin_timeout_seconds=0.0, offences=3)))
    refuse(table, "dee", 2)
    refuse(table, "eve", 3)
    for name in FIVE[:4]:
        table.answer(name)
    again = restarted(table)
    assert again.state.conduct == Conduct({"dee": 2, "eve": 3}, table.state.conduct.quarantined)
    assert not again.state.clients["eve"].present and again.state.clients["dee"].present
    journal = journal_of(table)
    with pytest.raises(RunFolderError, match="--lift: 'dee' is not in quarantine, those are eve; leave it out"):
        lift_quarantine(journal, ["dee"])
    lift_quarantine(journal, ["eve"])
    assert journal.facts().conduct == Conduct({"dee": 2})


def test_masked_sums_go_on_without_a_client_in_quarantine_and_say_nothing_of_lengths() -> None:
    table = table_of(offences=2)
    table.answers(*ALL)
    refuse(table, "bob", 2)
    while not table.state.completed_rounds:
        table.answers(*[name for name in ALL if name != "bob"])
    assert set(table.state.conduct.quarantined) == {"bob"} and table.state.norms is NOT_MEASURED


def test_zero_offences_close_nobody() -> None:
    table = five(Table(rules(min_clients=5)))
    refuse(table, "eve", 50)
    assert not table.state.conduct.quarantined and table.order("eve") is not None


@pytest.mark.parametrize("kind", sorted(set(Reason) - OFFENCES))
def test_what_an_honest_client_may_be_refused_for_is_no_offence(kind: Reason) -> None:
    assert NO_OFFENCES.after("a", kind, "late", 1) is NO_OFFENCES
    assert kind in {
        *(Reason.TOO_LATE, Reason.CORRUPT, Reason.SUPERSEDED, Reason.UNKNOWN_CLIENT, Reason.OTHER_RUN, Reason.ENDED),
        *(Reason.UNKNOWN_TASK, Reason.TASK_MISMATCH, Reason.QUARANTINED, Reason.WITHDRAWN),
        *(Reason.FULL, Reason.NOT_ADMITTED, Reason.OTHER_IDENTITY),
    }


def test_a_client_that_is_too_slow_in_every_round_is_never_in_quarantine() -> None:
    async def play() -> FederationState:
        hands = Hands("federation.min_clients=2", "federation.offences=1", "training.num_rounds=6")
        await hands.join()

        async def too_late() -> None:
            hands.clock.advance(hands.config.federation.round_timeout_seconds - 1.0)
            for name in ("a", "b", "c"):
                await hands.coordinator.heartbeat(hands.sessions[name], Progress("", "training", 0.5))
            hands.clock.advance(1.0)
            await hands.coordinator.tick()

        for _ in range(3):
            await hands.submit("a", 1e-3)
            await hands.submit("b", 1e-3)
            with pytest.raises(Refused) as refused:
                await hands.submit("c", 1e-3, lambda payload: in_chunks(payload, 1, too_late))
            assert refused.value.reason in (Reason.CORRUPT, Reason.TOO_LATE)
        return hands.coordinator.state

    state = asyncio.run(play())
    assert state.completed_rounds == 3 and state.conduct == NO_OFFENCES and state.clients["c"].present


def test_a_client_that_sends_what_is_not_finite_closes_only_itself() -> None:
    async def play() -> Coordinator:
        hands = Hands("federation.min_clients=5", "federation.rejoin_timeout_seconds=0", "federation.offences=3")
        await hands.join(FIVE)
        for _ in range(3):
            with pytest.raises(Refused):
                await hands.submit("eve", math.nan)
        await hands.round(HONEST)
        return hands.coordinator

    state = asyncio.run(play()).state
    assert set(state.conduct.quarantined) == {"eve"} and state.completed_rounds == 1
    assert state.open is not None and state.open.order_of("eve") is None


def moved(values: Sequence[float], *overrides: str) -> list[float]:
    """How far the mean element moves in rounds in which eve sends these."""

    async def play() -> list[float]:
        hands = Hands("federation.min_clients=5", "training.num_rounds=9", *overrides)
        await hands.join(FIVE)
        found = [hands.coordinator.vectors["shared"].copy()]
        for value in values:
            await hands.round({**HONEST, "eve": value})
            found.append(hands.coordinator.vectors["shared"].copy())
        return [float(np.mean(b - a)) for a, b in pairwise(found)]

    return asyncio.run(play())


def test_a_bound_by_the_median_limits_what_one_client_moves_from_the_second_round_on() -> None:
    free = moved([2e-2, 2e-2])
    bound = moved([2e-2, 2e-2, 2e-2], "aggregation.norm_bound.median=3")
    assert free == pytest.approx([4.8e-3, 4.8e-3], rel=1e-3)  # (4 x 1 + 20) / 5
    assert bound == pytest.approx([4.8e-3, 1.4e-3, 1.4e-3], rel=1e-3)  # (4 x 1 + 3) / 5 once a median is known


def test_the_bound_is_a_number_or_a_multiple_of_the_median() -> None:
    assert strategy_of(array_config("aggregation.norm_bound=2")).bound_after(5.0) == 2.0
    by_median = strategy_of(array_config("aggregation.norm_bound={median: 3}"))
    assert by_median.bound_after(5.0) == 15.0 and by_median.bound_after(None) is None
    for value in ("{median: 0}", "{mean: 3}", "{median: x}", "'3x'", "true"):
        with pytest.raises(ConfigError, match=r"^aggregation.norm_bound[^\n]*write (e\.g\.|more)[^\n]*$"):
            array_config(f"aggregation.norm_bound={value}")


class Poisoned(SubmittingPort):
    """A port whose client makes its updates 20 times as long."""

    async def submit(self, session: Any, header: Any, chunks: Any) -> Any:
        data = b"".join([bytes(chunk) async for chunk in chunks(0)])
        longer = (np.frombuffer(data, np.float32) * 20).tobytes()

        async def pieces(offset: int) -> Any:
            yield longer[offset:]

        other = replace(header, digest=xxhash.xxh3_128_hexdigest(longer), offset=0)
        return await super().submit(session, other, pieces)


@contextmanager
def opened(config: Any, path: Path) -> Iterator[tuple[RunFolder, Journal, Coordinator]]:
    """A coordinator on disk, as it starts and as it goes on."""
    folder = RunFolder.resume(path)
    journal = Journal(folder.journal)
    federation, settings, schemas, state = restore_run(config, folder, journal)
    files = JournalledModels(ModelFiles(folder.path, schemas), journal)
    try:
        yield folder, journal, Coordinator(settings, state, federation, journal, files, ManualClock(100.0))
    finally:
        journal.close()
        folder.close()


def test_training_with_one_poisoned_client_of_five_names_it_in_log_and_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = array_config("federation.min_clients=5", "training.num_rounds=2")
    path = prepare_run(config, tmp_path / "run")
    cast = Cast(config, tuple((name, ("a0", "b1"), f"{n}/5") for n, name in enumerate(FIVE, 1)))
    with opened(config, path) as (folder, journal, coordinator):

        async def play() -> None:
            await coordinator.start()
            ports: dict[str, CoordinatorPort] = {"eve": Poisoned(coordinator)}  # type: ignore[dict-item]
            agents = [cast.agent(name, ports.get(name, coordinator), tmp_path) for name in FIVE]
            await run_together(coordinator, agents)

        asyncio.run(play())
        schemas = make_model(config).schemas
        settings, state, vectors = coordinator.settings, coordinator.state, coordinator.vectors
        report = write_report(folder, journal, settings, state, vectors, schemas)
    said = [line for line in caplog.messages if "much longer than the median" in line]
    assert len(said) == 2 and all(": eve (" in line and "ann" not in line for line in said)
    assert report.norms is not None
    assert [(found.round, list(found.outliers)) for found in report.norms] == [(1, ["eve"]), (2, ["eve"])]
    page = page_of(report, None, ())
    assert "Updates much longer than the others" in page and "In quarantine" not in page


def test_a_restart_has_the_same_bound_and_the_same_quarantine(tmp_path: Path) -> None:
    waits = "federation.min_clients=5", "federation.rejoin_timeout_seconds=0", "training.num_rounds=3"
    config = hands_config(*waits, "federation.offences=2", "aggregation.norm_bound={median: 3}")
    path = prepare_run(config, tmp_path / "run")

    async def play(coordinator: Coordinator, values: dict[str, float], wrong: int = 0) -> bytes:
        hands = Hands()
        hands.coordinator = coordinator
        await hands.join([name for name in values if name not in coordinator.state.conduct.quarantined])
        for _ in range(wrong):
            with pytest.raises(Refused):
                await hands.submit("eve", math.nan)
        for name in hands.sessions:
            if name not in coordinator.state.conduct.quarantined:
                await hands.submit(name, values[name])
        await coordinator.tick()
        return coordinator.vectors["shared"].tobytes()

    second = {**HONEST, "dee": 1.0, "eve": 1.0}

    async def both(coordinator: Coordinator) -> bytes:
        await play(coordinator, {**HONEST, "eve": 1e-3}, wrong=2)
        return await play(coordinator, second)

    with opened(config, path) as (_, _, coordinator):
        asyncio.run(play(coordinator, {**HONEST, "eve": 1e-3}, wrong=2))
        closed = coordinator.state.conduct
    with opened(config, path) as (_, _, coordinator):
        assert coordinator.state.conduct == closed and set(closed.quarantined) == {"eve"}
        found = asyncio.run(play(coordinator, second))
        assert coordinator.state.completed_rounds == 2
    with opened(config, prepare_run(config, tmp_path / "whole")) as (_, _, coordinator):
        assert asyncio.run(both(coordinator)) == found


def test_lifting_needs_a_run_to_go_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mode", "server", "--lift", "eve", "--run_dir", str(tmp_path / "run")]) == 2
    assert "--lift: 'eve' needs a run to go on with; add --resume" in capsys.readouterr().err
