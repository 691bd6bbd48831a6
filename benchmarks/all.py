"""Every benchmark after the other, with the sizes of the tables in docs/performance.md.

`--quick` takes small sizes, to see that all of it works. Without `--data_dir` the ones that need real rows use built-in
ones, and the real job is left out. `--without_peers` leaves out Flower and the Hugging Face Trainer.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.flower.deployment import add_environment_options
from benchmarks.processes import ROOT, python
from benchmarks.sheet import Sheet

QUICK = (
    "rounds --size 1kb --clients 3 --rounds 20",
    "rounds --size bert-tiny --clients 3 --rounds 4 --tls",
    "vs_flower --size 1kb,bert-tiny --clients 3 --rounds 2 --polls default",
    "training --rows 300 --epochs 1 --turns 1 --trainer_threads 1",
    "row_noise --rows 100 --turns 1",
    "masked_sums --members 3,10 --parameters 100000",
    "aggregation --repeats 3",
    "wire --rows 200 --rounds 1 --epochs 1",
    "fleet --agents 3,20 --rounds 2",
    "fleet --agents 100 --rounds 2 --size 1kb --processes 2 --parked 200",
    "simulation --crowd 100 --rounds 3",
    "dual_solver --tasks 4 --rows 500 --features 20 --numpy_visits 1000",
    "memory --model bert-mini --clients 2,4",
)
FULL = (
    "rounds --size 1kb,bert-tiny --clients 3,10",
    "rounds --size bert-tiny --clients 3,10 --tls --rounds 10",
    "rounds --size bert-base --clients 3",
    "vs_flower --size 1kb,bert-tiny --clients 3,10 --rounds 4",
    "training",
    "row_noise",
    "masked_sums",
    "aggregation",
    "wire --rounds 10",
    "fleet --agents 3,50",
    "fleet --agents 1000 --rounds 10 --size 1kb --processes 4 --parked 2000",
    "simulation",
    "dual_solver",
    "memory",
)
JOB = {
    True: "vs_flower --job --rows 100 --job_rounds 2 --epochs 1 --polls default",
    False: "vs_flower --job",
}
PEERS = ("vs_flower", "training")
WITH_ROWS = ("vs_flower --job", "training", "row_noise", "wire")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add_environment_options(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--data_dir", type=Path, help="folder with sst2, qqp and stsb")
    parser.add_argument("--without_peers", action="store_true")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """Run them; one that fails does not keep the others from running."""
    failed = []
    for line in commands(options):
        print(f"\n`python -m benchmarks {line}`\n", flush=True)
        words = [*line.split(), *(("--json", str(options.json)) if options.json else ())]
        if subprocess.run(python("benchmarks", *words), cwd=ROOT, check=False).returncode:
            failed.append(line)
    sheet.note(f"Failed: {'; '.join(failed) or 'none'}")
    if failed:
        raise SystemExit(1)


def commands(options: argparse.Namespace) -> Iterator[str]:
    """The command lines to run."""
    chosen = list(QUICK if options.quick else FULL)
    if options.data_dir:
        chosen.append(JOB[options.quick])
    for line in chosen:
        name = line.split()[0]
        if name == "vs_flower" and options.without_peers:
            continue
        if name == "training" and options.without_peers:
            line += " --without_trainer"
        if name in PEERS:
            line += f" --envs {options.envs}"
            line += f" --torch_index {options.torch_index}" if options.torch_index else ""
        if options.data_dir and line.startswith(WITH_ROWS):
            line += f" --data_dir {options.data_dir.resolve()}"
        yield line
