"""The report of a run from its folder alone, also while it runs: nothing is written there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.errors import RunFolderError
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, is_private
from server.core.phases import ENDED
from server.reporting.copies import distances
from server.reporting.relations import Relations, relations_of
from server.reporting.report import build_report
from server.reporting.shares import influence_of
from server.reporting.values import Report
from server.runs.kept import scored_in
from server.runs.recovery import require_files
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles


def read_run(path: Path) -> tuple[Report, Relations | None, list[str]]:
    """The report as of the last commit, how tasks or members relate, and what leaves a client.

    A report of this sort has no digest of the model.

    Raises:
        RunFolderError: there is no run, or it is damaged.
    """
    folder = RunFolder.open(path)
    journal = Journal.read(folder.journal)
    try:
        facts = journal.facts()
        if facts.began is None:
            raise RunFolderError(f"run_dir: '{path}' holds a run that never began; start it with --resume")
        require_files(folder, journal)
        settings, scored = scored_in(folder, journal)
        rounds, related, cosines = journal.rounds(), journal.relations(), journal.cosines()
        influence = influence_of(settings, rounds, journal.totals())
        status = facts.ended.value if facts.ended in ENDED else "running or interrupted"
        measured = cosines, related, journal.guarded(), influence, scored.best, journal.certificates()
        completed, clients = journal.completed(), journal.clients()
        report = build_report(facts, completed, settings.tasks, rounds, clients, status, "", *measured)
        schemas = folder.read_description()[1]
        relations = relations_of(cosines, related)
        if relations is None and completed and any(Scope.parse(name).is_member for name in schemas):
            files = ModelFiles(folder.path, schemas)
            relations = distances(JournalledModels(files, journal).read(completed), completed)
        return report, relations, _leaves(schemas)
    finally:
        journal.close()


def _leaves(schemas: Mapping[str, ParameterSchema]) -> list[str]:
    lines = [
        f"{name}: {schema.size:,} parameters, of which the change is sent each round"
        for name, schema in schemas.items()
        if not is_private(name)
    ]
    lines += [f"{name}: {schema.size:,} parameters, never sent" for name, schema in schemas.items() if is_private(name)]
    lines.append("per task and round: training rows, mean training loss, seconds, and sums over the validation rows")
    return [*lines, "everything else: --mode check --tasks TASK lists it for a client"]
