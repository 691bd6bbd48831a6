"""Mode predict at a client: its private heads, its own models, and what it kept to answer with."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import federated_main
import fedmtl
from client.app import load_data, local_definitions, take_part
from client.data.formats import read_table
from client.data.writing import write_columns
from client.jobs.saved import load_slice
from client.state.slice import SliceFiles
from common.clock import ManualClock
from common.config import Config, vary
from common.statistics import TaskStatistics
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from server.service.grpc_server import start_server
from simulation.app import simulate
from simulation.population import VirtualClient
from tests.federations import array_config, make_model, small_config
from tests.test_client_state import Killed, killing

CLASSES = "{type: classification, labels: [no, yes]}"
SITES = {"north": 1.0, "south": -1.0}
"""How a site's labels depend on the last number: what is right in one is wrong in the other."""

HELD = {"north": ["a0", "price"], "south": ["a0"]}


def write_sites(folder: Path) -> None:
    """Rows of four numbers of very different sizes, for both sites; each labels them in its own way."""
    for seed, (site, sign) in enumerate(SITES.items()):
        rng = np.random.Generator(np.random.PCG64(seed))
        for part, count in (("train", 60), ("validation", 40)):
            x = rng.standard_normal((count, 4))
            score = x[:, 0] + 2.0 * sign * x[:, 3]
            columns = {name: (x[:, at] * 10.0**at + at).tolist() for at, name in enumerate("abcd")}
            for task, cells in (
                ("a0", ["yes" if s > 0 else "no" for s in score]),
                ("price", (500 + 90 * score).tolist()),
            ):
                (folder / site / task).mkdir(parents=True, exist_ok=True)
                write_columns(folder / site / task / f"{part}.csv", {**columns, "label": cells})


def federation(folder: Path, config: Config, tasks: dict[str, list[str]]) -> Coordinator:
    """Clients as a person starts them, over gRPC; what they keep is in `folder / "state"`."""
    coordinator = in_memory(config, make_model(config), ManualClock())

    async def play() -> None:
        server = await start_server(coordinator, "127.0.0.1", 0, None)
        here = {"client.server": f"127.0.0.1:{server.port_number}", "client.state_dir": str(folder / "state")}
        parts = [
            vary(config, {**here, "data.dir": str(folder / name)} if (folder / name).is_dir() else here)
            for name in tasks
        ]
        await coordinator.start()
        clients = [take_part(part, name, tasks[name]) for part, name in zip(parts, tasks, strict=True)]
        await asyncio.gather(*clients)
        await server.stop(0)

    asyncio.run(asyncio.wait_for(play(), 100))
    return coordinator


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Coordinator, Path]:
    folder = tmp_path_factory.mktemp("sites")
    write_sites(folder)
    return federation(folder, ditto(folder), HELD), folder


def ditto(folder: Path) -> Config:
    """Private heads, rows by their own site's scale, and a model of one's own."""
    return array_config(
        *("tasks={a0: " + CLASSES + ", price: {type: regression}}", "model.mlp={features: 4, hidden: [8]}"),
        *("sharing.plan=private_heads", "data.statistics=site"),
        *(
            "training={num_rounds: 3, local_epochs: 6, learning_rate: 0.03, procedure: ditto}",
            "federation.min_clients=2",
        ),
        f"data.dir='{folder / 'north'}'",
    )


@pytest.fixture(scope="module")
def simulated(sites: tuple[Coordinator, Path]) -> Path:
    """The run folder of the same federation in one process."""
    folder = sites[1]
    places = {site: str(folder / site) for site in SITES}
    config = vary(ditto(folder), {"simulation.sites": places, "run.run_dir": str(folder / "run"), "data.dir": None})
    clients = [VirtualClient(name, dict.fromkeys(tasks, (1, 1))) for name, tasks in HELD.items()]
    asyncio.run(simulate(config, False, None, clients))
    return folder / "run"


def predict(state: Path, task: str, given: Path, target: Path, *more: str, place: str = "--state_dir") -> int:
    words = ["--mode", "predict", place, str(state), "--task", task]
    return federated_main.main([*words, "--input", str(given), "--output", str(target), *more])


