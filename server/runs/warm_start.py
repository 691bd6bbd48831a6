"""A warm start: initial values from the newest published version of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.config import Config
from common.encoders.table import ENCODERS
from common.errors import ModelError, RunFolderError
from common.models.encoder import EncoderSource
from common.models.packed_tokenizer import unpack_tokenizer
from common.standardising import InputScale
from common.targets import TargetUnits
from common.tasks import TaskDefinition
from server.runs.model import SHARED_PREFIX, MTLServerModel
from server.runs.run_folder import JOURNAL
from server.runs.saved import SavedRun, load_run
from server.storage.models import ModelFiles


@dataclass(frozen=True)
class WarmStart:
    """What an earlier run gives: its encoder, and by task the heads that its coordinator had."""

    source: EncoderSource
    tasks: Mapping[str, TaskDefinition]
    heads: Mapping[str, Mapping[str, Tensor]]
    pair_mode: str
    units: Mapping[str, TargetUnits]
    scales: Mapping[str, InputScale]
    """By which the numbers in rows were standardised, and still are."""

    def units_of(self, model: MTLServerModel) -> dict[str, TargetUnits]:
        """The units of the heads that `give_heads` gives: they keep working in those. What labels weigh begins anew."""
        return {n: self.units[n] for n in self._taken(model) if n in self.units and model.tasks[n].type.has_units}

    def give_heads(self, model: MTLServerModel) -> str:
        """Give the heads of tasks that are the same in both runs to `model`; what was taken and what is new."""
        taken = self._taken(model)
        for name in taken:
            model.set_task_head_parameters(name, self.heads[name])
        new = [name for name in model.tasks if name not in taken]
        return f"heads taken: {', '.join(taken) or 'none'}; new: {', '.join(new) or 'none'}"

    def _taken(self, model: MTLServerModel) -> list[str]:
        return [name for name, task in model.tasks.items() if self._fits(task, model.architecture.pair_mode)]

    def _fits(self, task: TaskDefinition, pair_mode: str) -> bool:
        """Whether a task reads and says the same as then; metrics and weight have no part in its head."""
        then = self.tasks.get(task.name)
        if then is None or task.name not in self.heads or (task.pair and pair_mode != self.pair_mode):
            return False
        return (then.type, then.labels, then.pair) == (task.type, task.labels, task.pair)


def find_start(config: Config) -> WarmStart:
    """What the run in `model.warm_start` gives to one with this configuration.

    Encoder parameters that were private there never reached its coordinator; they have that run's own initial values.

    Raises:
        ModelError: that run has another encoder, has published nothing, or shared nothing of its encoder.
        RunFolderError: there is no run, or its files are missing or damaged.
    """
    folder = Path(config.model.warm_start or "")
    if not (folder / JOURNAL).is_file():
        raise RunFolderError(f"model.warm_start: '{folder}' holds no run; give the run folder of an earlier one")
    try:
        saved = load_run(folder)
        private = _give_initial_private_values(saved, folder)
    except RunFolderError as error:
        raise RunFolderError(f"model.warm_start: {error}") from None
    _check(config, saved, folder)
    model = saved.model
    encoder = model.get_shared_parameters()
    still = [name for name in encoder if name in private]
    if len(still) == len(encoder):
        plan = saved.config.sharing.plan
        raise ModelError(f"model.warm_start: the run in '{folder}' shared nothing of its encoder (plan {plan})")
    origin = f"run '{saved.config.run.name}' in '{folder}', version {saved.version}"
    if still:
        origin += f"; {len(still)} of {len(encoder)} encoder tensors were private there: its initial values"
    heads = {name: model.get_task_head_parameters(name) for name in model.tasks}
    tokenizer = unpack_tokenizer(model.tokenizer_bytes) if model.tokenizer_bytes else None
    state = {name.removeprefix(SHARED_PREFIX): value for name, value in encoder.items()}
    return WarmStart(
        EncoderSource(model.architecture.encoder_config, state, tokenizer, origin),
        model.tasks,
        {name: head for name, head in heads.items() if not head.keys() & private},
        model.architecture.pair_mode,
        saved.units,
        saved.scales,
    )


def _give_initial_private_values(saved: SavedRun, folder: Path) -> frozenset[str]:
    """Load what private parameters started from, and give their names."""
    schemas = saved.model.schemas
    private = ModelFiles(folder, schemas).read_private()
    saved.model.load_vectors(private)
    return frozenset(entry.name for scope in private for entry in schemas[scope].entries)


def _check(config: Config, saved: SavedRun, folder: Path) -> None:
    then, now = saved.config.model, config.model
    for key in ("server_model", "tokenizer", *ENCODERS):
        if getattr(then, key) != getattr(now, key):
            remedy = "write the same, or leave warm_start out"
            raise ModelError(f"model.{key}: differs from that of the run in '{folder}' (model.warm_start); {remedy}")
    if saved.scales and config.data.statistics != "federation":
        told = f"{config.data.statistics}, but the run in '{folder}' standardised its rows by those of all clients"
        raise ModelError(f"data.statistics: {told} (model.warm_start); write federation")
    if saved.version == 0:
        raise ModelError(f"model.warm_start: the run in '{folder}' has published no round yet; let it train first")
