"""Tasks and rounds that are added to a run: what was there stays bit for bit; a death in between leaves no trace."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from client.jobs.job import Job, JobResult, run_job
from client.jobs.synchronizer import ClientModelSynchronizer
from client.training.work import ClientState
from common.clock import ManualClock
from common.config import Config
from common.errors import RunFolderError
from server.core.open_round import OrderState
from server.core.phases import Phase
from server.reporting.values import to_json
from server.runs.app import continue_run, restore_run
from server.runs.extension import same_federation
from server.runs.run_folder import RunFolder
from server.runs.saved import load_run
from server.storage.files import write_whole
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles
from simulation.app import simulate
from tests.crashes import Cast, Crash, Gate, Line, Mortal, crash_and_recover, model_made_here, prepare_run
from tests.federations import CLIENTS, array_config, make_model, small_config

MORE = (*CLIENTS, ("e", ("stsb",), "1/1"))
CHOICES = {
    "hard": (),
    "adam": ("aggregation={optimizer: adam, task_optimizer: momentum}", "federation.server_learning_rate=1e-3"),
    "full with ditto": ("sharing.plan=full", "training.procedure=ditto"),
    "copies of members": ("sharing.plan=soft",),
    "heads in one private scope": ("sharing.plan=rules", "sharing.rules=[{'heads.*': private}, {'*': shared}]"),
}
"""What a new head is: a scope of its own, one with moments, a part of what all share and own, of what they keep."""


pytestmark = pytest.mark.usefixtures("one_tokenizer")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.participation.RETURN_SECONDS", 0.01)


def configs(folder: Path, *changes: str) -> tuple[Config, Config]:
    """The federation with two tasks, and the same with another one, named first."""
    whole = small_config(folder, "training.num_rounds=4", *changes, tasks=("stsb", "sst2", "qqp"))
    two = {name: section for name, section in whole.tasks.items() if name != "stsb"}
    return whole.model_copy(update={"tasks": two}), whole


def coordinate(config: Config, folder: RunFolder, journal: Journal) -> Mortal:
    federation, rules, schemas, state = restore_run(config, folder, journal)
    files = JournalledModels(ModelFiles(folder.path, schemas), journal)
    return Mortal(rules, state, federation, journal, files, ManualClock(100.0))


def go_on(config: Config, folder: RunFolder, journal: Journal) -> Config:
    with model_made_here():
        return continue_run(config, folder, journal)


def by_name(coordinator: Mortal) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    schemas = coordinator._federation.schemas
    vectors = {**coordinator.vectors, **coordinator._federation.private_vectors}
    return {
        (scope, entry.name): vectors[scope][entry.offset : entry.offset + entry.count].copy()
        for scope in vectors
        for entry in schemas[scope].entries
    }


async def two_rounds_and_two_more(
    few: Config, more: Config, place: Path
) -> tuple[Mortal, dict[tuple[str, str], Any], dict[tuple[str, str], Any], dict[str, int]]:
    """Drain after round 2, add a task, go on with the same clients; values at both ends of the pause."""
    folder, line = RunFolder.resume(place / "run"), Line()
    journal = Journal(folder.journal)
    first = coordinate(few, folder, journal)
    await first.start()
    line.connect(first)
    cast, gate = Cast(more, MORE), Gate(line, "d")  # type: ignore[arg-type]
    agents = asyncio.gather(*(cast.agent(n, gate if n == "d" else line, place).run() for n in "abcd"))
    gate.let_through("train-1.1")
    await gate.reached("train-2.1")
    await first.drain()
    gate.let_through("train-2.1")
    await asyncio.wait_for(first.writer.ended(), 60)
    before = by_name(first)
    line.cut()
    first.dead.set()
    journal.close()
    for name in ("train-3.1", "train-4.1", "evaluate-4.1"):
        gate.let_through(name)
    journal = Journal(folder.journal)
    second = coordinate(go_on(more, folder, journal), folder, journal)
    after, versions = by_name(second), dict(second.state.versions)
    await second.start()
    line.connect(second)
    await asyncio.wait_for(asyncio.gather(agents, cast.agent("e", line, place).run()), 100)
    return second, before, after, versions


@pytest.mark.parametrize("choice", CHOICES)
def test_a_task_joins_a_run_and_nothing_else_changes(
    tmp_path: Path, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, more = configs(tmp_path, *CHOICES[choice])
    prepare_run(few, tmp_path / "run")
    kept: dict[tuple[str, str], Mapping[str, torch.Tensor]] = {}

    def watched(job: Job, replica: ClientModelSynchronizer, state: ClientState) -> JobResult:
        result = run_job(job, replica, state)
        kept[job.order.order_id, "before"], kept[job.order.order_id, "after"] = dict(state), result.state
        return result

    monkeypatch.setattr("client.jobs.executor.run_job", watched)
    coordinator, before, after, versions = asyncio.run(two_rounds_and_two_more(few, more, tmp_path))
    fresh = {name: value.detach().numpy().ravel() for name, value in make_model(more).model.named_parameters()}
    assert {name for _, name in set(after) - set(before)} == {n for n in fresh if n.startswith("heads.stsb.")}
    for (scope, name), values in after.items():
        np.testing.assert_array_equal(values, before.get((scope, name), fresh[name]), err_msg=f"{scope}: {name}")
    still = {scope for scope in coordinator.settings.schemas if "stsb" in scope}
    assert {scope for scope, version in versions.items() if version != 2} == still
    assert [task.name for task in coordinator.settings.tasks] == ["sst2", "qqp", "stsb"]
    assert coordinator.state.phase is Phase.FINISHED and coordinator.state.completed_rounds == 4
    rounds = coordinator.journal.rounds()
    assert all(order.state is OrderState.ACCEPTED for round_ in rounds for order in round_.orders.values())
    assert [len(round_.orders) for round_ in rounds] == [4, 4, 4, 5, 5]
    for client in "abcd":
        then, now = kept[f"train-2.1-{client}", "after"], kept[f"train-3.1-{client}", "before"]
        assert then.keys() == now.keys()
        for scope, vector in then.items():
            np.testing.assert_array_equal(now[scope][: len(vector)], vector, err_msg=f"{client} lost {scope}")


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_a_death_while_a_task_joins_and_later_leaves_no_trace(tmp_path: Path, choice: str) -> None:
    few, more = configs(tmp_path, *CHOICES[choice])
    prepare_run(few, tmp_path / "template")
    asyncio.run(rounds_of(few, tmp_path / "template", Cast(few), tmp_path / "before"))
    expected, deaths = {}, 0
    while True:
        place = tmp_path / str(deaths)
        shutil.copytree(tmp_path / "template", place)
        died = dies_after(more, place, deaths)
        folder = RunFolder.resume(place)
        journal = Journal(folder.journal)
        go_on(more, folder, journal)
        journal.close()
        model = load_run(place).model
        found = {scope: vector.numpy().tobytes() for scope, vector in model.vectors.items()}
        found |= {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*.safetensors")}
        expected = expected or found
        assert found == expected, f"died after write {deaths}"
        deaths += 1
        if deaths > 1 and not died:
            break
    assert deaths > 4
    if choice in ("hard", "full with ditto"):
        die_in_the_next_rounds(in_order(more), tmp_path)


def die_in_the_next_rounds(config: Config, place: Path) -> None:
    """With the clients that the run knows: which round a newcomer is in time for is a matter of chance."""
    cast = Cast(config)

    def attempt(name: str, step: int | None) -> tuple[str, list[str]]:
        return asyncio.run(crash_and_recover(config, place / "0", place / name, cast, step, False))

    whole, effects = attempt("whole", None)
    store = effects.index("StoreVersion") + 1
    for step in (3, store, store + 1):
        digest, _ = attempt(f"step {step}", step)
        assert digest == whole, f"died after effect {step}, {effects[step - 1]}"


def in_order(more: Config) -> Config:
    names = ("sst2", "qqp", "stsb")
    return more.model_copy(update={"tasks": {name: more.tasks[name] for name in names}})


async def rounds_of(config: Config, path: Path, cast: Cast, state: Path) -> None:
    """Two rounds of a run, which then stops."""
    folder = RunFolder.resume(path)
    journal = Journal(folder.journal)
    coordinator = coordinate(config, folder, journal)
    await coordinator.start()
    gate = Gate(coordinator, "d")
    agents = [asyncio.ensure_future(cast.agent(n, gate if n == "d" else coordinator, state).run()) for n in cast.names]
    gate.let_through("train-1.1")
    await gate.reached("train-2.1")
    await coordinator.drain()
    gate.let_through("train-2.1")
    await asyncio.wait_for(coordinator.writer.ended(), 60)
    for agent in agents:
        agent.cancel()
    await asyncio.wait(agents)
    journal.close()


def dies_after(config: Config, place: Path, writes: int) -> bool:
    """Whether the extension of a run died after so many of its writes (0: it is not begun)."""
    done = 0
    if not writes:
        return False

    def mortal(write: Any) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            written = write(*arguments, **named)
            done += 1
            if done == writes:
                raise Crash
            return written

        return wrapped

    folder = RunFolder.resume(place)
    journal = Journal(folder.journal)
    try:
        with (
            mock.patch.object(RunFolder, "write", mortal(RunFolder.write)),
            mock.patch("server.runs.extension.write_whole", mortal(write_whole)),
            mock.patch.object(Journal, "commit", mortal(Journal.commit)),
        ):
            go_on(config, folder, journal)
    except Crash:
        return True
    finally:
        journal.close()
        folder._lock.close()
    return False


def test_a_simulation_is_prolonged_and_gets_a_task(tmp_path: Path) -> None:
    changes = ["simulation.clients=6", f"run.run_dir='{tmp_path / 'run'}'"]
    few = array_config(*changes, tasks=("a0", "b1"))
    with model_made_here():
        first = to_json(asyncio.run(simulate(few, False, None)))
        assert (first["status"], first["rounds_completed"]) == ("finished", 2)
        longer = array_config(*changes, "training.num_rounds=3", tasks=("a0", "b1"))
        second = to_json(asyncio.run(simulate(longer, True, None)))
        assert (second["status"], second["rounds_completed"]) == ("finished", 3)
        more = array_config(*changes, "training.num_rounds=5", tasks=("c2", "b1", "a0"))
        third = to_json(asyncio.run(simulate(more, True, None)))
        fewer = array_config(*changes, "simulation.clients=5", "training.num_rounds=6", tasks=("a0", "b1", "c2"))
        with pytest.raises(RunFolderError, match=r"simulation: 5 clients, but the run has 'client-6' too"):
            asyncio.run(simulate(fewer, True, None))
    assert (third["status"], third["rounds_completed"]) == ("finished", 5)
    assert {entry["failed"] for entry in third["clients"].values()} == {0}
    assert list(third["tasks"]) == ["a0", "b1", "c2"]
    assert third["tasks"]["c2"]["rounds_trained"] == 2 and third["tasks"]["a0"]["rounds_trained"] == 5
    assert [entry["round"] for entry in third["tasks"]["c2"]["history"]] == [3, 4, 5]
    assert [entry["round"] for entry in third["tasks"]["a0"]["history"]] == [0, 1, 2, 3, 4, 5]
    json.dumps(third, allow_nan=False)


def test_a_task_does_not_join_a_run_that_is_over(tmp_path: Path) -> None:
    changes = ["simulation.clients=3", f"run.run_dir='{tmp_path / 'run'}'"]
    with model_made_here():
        asyncio.run(simulate(array_config(*changes), False, None))
        late = array_config(*changes, tasks=("a0", "b1", "c2"))
        with pytest.raises(RunFolderError, match=r"tasks.c2: the run is over after 2 rounds; raise training.num_roun"):
            asyncio.run(simulate(late, True, None))


def test_a_run_of_five_rounds_is_one_of_two_that_was_prolonged(tmp_path: Path) -> None:
    def run(name: str, rounds: int, resume: bool) -> str:
        place = f"run.run_dir='{tmp_path / name}'"
        config = array_config("simulation.clients=4", f"training.num_rounds={rounds}", place)
        with model_made_here():
            digest: str = asyncio.run(simulate(config, resume, None)).model_digest
        return digest

    run("parts", 2, False)
    assert run("parts", 5, True) == run("whole", 5, False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["model.max_length=16"], "model.max_length: 16 differs from the run's 32"),
        (["tasks.sst2.train_samples=8"], "tasks.sst2.train_samples: 8 differs from the run's 24"),
        (["sharing.plan=full"], "sharing.plan: full differs from the run's hard"),
        (["aggregation.weights=uniform"], "aggregation.weights.name: uniform differs from the run's examples"),
        (["run.seed=1"], "run.seed: 1 is not the run's 42"),
    ],
)
def test_whatever_else_differs_is_refused_by_its_key(tmp_path: Path, changes: list[str], problem: str) -> None:
    before, now = small_config(tmp_path), small_config(tmp_path, *changes, tasks=("sst2", "qqp", "stsb"))
    with pytest.raises(RunFolderError) as caught:
        same_federation(before, now, tmp_path)
    assert str(caught.value).startswith(problem) and "\n" not in str(caught.value)


def test_a_task_cannot_be_taken_away_and_order_does_not_matter(tmp_path: Path) -> None:
    before = small_config(tmp_path)
    with pytest.raises(RunFolderError, match=r"tasks.qqp: missing, but a task of the run"):
        same_federation(before, small_config(tmp_path, tasks=("sst2",)), tmp_path)
    turned = same_federation(before, small_config(tmp_path, tasks=("qqp", "stsb", "sst2")), tmp_path)
    assert list(turned.tasks) == ["sst2", "qqp", "stsb"]
