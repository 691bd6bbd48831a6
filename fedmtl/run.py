"""What a run gave: its scores, and a model of each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from client.answers import answers, require_scale
from client.data.given import unlabelled
from common.config import Config, load_config
from common.errors import ConfigError, ModelError, RunFolderError
from common.export.graph import TaskGraph
from common.models.given_module import give
from common.models.trained import TrainedTask
from server.reporting.history import Score, scores_of
from server.reporting.metrics_file import times_in
from server.reporting.relations import Relations
from server.reporting.values import Report, from_json
from server.runs.reading import read_run
from server.runs.run_folder import RunFolder
from server.runs.saved import load_run
from server.storage.journal import Journal
from simulation.saved import load_client

if TYPE_CHECKING:
    from fedmtl.pictures import Picture


@dataclass(frozen=True)
class FinishedRun:
    """What is left of a run when it has ended."""

    folder: Path
    """Its run folder: `fedmtl evaluate`, `export` and `verify` read it."""
    report: Report
    """Everything that `report.json` says."""

    @cached_property
    def scores(self) -> list[Score]:
        """The scores of every version, of all clients together (`client` is empty) and of each."""
        folder = RunFolder.open(self.folder)
        journal = Journal.read(folder.journal)
        try:
            return scores_of(load_config(folder.config).definitions(), journal.rounds(), times_in(folder.metrics))
        finally:
            journal.close()

    @cached_property
    def history(self) -> Any:
        """The same as a table: a `pandas.DataFrame` where pandas is installed, else `scores` as they are."""
        if find_spec("pandas") is None:
            return self.scores
        import pandas

        return pandas.DataFrame(self.scores, columns=[*Score.__annotations__])

    def plot(self) -> Picture:
        """The curves of every task's first metric: of all clients together, and of each as a thin line.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        if find_spec("matplotlib") is None:
            raise ConfigError("plot: the package matplotlib is missing; run pip install 'fedmtl[pictures]'")
        from fedmtl.pictures import curves

        return curves(load_config(self.folder / "config.yaml").definitions(), self.scores)

    @cached_property
    def relations(self) -> Relations | None:
        """How tasks or members of this run relate: `names`, `matrix`, and by `kind` what its numbers are.

        None where the run measured nothing of the sort: `sharing.plan: adaptive` and sums by task do.
        """
        return read_run(self.folder)[1]

    def model(self, task: str, version: str | int | None = None, client: str | None = None) -> TaskGraph:
        """A torch module of a task: from rows of numbers to what its head says, in a regression's own units.

        Each call gives one of its own. Logits or numbers, float32 (rows, outputs), for rows (rows, *shape); bytes count
        as 0 to 1. `version` is "best", "best:<task>", "last" or a round's number; None: the best one, or the last where
        nothing has been scored by which one could be the best. With the name of a `client` of the simulation it is what
        that one had at the end: its private head, the scale of its rows, and the better of the model that it received
        and one of its own.

        Raises:
            ModelError: that version is not there, there is no such task or client, it reads texts, or its head is
                private to the clients.
        """
        config, trained = self._trained(task, version, client)
        if config.model.array_encoder is None:
            raise ModelError(f"task '{task}' reads texts, and a model alone has no tokenizer; use run.predict")
        require_scale(trained, config)
        return TaskGraph(trained).requires_grad_()

    def predict(
        self, task: str, x: Any, version: str | int | None = None, client: str | None = None
    ) -> Sequence[object] | NDArray[Any]:
        """The answers for rows or texts as `simulate` takes them: names of labels, or float64 (rows,) of a regression.

        Of a multilabel task the labels that apply, with | between them. Of tasks with a label per pixel, maps (rows,
        height, width) of class indices or numbers; with a label per word, a list for each text, with None for words
        that the model does not read; of next words, the likeliest one.

        Raises:
            ModelError: see `model`; or the task has nothing to say of a row.
            DataError: a row is not as the model reads it.
        """
        config, trained = self._trained(task, version, client)
        rows = unlabelled(trained.task, config.model.array_encoder, "rows to predict", x, trained.header)
        found = next(iter(answers(trained, rows, config).values()))
        return np.asarray(found, dtype=np.float64) if trained.task.type.has_units else found

    def _trained(self, task: str, version: str | int | None, client: str | None) -> tuple[Config, TrainedTask]:
        if client is not None:
            if version is not None:
                raise ModelError("version: a client has what it ended with; leave the version out, or the client")
            kept = load_client(self.folder, client)
            config = load_config(kept.config)
            return config, kept.trained(config, task)
        saved = load_run(self.folder, "" if version is None else str(version))
        return saved.config, saved.trained(task)


def load(run_dir: str | Path, encoder: nn.Module | None = None) -> FinishedRun:
    """A run that ended earlier, from its folder.

    Args:
        run_dir: its run folder.
        encoder: where the run's encoder was an instance of a torch module and another process gave it: one with the
            same code and shapes, whose values do not matter.

    Raises:
        RunFolderError: there is no run, or it has not ended.
        ModelError: `encoder` is not like that of the run.
    """
    folder = RunFolder.open(Path(run_dir))
    path = folder.path / "report.json"
    if not path.is_file():
        raise RunFolderError(f"run_dir: '{run_dir}' has no report.json; the run has not ended")
    row = load_config(folder.config).model.given
    if encoder is not None and row is not None and (now := give(encoder, row.reads, row.shape)) != row:
        differs = f"{now.sha256[:16]}, not {row.sha256[:16]}"
        raise ModelError(f"encoder: '{now.class_}' differs in code or shapes from that of the run ({differs})")
    return FinishedRun(folder.path, from_json(Report, json.loads(path.read_text(encoding="utf-8"))))
