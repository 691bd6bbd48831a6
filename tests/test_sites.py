"""Simulations of sites: a folder each, with rows of any tasks."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.agent import Agent
from client.app import load_data, local_definitions
from client.jobs.local_client import local_client
from client.transport.grpc_port import GrpcCoordinator
from common.clock import ManualClock
from common.config import Config, load_config, render
from common.errors import ConfigError, DataError
from federated_main import main
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from server.service.grpc_server import start_server
from simulation.app import simulate
from simulation.comparison.app import compare_methods
from simulation.inprocess import run_together
from simulation.population import VirtualClient, population, rows_of
from simulation.virtual_clients import run_virtual_clients
from tests.federations import array_config, digest_of, make_model
from tests.processes import log_given_back

RNG = np.random.Generator(np.random.PCG64(5))


def write_rows(path: Path, count: int, column: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = RNG.normal(size=(count, 5)).astype(np.float32)
    y = (x[:, column] > 0).astype(int)
    if path.suffix == ".npz":
        np.savez(path, x=x, y=y)
    else:
        lines = [
            ",".join(["a,b,c,d,e,label"]),
            *(",".join(map(str, [*row, label])) for row, label in zip(x, y, strict=True)),
        ]
        path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, str]:
    """Three sites: both tasks, one of them as a table, and one of them with a folder that nobody asked for."""
    write_rows(tmp_path / "n" / "a0.npz", 40, 0)
    write_rows(tmp_path / "n" / "b1.npz", 24, 1)
    write_rows(tmp_path / "s" / "a0" / "train.csv", 30, 0)
    write_rows(tmp_path / "s" / "a0" / "validation.csv", 10, 0)
    write_rows(tmp_path / "w" / "b1.npz", 32, 1)
    write_rows(tmp_path / "w" / "other.npz", 3, 1)
    return {"north": str(tmp_path / "n"), "south": str(tmp_path / "s"), "west": str(tmp_path / "w")}


def of(sites: dict[str, str], *overrides: str) -> Config:
    tasks = "tasks={" + ", ".join(f"{t}: {{type: classification, labels: [no, yes]}}" for t in ("a0", "b1")) + "}"
    return array_config(tasks, f"simulation.sites={json.dumps(sites)}", *overrides)


async def over_grpc(config: Config, state: Path, clients: list[VirtualClient]) -> Coordinator:
    """The sites as daemons, each of which is told its folder."""
    coordinator = in_memory(config, make_model(config), ManualClock())
    async with AsyncExitStack() as stack:
        server = await start_server(coordinator, "127.0.0.1", 0, None)
        stack.push_async_callback(server.stop, 0)
        agents = []
        for client in clients:
            name = client.client_id
            folder = {"source": "builtin", "dir": config.simulation.sites[name]}
            own = config.model_copy(update={"data": type(config.data).model_validate(folder)})
            definitions = local_definitions(own, client.tasks)
            local = local_client(name, definitions, load_data(own, definitions), torch.device("cpu"))
            port = await stack.enter_async_context(GrpcCoordinator("127.0.0.1", server.port_number, None, name))
            agents.append(Agent(port, local, state / name))
        await run_together(coordinator, agents)
    return coordinator


def test_sites_are_clients_with_the_tasks_of_their_files(sites, tmp_path):
    config = of(sites, "federation.min_clients=3")
    clients = population(config)
    assert [(client.client_id, client.tasks) for client in clients] == [
        ("north", ("a0", "b1")),
        ("south", ("a0",)),
        ("west", ("b1",)),
    ]
    rows = rows_of(config, clients)
    counts = {
        site: {task: (len(d.train), len(d.validation)) for task, d in mine.items()} for site, mine in rows.items()
    }
    assert counts == {"north": {"a0": (30, 10), "b1": (18, 6)}, "south": {"a0": (30, 10)}, "west": {"b1": (24, 8)}}
    virtual, _ = asyncio.run(run_virtual_clients(config, make_model(config), clients, tmp_path / "virtual"))
    assert digest_of(virtual) == digest_of(asyncio.run(over_grpc(config, tmp_path / "real", clients)))


def test_check_tells_the_rows_of_every_site(sites, capsys, tmp_path):
    path = tmp_path / "sites.yaml"
    path.write_text(render(of(sites)), encoding="utf-8")
    with log_given_back():
        assert main(["--mode", "check", "--config", str(path), "--tasks", "a0"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("at ", "a0:"))]
    assert [line.split(" validation")[0] for line in lines] == [
        "at north:",
        "a0: 30 training, 10",
        "at south:",
        "a0: 30 training, 10",
    ]


def test_a_site_may_have_one_file_of_all_tasks(tmp_path):
    x, y = RNG.normal(size=(24, 5)), RNG.integers(2, size=24)
    for site, tasks in (("n", [0, 1]), ("s", [1, 7])):
        (tmp_path / site).mkdir()
        np.savez(tmp_path / site / "all.npz", x=x, y=y, task=np.repeat(tasks, 12))
    clients = population(of({"n": str(tmp_path / "n"), "s": str(tmp_path / "s")}))
    assert [client.tasks for client in clients] == [("a0", "b1"), ("b1",)]


def test_sites_of_texts_and_of_image_files(tmp_path):
    (tmp_path / "n" / "SST-2").mkdir(parents=True)
    for split in ("train", "dev"):
        (tmp_path / "n" / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\nfine\t1\npoor\t0\n")
    config = load_config(None, ["tasks={sst2: {}}", f"simulation.sites={{n: '{tmp_path / 'n'}'}}"], "simulate")
    assert len(rows_of(config, population(config))["n"]["sst2"].train) == 2
    for split, label in (("train", "no"), ("train", "yes"), ("validation", "yes")):
        folder = tmp_path / "i" / "scan" / split / label
        folder.mkdir(parents=True)
        Image.new("L", (4, 4)).save(folder / "1.png")
    images = ["model.server_model=conv2d", "model.conv2d={shape: [1, 4, 4], filters: [2]}"]
    config = load_config(
        None,
        [
            *images,
            "tasks={scan: {type: classification, labels: [no, yes]}}",
            f"simulation.sites={{i: '{tmp_path / 'i'}'}}",
        ],
        "simulate",
    )
    assert len(rows_of(config, population(config))["i"]["scan"].train) == 2


def test_a_run_of_sites_has_their_names_and_can_be_compared(sites, tmp_path):
    config = of(sites, "training.num_rounds=1", f"run.run_dir='{tmp_path / 'run'}'")
    report = asyncio.run(simulate(config, False, None))
    assert sorted(report.clients) == ["north", "south", "west"]
    found = compare_methods(config, ["single_task", "hard"], [0], tmp_path / "compared", None)
    assert found.clients == 3
    assert sorted(found.methods["single_task"].clients) == ["north", "south", "west"]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"south": "nowhere"}, "simulation.sites.south: folder nowhere does not exist; give the site's folder"),
        ({"south": "."}, "simulation.sites.south: . has no files of a0, b1; put those of one there"),
        ({"north": None, "west": None}, "simulation.sites: no site has files of b1; give some, or leave the task out"),
    ],
)
def test_a_site_without_rows_is_refused_before_there_is_a_run(sites, changed, line, tmp_path):
    left = {site: folder for site, folder in {**sites, **changed}.items() if folder is not None}
    config = of(left, f"run.run_dir='{tmp_path / 'run'}'")
    with pytest.raises(DataError) as refused:
        asyncio.run(simulate(config, False, None))
    assert refused.value.message == line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("simulation.clients=5", "simulation.clients: sites have rows of their own, which are not dealt out"),
        ("simulation.tasks_per_client=2", "simulation.tasks_per_client: sites have rows of their own"),
        ("simulation.partition=dirichlet", "simulation.partition: sites have rows of their own"),
        ("data.dir=.", "data.dir: every site has a folder of its own; remove it, or simulation.sites"),
        ("data.source=glue", "data.source: glue, but simulation.sites are folders; write files, or remove the sites"),
        (
            "simulation.sites={'../up': x}",
            "simulation.sites.../up: '../up' is not a client id; use at most 64 characters: letters",
        ),
    ],
)
def test_what_contradicts_sites_is_refused(override, line):
    settings = ["tasks={sst2: {}}", "simulation.sites={north: n}", override]
    with pytest.raises(ConfigError) as refused:
        load_config(None, settings, "simulate")
    assert line in "\n".join(refused.value.problems)
