"""The initial model of a run, made once. Runs in a process of its own, so that the coordinator needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import Config
from common.errors import ConfigError, ModelError
from common.models.multitask import initialise_heads
from common.parameters.capacity import blocks_of, frozen_problem, trains_problem
from common.parameters.schema import ParameterSchema
from common.parameters.scope import is_private
from common.parameters.vector import Vector
from common.standardising import InputScale
from common.targets import TargetUnits
from server.core.readers import Unread
from server.runs.model import MTLServerModel
from server.runs.run_folder import DESCRIPTION, RunFolder
from server.runs.unread import unread_by
from server.runs.warm_start import find_start
from server.storage.models import ModelFiles


@dataclass(frozen=True)
class InitialModel:
    """Where the encoder's values come from, and the model's summary, for the log and the report.

    `units` are those in which heads of an earlier run work, `scales` those of its tasks' rows.
    """

    origin: str
    summary: str
    units: Mapping[str, TargetUnits]
    scales: Mapping[str, InputScale]


def prepare_run(config: Config, path: Path) -> InitialModel:
    """Make the model and write what the coordinator and later readers of the run folder need of it.

    Raises:
        ModelError: the encoder cannot be found, built or read, or does not fit the run to start from.
        RunFolderError: there is no such run.
        ConfigError: the sharing plan leaves a parameter without a scope, or layers are to be frozen that there are not.
    """
    section = config.model
    start = find_start(config) if section.warm_start else None
    source = section.inputs.find_encoder(section) if start is None else start.source
    model = MTLServerModel.create(
        source,
        section.pair_mode,
        section.max_length,
        config.definitions(),
        config.sharing_plan(),
        config.run.seed,
        config.training.procedure.is_dual,
    )
    model.base_model = section.server_model
    origin = source.origin if start is None else f"{source.origin}; {start.give_heads(model)}"
    if config.training.frozen_rounds and (
        problem := frozen_problem(config.training.frozen_layers, blocks_of(model.schemas))
    ):
        raise ConfigError(problem)
    if problem := trains_problem("blend.trains", config.blend.trains, blocks_of(model.schemas)):
        raise ConfigError(problem)
    folder = RunFolder(path)
    folder.write(folder.tokenizer, model.tokenizer_bytes)
    unread = unread_by(model.model) if config.aggregation.among_readers else {}
    folder.write(folder.path / DESCRIPTION, folder.description(model.architecture, model.schemas, unread))
    files = ModelFiles(path, model.schemas)
    values = {scope: vector.numpy() for scope, vector in model.vectors.items()}
    _require_finite(values, model.schemas, section.warm_start or section.server_model)
    public = {scope: vector for scope, vector in values.items() if not is_private(scope)}
    files.write(0, public, public)
    files.write_private({scope: vector for scope, vector in values.items() if is_private(scope)})
    if start is None:
        return InitialModel(origin, model.summary(), {}, {})
    scales = {task: scale for task, scale in start.scales.items() if task in model.tasks}
    return InitialModel(origin, model.summary(), start.units_of(model), scales)


def _require_finite(values: Mapping[str, Vector], schemas: Mapping[str, ParameterSchema], source: str) -> None:
    """Check the first version, as every later one is checked."""
    for scope, vector in values.items():
        for entry in schemas[scope].entries:
            if not np.isfinite(vector[entry.offset : entry.offset + entry.count]).all():
                problem = f"parameter '{entry.name}' holds NaN or infinite values"
                raise ModelError(f"{source}: {problem}; choose other weights, or model.weights: random")


@dataclass(frozen=True)
class NewHeads:
    """What tasks bring that join a run: schemas of all scopes, the heads' initial values by name, the new summary.

    `unread` are the parameters that tasks do not read, where a run asks for them.
    """

    schemas: Mapping[str, ParameterSchema]
    values: Mapping[str, Vector]
    summary: str
    unread: Unread


def prepare_heads(config: Config, path: Path, added: Sequence[str]) -> NewHeads:
    """Make the heads of tasks that join the run in a folder; nothing is written.

    Raises:
        ModelError: a head cannot be built.
        ConfigError: the sharing plan leaves a parameter without a scope.
    """
    folder = RunFolder(path)
    architecture, _ = folder.read_description()
    name, tasks, plan = config.model.server_model, config.definitions(), config.sharing_plan()
    model = MTLServerModel(architecture, folder.tokenizer.read_bytes(), name, tasks, plan)
    initialise_heads(model.model, config.run.seed)
    values = {n: v.numpy() for task in added for n, v in model.get_task_head_parameters(task).items()}
    unread = unread_by(model.model) if config.aggregation.among_readers else {}
    return NewHeads(model.schemas, values, model.summary(), unread)
