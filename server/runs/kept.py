"""Which versions of a run there are besides the newest, and what they are called: best, last, or by number."""

from __future__ import annotations

from common.config import load_config
from common.errors import ModelError
from server.core.best import goal, kept_beside, primary, recalled
from server.core.facts import Scored
from server.core.guard import standing
from server.core.state import RunSettings
from server.runs.assembly import make_settings
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal

BEST, LAST = "best", "last"


def scored_in(folder: RunFolder, journal: Journal) -> tuple[RunSettings, Scored]:
    """What the scores of a run say of its versions, and the settings by which they are compared."""
    _, schemas = folder.read_description()
    settings = make_settings(load_config(folder.config), "", schemas)
    fallback_tasks = standing(journal.guarded()).fallback_tasks
    return settings, recalled(settings, fallback_tasks, journal.scored_rounds(), asked=True)


def kept_versions(folder: RunFolder, journal: Journal) -> list[int]:
    """The versions that a run keeps because of their scores or their numbers."""
    settings, scored = scored_in(folder, journal)
    return sorted(kept_beside(settings, scored, journal.completed()))


def version_called(name: str, folder: RunFolder, journal: Journal) -> tuple[int, str]:
    """The version that a person means, and by what it is the best, if that is what it was asked for as.

    Args:
        name: `best`, `best:<task>`, `last` or a number; empty: the best one where the run keeps it, else the last.
        folder: the run's folder.
        journal: its journal.

    Raises:
        ModelError: it is none of these, or nothing has been scored by which one could be the best.
    """
    newest = journal.completed()
    if name.isdecimal():
        return int(name), ""
    settings, scored = scored_in(folder, journal)
    word, _, task = name.partition(":")
    if name == LAST or (not name and goal(settings) not in scored.best) or (not name and not settings.keep.best):
        return newest, ""
    if word not in (BEST, "") or (":" in name and not settings.definition(task)):
        tasks = ", ".join(f"{BEST}:{known.name}" for known in settings.tasks)
        raise ModelError(f"--version: '{name}' is none of {BEST}, {LAST}, a round's number, {tasks}")
    definition = settings.definition(task)
    criterion = goal(settings) if definition is None else primary(definition)
    if criterion not in scored.best:
        raise ModelError(f"--version: no version has scores of {criterion} yet; write {LAST}, which is {newest}")
    return scored.best[criterion].version, criterion
