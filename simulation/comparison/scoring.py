"""The rows of a finished run, answered by its models: once, and then kept in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.app import choose_device, limit_threads
from client.data.examples import TaskData, prepare
from client.jobs.saved import Which
from client.training.evaluation import AnsweredRow, evaluate_rows
from common.config import Config, load_config
from common.models.packed_tokenizer import unpack_tokenizer
from common.models.trained import TrainedTask
from common.tasks import TaskDefinition
from server.reporting.values import Report
from server.runs.saved import SavedRun, load_run
from simulation.comparison.outcome import own_scores
from simulation.comparison.runs import Rows
from simulation.comparison.scored_rows import ScoredRows, numbered, numbers_of
from simulation.saved import kept_clients, load_client

FOLDER = "scored_rows"
"""In a run folder, with a file per task."""


def score_rows(
    config: Config, report: Report, read: Callable[[], Rows], tested: Collection[str], central: str = ""
) -> dict[str, ScoredRows]:
    """Every task's rows by the models that clients would use after the last round, unless the run folder has them.

    Args:
        config: of a run that is over.
        report: of it.
        read: gives the rows of clients by task, with those to score on.
        tested: the tasks whose rows are of the test split.
        central: the client that trained on the rows of all; empty where each trained on its own.

    Raises:
        RunFolderError: the run is not whole.
        ModelError: a client has no model of its task.
        StateError: what a client kept is damaged.
    """
    tasks = config.definitions()
    places = {
        task.name: config.run.folder / FOLDER / f"{task.name}-{'test' if task.name in tested else 'validation'}.npz"
        for task in tasks
    }
    if not all(path.is_file() for path in places.values()):
        limit_threads(config.client.threads)
        run, rows = load_run(config.run.folder), read()
        for task in tasks:
            held = {client: mine[task.name] for client, mine in rows.items() if task.name in mine}
            _answered(run, config.run.folder, report, task, held, central).save(places[task.name])
    found = {name: ScoredRows.load(path) for name, path in places.items()}
    return {name: rows for name, rows in found.items() if len(rows.ids)}


def _answered(
    run: SavedRun, folder: Path, report: Report, task: TaskDefinition, held: Mapping[str, TaskData], central: str
) -> ScoredRows:
    """The rows of a task, as each client's model answers them."""
    keepers, shared = kept_clients(folder), None
    digests: list[NDArray[np.uint64]] = []
    clients: list[str] = []
    answers: list[AnsweredRow] = []
    for holder, data in held.items():
        if not len(data.validation):
            continue
        client = central or holder
        if client in keepers:
            wanted: Which = "received" if own_scores(report, client, task.name) is None else "personal"
            kept = load_client(folder, client, run)
            trained = kept.trained(load_config(kept.config), task.name, wanted)
        else:
            trained = shared = run.trained(task.name) if shared is None else shared
        answers += _answers(run.config, trained, task, data)
        digests.append(data.validation.digests())
        clients += [holder] * len(data.validation)
    at_once = task.type.rank_metric in task.metrics
    outputs, targets = (
        np.stack([getattr(answer, what) for answer in answers]) if at_once and answers else np.empty(0)
        for what in ("output", "target")
    )
    numbers = np.array([numbers_of(answer.statistics) for answer in answers], dtype=np.float64)
    return ScoredRows(
        numbered(np.concatenate(digests or [np.empty(0, np.uint64)])),
        np.array(clients, dtype=np.str_),
        numbers,
        outputs,
        targets,
    )


def _answers(config: Config, trained: TrainedTask, task: TaskDefinition, data: TaskData) -> Sequence[AnsweredRow]:
    model = trained.model.to(choose_device(config.client.device))
    tokenizer = unpack_tokenizer(trained.tokenizer) if trained.tokenizer else None
    prepared = prepare(data.validation, task, model.architecture, tokenizer).scaled(trained.common_scale)
    return evaluate_rows(model, task, prepared, config.training.eval_batch_size, trained.units)
