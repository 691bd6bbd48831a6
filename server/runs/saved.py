"""A run's model, read back from its folder; no hub and no coordinator needed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.config import Config, load_config
from common.errors import ModelError, RunFolderError
from common.inputs.header import Header
from common.models.trained import TrainedTask
from common.parameters.plan import NORM_STATISTICS
from common.parameters.scope import ByTemplate, Scope, copies_of, is_private
from common.parameters.vector import Float64, Vector
from common.standardising import InputScale
from common.targets import OWN_UNITS, TargetUnits
from server.runs.kept import LAST, version_called
from server.runs.model import MTLServerModel
from server.runs.recovery import fall_back, require_files, wrong_with_version
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles
from server.storage.versions import SUFFIX

log = logging.getLogger("fedmtl.server")


@dataclass(frozen=True)
class SavedRun:
    """A durable model of a run, with the configuration that made it.

    `version` is its round, `best_by` the criterion by which it is the best, where it was asked for so; `vectors` are
    the values of all scopes, of which `model` holds those of one task at a time.
    The clients of tasks in `fallback_tasks` use models of their own, which never left them. `units` are those of
    heads and losses; `headers` say what the numbers in a row of each task are, none where rows
    are texts; `scales` by what they are standardised, where the rows of all clients say it.
    """

    config: Config
    model: MTLServerModel
    version: int
    vectors: ByTemplate[Vector]
    fallback_tasks: frozenset[str] = frozenset()
    units: Mapping[str, TargetUnits] = field(default_factory=dict)
    headers: Mapping[str, Header] = field(default_factory=dict)
    scales: Mapping[str, InputScale] = field(default_factory=dict)
    best_by: str = ""

    def units_of(self, task: str) -> TargetUnits:
        """The units of a task's head and loss."""
        return self.units.get(task, OWN_UNITS)

    def trained(self, task: str) -> TrainedTask:
        """A task of the model.

        Raises:
            ModelError: see `load_task`.
        """
        self.load_task(task)
        return TrainedTask(
            self.model.model.eval(),
            self.model.tasks[task],
            f"the model of round {self.version}" + (f", the best by {self.best_by}" if self.best_by else ""),
            self.units_of(task),
            self.model.tokenizer_bytes if self.model.architecture.tokenizer_bytes else b"",
            self.headers.get(task),
            common_scale=self.scales.get(task),
        )

    def load_task(self, task: str) -> None:
        """Put the values of a task's clients into the model: those of its groups, and of a member that holds it.

        Where every client is a member of its own, that is their mean.

        Raises:
            ModelError: the task is unknown, or its head is private and never left the clients.
        """
        if task not in self.config.tasks:
            raise ModelError(f"--task: '{task}' is not in this run; it has {', '.join(self.config.tasks)}")
        for scope, schema in self.model.schemas.items():
            if is_private(scope) and any(e.name.startswith((f"heads.{task}.", "encoder.")) for e in schema.entries):
                statistics = schema.entries[0].name.endswith(NORM_STATISTICS)
                key = "norm_statistics: private" if statistics else f"plan: {self.config.sharing.plan}"
                raise ModelError(
                    f"task '{task}': '{schema.entries[0].name}' is private in this run (sharing.{key}), so the "
                    "coordinator never saw it; only its clients can use it, from what they keep: name a --state_dir, "
                    "or beside the run folder of a simulation a --client_id (in Python: client=...)"
                )
        if task in self.fallback_tasks:
            log.warning("task %s fell back to isolated models of its clients; this is the shared one", task)
        travelling = [name for name in self.model.schemas if not is_private(name)]
        membership = self.config.membership()
        scopes = {template: membership.scope(template, "", [task]) for template in travelling}
        self.model.load_vectors({template: self._values(template, scopes[template], task) for template in travelling})

    def _values(self, template: str, scope: str, task: str) -> Vector:
        """What serves a task in place of a template, which is `scope` for it."""
        if not Scope.parse(template).is_member or scope in self.vectors:
            return self.vectors[scope]
        copies = copies_of(template, self.vectors)
        if self.config.sharing.members == "tasks":
            own = [copy for copy in copies if task in Scope.parse(copy).owner.split("+")]
            copies = own[:1] or copies
        if not copies:
            return self.vectors[template]
        mean: Float64 = np.mean([self.vectors[copy] for copy in copies], axis=0, dtype=np.float64)
        return mean.astype(self.vectors[template].dtype)


def load_run(path: Path, version: str = LAST) -> SavedRun:
    """Read a run folder.

    Args:
        path: the folder.
        version: which model, see `version_called`.

    Raises:
        RunFolderError: it holds no run, or one of which no version is whole.
        ModelError: that version is not there; it names those that are.
    """
    folder = RunFolder.open(path)
    journal = Journal.read(folder.journal)
    journal.tell()
    try:
        if journal.facts().began is None:
            raise RunFolderError(f"run_dir: '{path}' holds a run that never began; start it with --resume")
        require_files(folder, journal)
        fall_back(folder, journal)
        number, best_by = version_called(version, folder, journal)
        newest = journal.completed()
        if number != newest:
            _require_version(folder, journal, number, best_by)
            log.info("version %d%s; the newest is %d", number, f", the best by {best_by}" if best_by else "", newest)
        return replace(_read(folder, journal, number), best_by=best_by)
    finally:
        journal.close()


def _require_version(folder: RunFolder, journal: Journal, version: int, best_by: str) -> None:
    """Check that a version can be used.

    Raises:
        ModelError: it cannot; the message names those that can.
    """
    newest = journal.completed()
    if version <= newest and not wrong_with_version(folder, journal, version, with_moments=False):
        return
    known = {int(file.stem) for file in folder.models.glob(f"*{SUFFIX}") if file.stem.isdigit()} | journal.models()
    there = [v for v in sorted(known) if v <= newest and not wrong_with_version(folder, journal, v, with_moments=False)]
    why = f", the best by {best_by}," if best_by else ""
    raise ModelError(
        f"--version: {version}{why} is not kept; there are {', '.join(map(str, there))} (model.keep says which stay)"
    )


def _read(folder: RunFolder, journal: Journal, version: int) -> SavedRun:
    config = load_config(folder.config)
    architecture, _ = folder.read_description()
    config.model.allow_encoder()
    model = MTLServerModel.restore(
        architecture,
        folder.tokenizer.read_bytes(),
        config.model.server_model,
        config.definitions(),
        config.sharing_plan(),
    )
    travelling = [scope for scope in model.schemas if not is_private(scope)]
    facts = journal.facts()
    last = {record.task: record.fell_back for record in journal.guarded()}
    headers = {**config.headers(), **facts.headers}
    vectors = ByTemplate(JournalledModels(ModelFiles(folder.path, model.schemas), journal).read(version))
    model.load_vectors({scope: vectors[scope] for scope in travelling})
    fallback_tasks = frozenset(task for task, fell in last.items() if fell)
    return SavedRun(config, model, version, vectors, fallback_tasks, facts.units, headers, facts.scales)
