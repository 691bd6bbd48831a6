"""The coordinator's memory while a large model passes through rounds of clients that do not train.

python -m benchmarks.memory [--model bert-base] [--clients 2,6] [--rounds 2]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.coordinator_process import PROGRAM, SIZES, CoordinatorProcess, write_encoder
from benchmarks.machine import describe_machine

TASKS = ("sst2", "qqp")


def measure(folder: Path, model: str, clients: int, rounds: int) -> tuple[int, int, int]:
    """Peak resident bytes of the coordinator from start-up on, from the first round on, and the model's bytes."""
    settings = [
        f"model.server_model='{write_encoder(folder / 'model', model)}'",
        "model.weights=random",
        f"training.num_rounds={rounds}",
        f"federation.min_clients={clients}",
    ]
    with CoordinatorProcess(folder / f"run-{clients}", TASKS, settings) as coordinator:
        start_peak = coordinator.peak_bytes()
        coordinator.reset_peak()
        command = [
            sys.executable,
            "-m",
            "benchmarks.light_agents",
            str(coordinator.port),
            str(clients),
            ",".join(TASKS),
        ]
        agents = subprocess.Popen(command, cwd=PROGRAM.parent)
        coordinator.wait_until_finished()
        peak = coordinator.peak_bytes()
        agents.wait()
    size = sum(path.stat().st_size for path in (folder / f"run-{clients}" / "models").glob(f"{rounds}.safetensors"))
    return start_peak, peak, size


def main() -> None:
    """Print one row per number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="bert-base")
    parser.add_argument("--clients", default="2,6")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print(f"{describe_machine()}; model {options.model} with random weights, {options.rounds} rounds, dense float32")
    print(f"{'clients':>7} {'model MB':>9} {'building MB':>11} {'rounds MB':>9} {'rounds / model':>14}")
    with tempfile.TemporaryDirectory() as name:
        for count in map(int, options.clients.split(",")):
            start, peak, size = measure(Path(name), options.model, count, options.rounds)
            print(f"{count:>7} {size / 1e6:>9.0f} {start / 1e6:>11.0f} {peak / 1e6:>9.0f} {peak / size:>14.2f}")


if __name__ == "__main__":
    main()
