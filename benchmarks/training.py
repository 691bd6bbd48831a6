"""Local training of BERT-tiny on sst2, in turns with the Hugging Face Trainer on the same rows.

FedMTL: `client.training.loop.train` with its compact vocabulary, as a client runs it, in float32 and bfloat16. The
Trainer: dynamic padding, and padded to 128, in an environment of its own (`--envs`; `--without_trainer` leaves it out).
The second table compares the loss of every step with a plain loop of torch over the same batches: no dropout, whole
vocabulary, AdamW neither fused nor over lists.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.flower.deployment import add_environment_options, environment
from benchmarks.processes import ROOT
from benchmarks.sheet import Sheet, ratio
from benchmarks.spread import Spread
from client.app import load_data
from client.data.examples import prepare
from client.training.compact import compact_vocabulary
from client.training.loop import TaskSet, epoch_steps, take_step, train
from client.training.optimizer import new_optimizer
from common.config import Config, load_config
from common.config.model_section import ModelSection
from common.config.training_section import TrainingSection
from common.inputs.texts import TextBatch
from common.models.encoder import EncoderSource
from common.models.packed_tokenizer import unpack_tokenizer
from common.models.pretrained import resolve_encoder
from server.runs.model import MTLServerModel

SPEED = {
    "what": "what",
    "precision": "precision",
    "samples_s": "samples/s",
    "samples_cpu_s": "samples per CPU s",
    "ratio_dynamic": "x Trainer, dynamic",
    "ratio_128": "x Trainer, 128",
}
CURVE = {"what": "loss curve against a plain loop", "steps": "steps", "largest": "largest difference", "last": "loss"}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OURS = "FedMTL"
PADDINGS = ("dynamic", "128")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add_environment_options(parser)
    parser.add_argument("--data_dir", type=Path, help="folder with sst2 (default: built-in rows)")
    parser.add_argument("--rows", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=2, help="that count, after one that does not (default: 2)")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--precisions", default="float32,bfloat16", help="default: %(default)s")
    parser.add_argument("--trainer_threads", default="1,2", help="threads of the Trainer (default: %(default)s)")
    parser.add_argument("--without_trainer", action="store_true")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """Speed first, then the loss curves."""
    torch.set_num_threads(1)
    config = configuration(options)
    rows = encoded_rows(config)
    compare_speed(options, config, rows, sheet)
    compare_losses(options.precisions.split(","), config, rows, sheet)


def configuration(options: argparse.Namespace) -> Config:
    """The shipped defaults with one task."""
    data = [f"data.dir='{options.data_dir.resolve()}'"] if options.data_dir else []
    vocabulary = options.data_dir / "bert_vocab" / "vocab.txt" if options.data_dir else Path()
    words = [f"model.tokenizer='{vocabulary.resolve()}'"] if vocabulary.is_file() else []
    sizes = [f"tasks.sst2.train_samples={options.rows}", "tasks.sst2.val_samples=50"]
    one_rate = f"training.head_learning_rate={TrainingSection().learning_rate}"  # as in the plain loops
    trained = ["model.weights=random", f"training.local_epochs={options.epochs}", one_rate]
    return load_config(None, [*sizes, *data, *words, *trained])


@cache
def encoder_of(section: ModelSection) -> EncoderSource:
    """Where the configuration says that the encoder comes from; found once."""
    return resolve_encoder(section.server_model, section.weights, section.tokenizer, section.hub_timeout_seconds)


def fresh_model(config: Config, dropout: bool = True) -> MTLServerModel:
    """The initial model of the configuration."""
    section = config.model
    source = encoder_of(section)
    model = MTLServerModel.create(
        source, section.pair_mode, section.max_length, config.definitions(), config.sharing_plan(), config.run.seed
    )
    for module in model.model.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    return model


def encoded_rows(config: Config) -> TaskSet:
    """The rows of sst2 as a client prepares them."""
    model, task = fresh_model(config), config.definitions()[0]
    data, reader = load_data(config, [task])[task.name], unpack_tokenizer(model.tokenizer_bytes)
    train, validation = (prepare(rows, task, model.architecture, reader) for rows in (data.train, data.validation))
    return TaskSet(task, train, validation)


def compare_speed(options: argparse.Namespace, config: Config, rows: TaskSet, sheet: Sheet) -> None:
    """Samples per second of every arrangement, in turns."""
    precisions = options.precisions.split(",")
    python = None if options.without_trainer else environment(options.envs, options.torch_index) / "python"
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(options.turns):
            for precision in precisions:
                found.setdefault((OURS, precision), []).append(time_ours(config, rows, precision))
                if python is None:
                    continue
                for padding in PADDINGS:
                    for threads in map(int, options.trainer_threads.split(",")):
                        what = f"Trainer, {padding}, {threads} thread(s)"
                        job = trainer_job(config, rows, precision, padding, threads)
                        found.setdefault((what, precision), []).append(time_trainer(python, Path(name), job))
    sheet.columns(SPEED)
    speeds = {key: Spread.of([wall for wall, _ in values]) for key, values in found.items()}
    for (what, precision), values in found.items():
        fastest = {
            padding: max(
                (s for (w, p), s in speeds.items() if p == "float32" and w.startswith(f"Trainer, {padding}")),
                key=lambda s: s.median,
                default=None,
            )
            for padding in PADDINGS
        }
        sheet.row(
            what=what,
            precision=precision,
            samples_s=speeds[what, precision],
            samples_cpu_s=Spread.of([cpu for _, cpu in values]),
            ratio_dynamic=ratio(speeds[what, precision], fastest["dynamic"]) if fastest["dynamic"] else None,
            ratio_128=ratio(speeds[what, precision], fastest["128"]) if fastest["128"] else None,
        )
    sheet.note("Ratios are to the faster Trainer of that padding in float32, whatever its threads.")


def time_ours(config: Config, rows: TaskSet, precision: str) -> tuple[float, float]:
    """Samples per second, and per processor second, of the product's training after one epoch of warm-up."""
    model, settings = fresh_model(config).model, config.training.settings()
    compact = compact_vocabulary(model, [rows])
    sets = [compact.renumbered(rows) if compact else rows]
    model.precision = PRECISIONS[precision]
    with compact.in_place() if compact else nullcontext():
        train(model, sets, config.training.model_copy(update={"local_epochs": 1}).settings(), 0, lambda _: None)
        wall, cpu = time.perf_counter(), time.process_time()
        train(model, sets, settings, 1, lambda _: None)
        samples = settings.local_epochs * len(rows.train)
        return samples / (time.perf_counter() - wall), samples / (time.process_time() - cpu)


