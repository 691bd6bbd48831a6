"""A run that goes on with more tasks than it began with.

The new heads begin as a fresh run with the same seed would begin them. Values, versions and moments of what was there
stay as they are: in every scope the new parameters come last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.config import Config, render
from common.config.secure_section import SecureAggregationSection
from common.errors import RunFolderError
from common.parameters.schema import ParameterEntry, ParameterSchema
from common.parameters.scope import Scope, ScopeKind, is_private, moment_name
from common.parameters.vector import Vector
from server.aggregation.averaging import average_names
from server.aggregation.strategy import strategy_of
from server.runs.recovery import note_file
from server.runs.run_folder import CONFIG, DESCRIPTION, RunFolder
from server.storage.files import digest_of, write_whole
from server.storage.journal import Journal
from server.storage.models import PRIVATE_NAME, JournalledModels, ModelFiles, moments_name, version_name

if TYPE_CHECKING:  # it brings torch, which a coordinator at work does not need
    from server.runs.preparation import NewHeads

Schemas = Mapping[str, ParameterSchema]
Fresh = Callable[[str, ParameterEntry], Vector]
"""The values of a parameter of a scope that was not there before."""
_OF_A_START = ("stage_seconds", "members")
"""Keys of `secure_aggregation` that may change when a run goes on."""


def same_federation(before: Config, now: Config, where: Path) -> Config:
    """The configuration to go on with: the run's tasks in their order, then those that are new.

    Raises:
        RunFolderError: something differs that must stay as it was; it names the key and the run's configuration.
    """
    old, new = (config.model_dump(mode="json") for config in (before, now))
    if gone := [name for name in before.tasks if name not in now.tasks]:
        raise RunFolderError(f"tasks.{gone[0]}: missing, but a task of the run (see {where}); restore it")
    new["tasks"] = {name: new["tasks"][name] for name in before.tasks}
    dual = before.training.procedure.is_dual or now.training.procedure.is_dual
    stays = ("model", "tasks", "sharing", "relation", "aggregation", "guard", "blend", "privacy", "training.anchor")
    counted = ("federation.client_fraction",) if now.privacy.of_coordinator else ()  # epsilon was counted with it
    sums = [f"secure_aggregation.{key}" for key in SecureAggregationSection.model_fields if key not in _OF_A_START]
    for section in (*stays, *sums, *counted, *(("training.procedure",) if dual else ())):
        if problem := _difference(section, _at(old, section), _at(new, section)):
            raise RunFolderError(f"{problem} (see {where}); restore it or choose another run_dir")
    if "federation" in (before.data.statistics, now.data.statistics) and before.data.statistics != now.data.statistics:
        was = f"data.statistics: {now.data.statistics} differs from the run's {before.data.statistics}"
        raise RunFolderError(f"{was} (see {where}); restore it or choose another run_dir")
    if before.run.seed != now.run.seed:
        raise RunFolderError(f"run.seed: {now.run.seed} is not the run's {before.run.seed}; leave --seed out")
    names = [*before.tasks, *(name for name in now.tasks if name not in before.tasks)]
    return now.model_copy(update={"tasks": {name: now.tasks[name] for name in names}})


def _at(body: Any, path: str) -> object:
    for key in path.split("."):
        body = body[key]
    return body


def _difference(path: str, before: object, now: object) -> str | None:
    """The first key whose value differs, in words, or None."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = (_difference(f"{path}.{key}", before.get(key), now.get(key)) for key in {**before, **now})
        return next((line for line in found if line), None)
    return None if before == now else f"{path}: {now} differs from the run's {before}"


