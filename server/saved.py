"""A run's model, read back from its folder; no hub and no coordinator needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.config import Config, load_config
from common.errors import ModelError
from common.parameters.plan import is_private
from server.model import MTLServerModel
from server.run_folder import RunFolder
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles


@dataclass(frozen=True)
class SavedRun:
    """The newest durable model of a run, with the configuration that made it. `version` is its round."""

    config: Config
    model: MTLServerModel
    version: int

    def require_head(self, task: str) -> None:
        """Check that the coordinator has the task's head.

        Raises:
            ModelError: the task is unknown, or its head is private and never left the clients.
        """
        if task not in self.config.tasks:
            raise ModelError(f"--task: '{task}' is not in this run; it has {', '.join(self.config.tasks)}")
        for scope, schema in self.model.schemas.items():
            if is_private(scope) and any(e.name.startswith((f"heads.{task}.", "encoder.")) for e in schema.entries):
                raise ModelError(
                    f"task '{task}': '{schema.entries[0].name}' is private in this run (sharing.plan: "
                    f"{self.config.sharing.plan}), so the coordinator never saw it; only its clients can use it"
                )


def load_run(path: Path) -> SavedRun:
    """Read a run folder.

    Raises:
        RunFolderError: it holds no complete run.
    """
    folder = RunFolder.open(path)
    config = load_config(folder.config)
    architecture, _ = folder.read_description()
    model = MTLServerModel.restore(
        architecture,
        folder.tokenizer.read_bytes(),
        config.model.server_model,
        config.definitions(),
        config.sharing_plan(),
    )
    travelling = [scope for scope in model.schemas if not is_private(scope)]
    journal = Journal(folder.journal)
    try:
        version = journal.restore(travelling, 0.0).completed_rounds
        model.load_vectors(JournalledModels(ModelFiles(folder.models, model.schemas), journal).read(version))
    finally:
        journal.close()
    return SavedRun(config, model, version)