def measured(coordinator: Coordinator, client: str, task: str, model: str) -> TaskStatistics:
    """What a client said at the end of its model's scores."""
    order = next(o for o in coordinator.journal.rounds()[-1].orders.values() if o.client_id == client)
    result = next(result for result in order.results if result.task == task)
    found = result.validation if model == "received" else result.personal
    assert found is not None
    return found


def loss_of(answers: Path, truth: list[object]) -> float:
    """The cross entropy of predicted probabilities, summed."""
    found = read_table(answers).columns
    return -sum(np.log(float(found[f"predicted_p_{label}"][row])) for row, label in enumerate(truth))  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["received", "personal"])
@pytest.mark.parametrize("client", SITES)
def test_private_heads_and_own_models_answer_as_they_were_scored(
    sites: tuple[Coordinator, Path], tmp_path: Path, client: str, model: str
) -> None:
    coordinator, folder = sites
    state, rows = folder / "state" / client, folder / client / "a0" / "validation.csv"
    assert predict(state, "a0", rows, tmp_path / "answers.csv", "--model", model) == 0
    scored, truth = measured(coordinator, client, "a0", model), read_table(rows).columns["label"]
    assert loss_of(tmp_path / "answers.csv", [*truth]) == pytest.approx(scored.loss_sum, rel=1e-5)
    said = read_table(tmp_path / "answers.csv").columns["predicted_label"]
    assert sum(a == b for a, b in zip(said, truth, strict=True)) == scored.right


@pytest.mark.parametrize("model", ["received", "personal"])
@pytest.mark.parametrize(("client", "task"), [("north", "a0"), ("south", "a0"), ("north", "price")])
def test_a_simulated_client_answers_like_one_over_grpc(
    sites: tuple[Coordinator, Path], simulated: Path, tmp_path: Path, client: str, task: str, model: str
) -> None:
    folder, rows = sites[1], sites[1] / client / task / "validation.csv"
    assert predict(folder / "state" / client, task, rows, tmp_path / "real.npz", "--model", model) == 0
    words = ("--client_id", client, "--model", model)
    assert predict(simulated, task, rows, tmp_path / "simulated.npz", *words, place="--run_dir") == 0
    with np.load(tmp_path / "real.npz") as real, np.load(tmp_path / "simulated.npz") as found:
        for name in set(real.files) - {"predicted_label", "label"}:
            np.testing.assert_allclose(found[name].astype(float), real[name].astype(float), rtol=1e-6, atol=1e-6)


def test_python_and_exports_have_a_simulated_client_too(
    sites: tuple[Coordinator, Path], simulated: Path, tmp_path: Path
) -> None:
    rows = read_table(sites[1] / "north" / "price" / "validation.csv").columns
    x = np.array([[float(str(cell)) for cell in rows[name]] for name in "abcd"]).T
    run = fedmtl.load(simulated)
    prices = np.asarray(run.predict("price", x, client="north"))
    np.testing.assert_allclose(
        run.model("price", client="north")(torch.from_numpy(x))[:, 0].detach(), prices, rtol=1e-5
    )
    words = ["--run_dir", str(simulated), "--client_id", "north", "--task", "price", "--out", str(tmp_path / "out")]
    assert federated_main.main(["--mode", "export", *words]) == 0
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    np.testing.assert_allclose(program(torch.from_numpy(x).float())[:, 0].detach(), prices, rtol=1e-5)
    frame = pytest.importorskip("pandas").DataFrame(dict(zip("dbca", x.T[[3, 1, 2, 0]], strict=True)))
    np.testing.assert_array_equal(run.predict("price", frame, client="north"), prices)
    for call, said in (
        (
            lambda: run.predict("price", x),
            r"only its clients can use it, from what they keep: .* --client_id \(in Python: client",
        ),
        (
            lambda: run.predict("price", x, client="west"),
            "has nothing of client 'west' alone, only of north, south; leave",
        ),
        (lambda: run.predict("price", x, 1, "north"), "version: a client has what it ended with"),
        (lambda: run.predict("price", frame.drop(columns="a"), client="north"), "no column is called 'a'"),
    ):
        with pytest.raises(fedmtl.FedMTLError, match=said):
            call()
    assert predict(simulated / "clients" / "north", "a0", tmp_path, tmp_path / "no.csv") == 5