def trainer_job(config: Config, rows: TaskSet, precision: str, padding: str, threads: int) -> dict[str, Any]:
    """The same work for the Trainer."""
    batch = rows.train.batch(np.arange(len(rows.train)))
    assert isinstance(batch, TextBatch)
    labels = [] if batch.labels is None else batch.labels.tolist()
    lengths = batch.attention_mask.sum(dim=1).tolist()
    ids = [line[:length] for line, length in zip(batch.input_ids.tolist(), lengths, strict=True)]
    settings = config.training
    return {
        "rows": [{"ids": line, "label": label} for line, label in zip(ids, labels, strict=True)],
        "precision": precision,
        "padding": padding,
        "threads": threads,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "epochs": settings.local_epochs,
    }


def time_trainer(python: Path, folder: Path, job: dict[str, Any]) -> tuple[float, float]:
    """Samples per second, and per processor second, of the Trainer in a process of its own."""
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    done = subprocess.run(
        [str(python), "-P", str(ROOT / "benchmarks" / "hugging_face.py"), str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    if done.returncode:
        raise RuntimeError(f"the Trainer failed:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return result["samples"] / result["seconds"], result["samples"] / result["cpu_seconds"]


def compare_losses(precisions: Sequence[str], config: Config, rows: TaskSet, sheet: Sheet) -> None:
    """Loss by loss: the product's step against a plain one, without dropout."""
    plain = plain_losses(config, rows)
    sheet.columns(CURVE)
    for precision in precisions:
        model = fresh_model(config, dropout=False).model
        compact = compact_vocabulary(model, [rows])
        sets = [compact.renumbered(rows) if compact else rows]
        settings, losses = config.training.settings(), []
        model.precision = PRECISIONS[precision]
        model.train()
        with compact.in_place() if compact else nullcontext():
            optimizer = new_optimizer(model, settings)
            for parts in epoch_steps(sets, settings.batch_size, 0, 0):
                losses += [float(loss) for loss in take_step(model, optimizer, parts, settings.max_grad_norm)]
        worst = max(abs(a - b) for a, b in zip(losses, plain, strict=True))
        sheet.row(what=f"FedMTL, {precision}", precision=precision, steps=len(losses), largest=worst, last=losses[-1])
    sheet.row(what="plain loop, float32", precision="float32", steps=len(plain), largest=0.0, last=plain[-1])


def plain_losses(config: Config, rows: TaskSet) -> list[float]:
    """The losses of one epoch in the simplest loop that does the same."""
    model, settings = fresh_model(config, dropout=False).model, config.training
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0, foreach=False)
    model.train()
    losses = []
    for ((item, chosen),) in epoch_steps([rows], settings.batch_size, 0, 0):
        batch = item.train.batch(chosen)
        assert batch.labels is not None
        loss = item.task.type.loss(model(item.task.name, batch), batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm, foreach=False)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
