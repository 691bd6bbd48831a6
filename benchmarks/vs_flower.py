"""FedMTL and Flower in turns, in one run: rounds in which nobody trains, or with `--job` a real job.

Flower runs as its documentation says (SuperLink, SuperNodes, `flwr run`, FedAvg), in an environment of its own that
the first call makes under `--envs`. It runs with its default settings and with a shorter poll of tasks. The job is
sst2, qqp and stsb with one client each: the same rows, vocabulary, BERT-tiny encoder, heads, optimizer and scores;
Flower's clients train in a plain loop of torch and transformers and keep their heads, which with one client per task
is what averaging over the holders of a head gives.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks.coordinator_process import CLOSED, CoordinatorProcess, client_daemon
from benchmarks.encoders import write_encoder
from benchmarks.flower.deployment import FlowerRun, add_environment_options, environment, run_flower
from benchmarks.rounds import Case, time_rounds
from benchmarks.sheet import Sheet, ratio
from benchmarks.spread import Spread
from client.app import load_data
from common.config import Config, load_config
from common.config.training_section import TrainingSection
from common.models.vocabulary import build_vocabulary

TASKS = ("sst2", "qqp", "stsb")
LIMIT_SECONDS = 1800.0
STILL = {
    "system": "system",
    "size": "size",
    "clients": "clients",
    "round_ms": "ms per round",
    "server_cpu_s": "server CPU s",
    "clients_cpu_s": "clients CPU s",
    "server_peak_mb": "server peak MB",
    "client_peak_mb": "client peak MB",
    "ratio": "time / FedMTL",
}
JOB = {
    "system": "system",
    "total_s": "wall s in all",
    "round_s": "s per round after the first",
    "ratio": "time / FedMTL",
    "sst2": "sst2 accuracy",
    "qqp": "qqp F1",
    "qqp_accuracy": "qqp accuracy",
    "stsb": "stsb Spearman",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add_environment_options(parser)
    parser.add_argument("--clients", default="3", help="numbers of clients (default: %(default)s)")
    parser.add_argument("--size", default="1kb,bert-tiny", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=4, help="Flower's rounds, the first not counted (default: 4)")
    parser.add_argument("--turns", type=int, default=1, help="how often the systems take turns (default: 1)")
    parser.add_argument("--polls", default="default,0.05", help="Flower's poll of tasks in s (default: %(default)s)")
    parser.add_argument("--job", action="store_true", help="the real job instead; needs --data_dir")
    parser.add_argument("--data_dir", type=Path, help="folder with sst2, qqp and stsb")
    parser.add_argument("--rows", type=int, default=1000, help="training rows per client (default: %(default)s)")
    parser.add_argument("--job_rounds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="local epochs per round (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="FedMTL's configuration")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """Set Flower up if needed, then measure."""
    if options.job and options.data_dir is None:
        raise SystemExit("--job needs --data_dir")
    bin_folder = environment(options.envs, options.torch_index)
    with tempfile.TemporaryDirectory() as name:
        if options.job:
            compare_jobs(options, bin_folder, Path(name), sheet)
            return
        sheet.columns(STILL)
        for size in options.size.split(","):
            for clients in map(int, options.clients.split(",")):
                compare_rounds(options, bin_folder, Path(name), size, clients, sheet)


def compare_rounds(
    options: argparse.Namespace, bin_folder: Path, folder: Path, size: str, clients: int, sheet: Sheet
) -> None:
    """Nobody trains: FedMTL, then Flower with every poll interval, as often as asked."""
    polls = options.polls.split(",")
    flower: dict[str, list[FlowerRun]] = {poll: [] for poll in polls}
    ours, state = [], write_state(folder / f"state-{size}.npz", size)
    for turn in range(options.turns):
        ours.append(time_rounds(Case(size, clients, 100 if size == "1kb" else 20, settings=tuple(options.set)), folder))
        for poll in polls:
            place = folder / f"flower-{size}-{clients}-{poll}-{turn}"
            interval = None if poll == "default" else poll
            flower[poll].append(run_flower(bin_folder, place, clients, options.rounds, state, task_poll=interval))
    mine = Spread.of([second for timing in ours for second in timing.seconds])
    sheet.row(
        system="FedMTL",
        size=size,
        clients=clients,
        round_ms=mine.scaled(1e3),
        server_cpu_s=sum(t.coordinator_cpu / len(t.seconds) for t in ours) / len(ours),
        clients_cpu_s=sum(t.clients_cpu / len(t.seconds) for t in ours) / len(ours),
        server_peak_mb=max(t.coordinator_peak for t in ours) / 1e6,
        client_peak_mb=max(max(t.client_peaks) for t in ours) / 1e6,
        ratio=1.0,
    )
    for poll, runs in flower.items():
        theirs = Spread.of([second for one in runs for second in one.seconds[1:]])
        sheet.row(
            system=f"Flower, task poll {poll}",
            size=size,
            clients=clients,
            round_ms=theirs.scaled(1e3),
            server_cpu_s=sum(one.server_cpu for one in runs) / len(runs),
            clients_cpu_s=sum(one.clients_cpu for one in runs) / len(runs),
            server_peak_mb=max(one.server_peak for one in runs) / 1e6,
            client_peak_mb=max(one.client_peak for one in runs) / 1e6,
            ratio=ratio(theirs, mine),
        )


def compare_jobs(options: argparse.Namespace, bin_folder: Path, folder: Path, sheet: Sheet) -> None:
    """The real job, in turns."""
    job = folder / "job"
    config, state = write_job(options, job), write_state(folder / "state.npz", "bert-tiny")
    sheet.columns(JOB)
    for turn in range(options.turns):
        ours = our_job(config, job, folder / f"ours-{turn}", options)
        sheet.row(system="FedMTL", turn=turn, ratio=1.0, **ours)
        for poll in options.polls.split(","):
            for old in job.glob("scores-*.jsonl"):
                old.unlink()
            interval = None if poll == "default" else poll
            place = folder / f"flower-job-{poll}-{turn}"
            found = run_flower(
                bin_folder, place, len(TASKS), options.job_rounds + 1, state, job, interval, LIMIT_SECONDS
            )
            last = {task: json.loads((job / f"scores-{task}.jsonl").read_text().splitlines()[-1]) for task in TASKS}
            sheet.row(
                system=f"Flower, task poll {poll}",
                turn=turn,
                total_s=found.total_seconds,
                round_s=Spread.of(found.seconds[1:-1]),
                ratio=found.total_seconds / ours["total_s"],
                **final_scores(last),
            )


def write_state(file: Path, size: str) -> Path:
    """Initial values for Flower: one array of 1 KB, or a random BERT encoder."""
    state = {"weight": np.random.default_rng(0).standard_normal(256, dtype=np.float32)}
    if size != "1kb":
        source = json.loads((write_encoder(file.with_suffix(""), size) / "config.json").read_text())
        torch.manual_seed(0)
        encoder = BertModel(BertConfig(**{key: value for key, value in source.items() if key != "model_type"}))
        state = {name: values.numpy() for name, values in encoder.state_dict().items()}
    with file.open("wb") as opened:
        np.savez(opened, **state)  # type: ignore[arg-type]
    return file


def write_job(options: argparse.Namespace, job: Path) -> list[str]:
    """Rows, vocabulary and settings of the job as files for Flower's clients; the same as settings for FedMTL."""
    job.mkdir()
    given = options.data_dir / "bert_vocab" / "vocab.txt"
    words = given.read_text() if given.is_file() else "\n".join(build_vocabulary()) + "\n"
    (job / "vocab.txt").write_text(words)
    settings = [
        *(f"tasks.{task}.{key}" for task in TASKS for key in (f"train_samples={options.rows}", "val_samples=1000")),
        f"data.dir='{options.data_dir.resolve()}'",
        f"model.tokenizer='{job / 'vocab.txt'}'",
        "model.weights=random",
        f"training.head_learning_rate={TrainingSection().learning_rate}",  # Flower's clients train with one rate
        f"training.num_rounds={options.job_rounds}",
        f"training.local_epochs={options.epochs}",
        f"federation.min_clients={len(TASKS)}",
        *options.set,
    ]
    config: Config = load_config(None, settings)
    for name, data in load_data(config, config.definitions()).items():
        rows = {"train": data.train, "validation": data.validation}
        plain = {split: [asdict(row) for row in found] for split, found in rows.items() if isinstance(found, list)}
        (job / f"{name}.json").write_text(json.dumps(plain))
    section = config.training
    described: dict[str, Any] = {
        "tasks": [{"name": t.name, "outputs": t.outputs, "pair": t.pair} for t in config.definitions()],
        "rounds": section.num_rounds,
        "epochs": section.local_epochs,
        "learning_rate": section.learning_rate,
        "batch_size": section.batch_size,
        "max_length": config.model.max_length,
        "seed": config.run.seed,
    }
    (job / "job.json").write_text(json.dumps(described))
    return settings


def our_job(settings: list[str], job: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The job in FedMTL's real programs, from the start of the first process to the end of the run."""
    folder.mkdir()
    began = time.monotonic()
    with ExitStack() as stack:
        coordinator = stack.enter_context(CoordinatorProcess(folder / "run", settings))
        clients = [stack.enter_context(client_daemon(coordinator, task, task, [], still=False)) for task in TASKS]
        coordinator.wait_until_finished(LIMIT_SECONDS)
        total = time.monotonic() - began
        report = coordinator.report()
        for client in clients:
            client.wait(60.0)
    scores = {task: report["tasks"][task]["metrics"] for task in TASKS}
    times = [at for at, _ in coordinator.matches(CLOSED)][: options.job_rounds]
    seconds = Spread.of([later - earlier for earlier, later in pairwise(times)])
    return {"total_s": total, "round_s": seconds, **final_scores(scores)}


def final_scores(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """The figures of the table from all metrics of all tasks."""
    return {
        "sst2": scores["sst2"]["accuracy"],
        "qqp": scores["qqp"]["f1"],
        "qqp_accuracy": scores["qqp"]["accuracy"],
        "stsb": scores["stsb"]["spearman_mean"],
    }