def test_scores_come_in_the_units_of_the_targets(sites: tuple[Coordinator, Path], tmp_path: Path) -> None:
    coordinator, folder = sites
    rows = folder / "north" / "price" / "validation.csv"
    # The columns come in another order, and are found by the names that the client trained on.
    columns = read_table(rows).columns
    write_columns(tmp_path / "rows.csv", {name: [*columns[name]] for name in ("d", "label", "b", "a", "c")})
    where = folder / "state"
    assert predict(where, "price", tmp_path / "rows.csv", tmp_path / "out.npz", "--client_id", "north") == 0
    with np.load(tmp_path / "out.npz") as found:
        errors = found["predicted_score"] - np.array([float(str(cell)) for cell in columns["label"]])
    scored = [measured(coordinator, "north", "price", model).moments[5] for model in ("received", "personal")]
    assert min(abs(float(errors @ errors) - squares) / squares for squares in scored) < 1e-5


def test_the_better_model_answers_unless_another_is_asked_for(
    sites: tuple[Coordinator, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator, folder = sites
    for client in SITES:
        right = {model: measured(coordinator, client, "a0", model).right for model in ("received", "personal")}
        better = "personal" if right["personal"] > right["received"] else "received"
        state, rows = folder / "state" / client, folder / client / "a0" / "validation.csv"
        assert predict(state, "a0", rows, tmp_path / f"{client}.csv") == 0
        line = capsys.readouterr().out.splitlines()[-1]
        shares = f"received {right['received'] / 40:.4g}, personal {right['personal'] / 40:.4g}"
        assert (
            f"answered by the {better} model (the better one, accuracy: {shares}) of client {client}, round 3" in line
        )


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--state_dir", "nowhere", "--task", "a0"], 5, "'.*nowhere' does not exist; give what --state_dir was"),
        (["--state_dir", "empty", "--task", "a0"], 5, "'.*empty' holds no model of a client that was trained"),
        (["--state_dir", "state", "--task", "a0"], 5, "holds 2 models; name one of '.*north.*', '.*south"),
        (["--state_dir", "state/south", "--task", "price"], 4, "'price' is none that this client trained; it has a0"),
        (["--state_dir", "state/mixed", "--task", "a0"], 5, "scope 'shared' is made of: a file is of another run"),
        (["--state_dir", "state/cut", "--task", "a0"], 5, "received.safetensors' is damaged .*; bring it back"),
        (["--run_dir", "run", "--task", "a0", "--model", "personal"], 2, "--model: a run folder has one model"),
        (["--task", "a0"], 2, "one of the arguments --run_dir --state_dir is required"),
    ],
)
def test_what_a_client_cannot_answer_is_one_line(
    sites: tuple[Coordinator, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    line: str,
) -> None:
    folder = sites[1]
    (tmp_path / "empty").mkdir()
    for name, spoil in (("mixed", foreign), ("cut", cut), ("north", None), ("south", None)):
        kept = tmp_path / ("state" if spoil is None else "spoilt") / name
        kept.parent.mkdir(exist_ok=True)
        source = folder / "state" / ("south" if spoil is None and name == "south" else "north")
        copy(next(path for path in source.iterdir() if path.is_dir()), kept / "run")
        if spoil is not None:
            spoil(kept / "run")
    given = [
        str(tmp_path / word.replace("state/mixed", "spoilt/mixed").replace("state/cut", "spoilt/cut"))
        if words[at - 1] in ("--state_dir", "--run_dir") and at
        else word
        for at, word in enumerate(words)
    ]
    rows = folder / "north" / "a0" / "validation.csv"
    out = tmp_path / "answers.csv"
    assert federated_main.main(["--mode", "predict", *given, "--input", str(rows), "--output", str(out)]) == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(line, said), said
    assert not out.exists()


def copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def foreign(folder: Path) -> None:
    files = SliceFiles(folder)
    received = files.received()
    assert received is not None
    files.keep(replace(received, digests={"shared": "0" * 64}))


def cut(folder: Path) -> None:
    path = folder / "received.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def test_statistics_of_batch_normalisation_that_stayed_with_a_client_answer_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = array_config(
        "model={server_model: conv1d, conv1d: {shape: [12, 2], filters: [4], norm: batch, hidden: 6}}",
        *("federation.min_clients=2", "data.partition=1/2"),
    )
    coordinator = federation(tmp_path, config, {"a": ["a0", "b1"], "b": ["a0"]})
    for client in "ab":
        rows = load_data(config, local_definitions(config, ["a0"]))["a0"].validation
        np.savez(tmp_path / f"{client}.npz", x=np.asarray(rows.values))  # type: ignore[attr-defined]
        target = tmp_path / f"{client}.csv"
        assert predict(tmp_path / "state" / client, "a0", tmp_path / f"{client}.npz", target) == 0
        truth = [("no", "yes")[int(label)] for label in rows.labels]  # type: ignore[call-overload]
        scored = measured(coordinator, client, "a0", "received")
        assert loss_of(target, [*truth]) == pytest.approx(scored.loss_sum, rel=1e-5)