def grow(config: Config, before: Config, new: NewHeads, folder: RunFolder, journal: Journal) -> None:
    """Give the run's files the new tasks. Whenever the process dies in between, doing it again does all of it.

    Files come first, and with more in them than the description names they can still be read by it; then the
    description, and last the configuration, by which the new tasks are not new any more.

    Raises:
        RunFolderError: a file cannot be read or written.
    """
    architecture, old = folder.read_description()
    files, grown = ModelFiles(folder.path, old), ModelFiles(folder.path, new.schemas)
    public, private = ([scope for scope in new.schemas if is_private(scope) is kept] for kept in (False, True))

    def initial(scope: str, entry: ParameterEntry) -> Vector:
        is_zero = Scope.parse(scope).kind in (ScopeKind.DUAL, ScopeKind.CONTROL, ScopeKind.SUPPORT)
        return _constant(0.0, scope, entry) if is_zero else new.values[entry.name].ravel()

    version = journal.completed()
    stored = JournalledModels(files, journal).read(version)
    values = {s: _grown(s, stored.get(s), old, new.schemas, initial) for s in dict.fromkeys([*public, *stored])}
    first = _first_moments(config, values, initial) if version else {}
    known = [name for name, (scope, _) in first.items() if Scope.parse(scope).template in old]
    kept = files.read_moments(version, known)
    moments = {name: _grown(scope, kept.get(name), old, new.schemas, fresh) for name, (scope, fresh) in first.items()}
    starts = files.read_private()
    starts = {s: _grown(s, starts.get(s), old, new.schemas, initial) for s in private}
    made: dict[str, list[bytes | memoryview]] = {
        **({moments_name(version): grown.moments.whole(moments)} if moments else {}),
        version_name(version): grown.versions.whole(values),
        PRIVATE_NAME: grown.private(starts),
        DESCRIPTION: [folder.description(architecture, new.schemas, new.unread)],
    }
    config_text = render(before.model_copy(update={"tasks": config.tasks})).encode()
    # Until all are written, each file may be as it was or as it will be.
    digests = {name: digest_of(*chunks) for name, chunks in made.items()}
    for name, digest in (digests | {CONFIG: digest_of(config_text)}).items():
        journal.note(name, {digest, *journal.digests(name)}, journal.copy(name))
    if journal.model(version) is not None:
        journal.enclose(version, b"".join(made[version_name(version)]), kept=range(version))
        if not files.versions.path(version).is_file():
            del made[version_name(version)]
    journal.commit(())
    for name, chunks in made.items():
        write_whole(folder.path / name, chunks)
    for name, digest in digests.items():
        journal.note(name, [digest])
    for name in (PRIVATE_NAME, DESCRIPTION):
        note_file(journal, name, (folder.path / name).read_bytes())
    note_file(journal, CONFIG, config_text, journal.digests(CONFIG))
    journal.commit(())
    folder.write(folder.config, config_text)


def _first_moments(config: Config, values: Mapping[str, Vector], initial: Fresh) -> dict[str, tuple[str, Fresh]]:
    """The scope and the first values of every moment that the coordinator has, by its name."""
    strategy = strategy_of(config)
    found: dict[str, tuple[str, Fresh]] = {
        moment_name(moment, scope): (scope, partial(_constant, value))
        for scope in values
        for moment, value in strategy.mover_of(scope)[0].moments
        if not Scope.parse(scope).is_derived
    }
    averages = average_names(values) if strategy.average is not None else {}
    return found | {name: (scope, initial) for scope, name in averages.items()}


def _constant(value: float, _: str, entry: ParameterEntry) -> Vector:
    return np.full(entry.count, value, dtype=np.float32)


def _grown(
    scope: str,
    vector: Vector | None,
    old: Schemas,
    new: Schemas,
    fresh: Fresh,
) -> Vector:
    """A scope's vector by the new layout: what the old one has, and `fresh` for the rest."""
    template = Scope.parse(scope).template
    entries = old[template].entries if vector is not None else ()
    known = {e.name: vector[e.offset : e.offset + e.count] for e in entries if vector is not None}
    grown = [known[e.name] if e.name in known else fresh(scope, e) for e in new[template].entries]
    return np.concatenate(grown, dtype=new[template].dtype.value)
