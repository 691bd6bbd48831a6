"""Jobs in Ray actors: the bits of threads, with what clients keep."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.config import Config
from server.engine.coordinator import Coordinator
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.federations import array_config, digest_of, make_model

CHOICES = {
    "numbers": ("sharing.plan=private_heads", "training.procedure=ditto", "training.mu=0.5"),
    "members": ("sharing.plan=soft", "relation={name: mean, strength: 0.1}"),
}


def simulated(config: Config, state: Path) -> Coordinator:
    return asyncio.run(run_virtual_clients(config, make_model(config), population(config), state))[0]


def kept(state: Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.parent.parent.name: load_file(path) for path in sorted(state.rglob("private.safetensors"))}


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_actors_come_to_the_model_of_threads(tmp_path: Path, choice: str) -> None:
    config = array_config("simulation={clients: 6, tasks_per_client: 2, workers: 2}", *CHOICES[choice])
    section = config.simulation.model_copy(update={"executor": "ray"})
    threads = simulated(config, tmp_path / "threads")
    actors = simulated(config.model_copy(update={"simulation": section}), tmp_path / "actors")
    assert digest_of(threads) == digest_of(actors)
    assert threads.state.completed_rounds == actors.state.completed_rounds == 2
    np.testing.assert_equal(kept(tmp_path / "threads"), kept(tmp_path / "actors"))