def test_a_client_exports_its_model_with_its_scale_units_and_private_head(
    sites: tuple[Coordinator, Path], tmp_path: Path
) -> None:
    folder, rows = sites[1], sites[1] / "north" / "price" / "validation.csv"
    columns = read_table(rows).columns
    values = torch.tensor([[float(str(cell)) for cell in columns[name]] for name in "abcd"]).T
    for model in ("received", "personal"):
        words = ["--state_dir", str(folder / "state" / "north"), "--task", "price", "--model", model]
        assert federated_main.main(["--mode", "export", *words, "--out", str(tmp_path / model)]) == 0
        assert predict(folder / "state" / "north", "price", rows, tmp_path / f"{model}.npz", "--model", model) == 0
        program = torch.export.load(tmp_path / model / "model.pt2").module()
        with np.load(tmp_path / f"{model}.npz") as found:
            expected = torch.from_numpy(found["predicted_score"])
        torch.testing.assert_close(program(values)[:, 0].double(), expected, rtol=1e-5, atol=1e-3)
    text = (tmp_path / "personal" / "README.md").read_text()
    assert "| client | north |" in text and "validation rows of this client" in text and "private/price" in text


def test_texts_are_answered_by_a_private_head(tmp_path: Path) -> None:
    config = small_config(tmp_path, "sharing.plan=private_heads", "federation.min_clients=1", tasks=("sst2",))
    coordinator = federation(tmp_path, config, {"a": ["sst2"]})
    rows: Any = load_data(config, local_definitions(config, ["sst2"]))["sst2"].validation
    lines = (json.dumps({"sentence": row.text}) for row in rows)
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    assert predict(tmp_path / "state", "sst2", tmp_path / "rows.jsonl", tmp_path / "answers.csv") == 0
    truth: list[object] = [("negative", "positive")[row.label] for row in rows]
    scored = measured(coordinator, "a", "sst2", "received")
    assert loss_of(tmp_path / "answers.csv", truth) == pytest.approx(scored.loss_sum, rel=1e-5)


def test_a_client_killed_while_it_keeps_its_model_has_the_one_before_or_the_new_one(
    sites: tuple[Coordinator, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next(path for path in (sites[1] / "state" / "north").iterdir() if path.is_dir())
    for steps in (1, 2, 3):
        folder = tmp_path / str(steps)
        copy(source, folder)
        files = SliceFiles(folder)
        description, received = files.description(), files.received()
        assert description is not None and received is not None
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Path, "rename", killing(Path.rename, [steps]))
            files.describe(description, files.config.read_text())
            files.keep(replace(received, version=received.version + 1))
        kept = load_slice(folder)
        assert kept.received.version == received.version and kept.description.tasks == description.tasks
