"""The coordinator's whole model: the encoder, every task's head, and one flat vector per scope."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import ModelError
from common.inputs import input_described
from common.models.encoder import EncoderSource
from common.models.multitask import MultiTaskModel, initialise
from common.models.packed_tokenizer import pack_tokenizer, tokenizer_digest
from common.orders import ModelArchitecture
from common.parameters.flat import bind, shapes_of, tensors_of, types_of
from common.parameters.plan import SharingPlan
from common.parameters.vector import Vector
from common.tasks import TaskDefinition

SHARED_PREFIX = "encoder."


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of the encoder and of each task's head."""

    shared: int
    heads: dict[str, int]

    @property
    def total(self) -> int:
        """Parameters of the whole model."""
        return self.shared + sum(self.heads.values())


class MTLServerModel:
    """The multi-task model as the coordinator holds it.

    `model` is the `MultiTaskModel`; its parameters are views into `vectors`, one float32 vector per scope of
    `schemas`, private scopes included. In the methods, *shared* and *head* go by module (`encoder.*`,
    `heads.<task>.*`), whichever scopes the sharing plan puts them into.
    """

    def __init__(
        self,
        architecture: ModelArchitecture,
        tokenizer_bytes: bytes,
        base_model: str,
        tasks: Sequence[TaskDefinition],
        plan: SharingPlan,
    ) -> None:
        self.architecture = architecture
        self.tokenizer_bytes = tokenizer_bytes
        self.base_model = base_model
        self.tasks = {task.name: task for task in tasks}
        self.model = MultiTaskModel(architecture, tasks)
        self.schemas = plan.schemas(shapes_of(self.model), types_of(self.model))
        self.vectors = bind(self.model, self.schemas)
        self.model.eval()

    @classmethod
    def create(
        cls,
        source: EncoderSource,
        pair_mode: str,
        max_length: int,
        tasks: Sequence[TaskDefinition],
        plan: SharingPlan,
        seed: int,
        exact_heads: bool = False,
    ) -> MTLServerModel:
        """A new model: the source's weights where it has them, else random values that depend on `seed` alone.

        With `exact_heads` heads are float64 and begin at 0.

        Raises:
            ModelError: the encoder cannot be built, cannot read `max_length` tokens or does not fit its weights.
            ConfigError: the plan leaves a parameter without a scope.
        """
        limit = input_described(source.config_json).longest_input(source.config_json)
        if limit is not None and max_length > limit:
            raise ModelError(f"model.max_length: {max_length} tokens, but the encoder reads at most {limit}")
        packed = pack_tokenizer(source.tokenizer) if source.tokenizer is not None else b""
        architecture = ModelArchitecture(
            source.config_json, pair_mode, max_length, tokenizer_digest(packed), len(packed), exact_heads
        )
        made = cls(architecture, packed, source.origin, tasks, plan)
        initialise(made.model, seed)
        if source.state is not None:
            try:
                unknown = made.model.encoder.load_state_dict(source.state, strict=False).unexpected_keys
            except RuntimeError as error:
                raise ModelError(f"model.server_model: weights do not fit: {str(error).splitlines()[-1]}") from None
            if unknown:
                raise ModelError(f"model.server_model: weights do not fit: '{unknown[0]}' is not in the encoder")
        return made

    @classmethod
    def restore(
        cls,
        architecture: ModelArchitecture,
        tokenizer_bytes: bytes,
        base_model: str,
        tasks: Sequence[TaskDefinition],
        plan: SharingPlan,
    ) -> MTLServerModel:
        """The model of an earlier run; all values are zero until `load_vectors`.

        Raises:
            ModelError: the encoder cannot be built.
            ConfigError: the plan leaves a parameter without a scope.
        """
        made = cls(architecture, tokenizer_bytes, base_model, tasks, plan)
        for vector in made.vectors.values():
            vector.zero_()
        return made

    def parameter_counts(self) -> ParameterCounts:
        """How many parameters the encoder and each head have, tied ones counted once."""
        heads = {task: _elements(self.get_task_head_parameters(task)) for task in self.tasks}
        return ParameterCounts(_elements(self.get_shared_parameters()), heads)

    def summary(self) -> str:
        """Base model, tasks and numbers of parameters, as an aligned table."""
        counts = self.parameter_counts()
        numbers = {
            "encoder (shared)": counts.shared,
            **{f"head {task}": count for task, count in counts.heads.items()},
            "total": counts.total,
        }
        kind = json.loads(self.architecture.encoder_config)["model_type"]
        names = max(map(len, numbers))
        digits = len(f"{counts.total:,}")
        notes = {f"head {task.name}": _described(task) for task in self.tasks.values()}
        rows = [f"{name:<{names}}  {n:>{digits},}  {notes.get(name, '')}".rstrip() for name, n in numbers.items()]
        head = [
            f"{'base model':<{names}}  {kind}, {self.base_model}",
            f"{'tasks':<{names}}  {', '.join(self.tasks)} (pairs: {self.architecture.pair_mode})",
        ]
        return "\n".join([*head, *rows])

    def get_shared_parameters(self) -> dict[str, Tensor]:
        """Copies of the encoder's parameters by full name."""
        return self._copies(SHARED_PREFIX)

    def get_task_head_parameters(self, task: str) -> dict[str, Tensor]:
        """Copies of the parameters of a task's head by full name.

        Raises:
            ModelError: the task is unknown.
        """
        return self._copies(self._head_prefix(task))

    def get_model_slice_for_task(self, task: str) -> dict[str, Tensor]:
        """Copies of the encoder's parameters and of those of a task's head: what the task needs.

        Raises:
            ModelError: the task is unknown.
        """
        return self.get_shared_parameters() | self.get_task_head_parameters(task)

    def set_shared_parameters(self, values: Mapping[str, Tensor]) -> None:
        """Replace the encoder's parameters, all at once or not at all.

        Raises:
            ModelError: a name is missing or too many, a shape is another, or a value is not finite.
        """
        self._replace(SHARED_PREFIX, values)

    def set_task_head_parameters(self, task: str, values: Mapping[str, Tensor]) -> None:
        """Replace the parameters of a task's head, all at once or not at all.

        Raises:
            ModelError: the task is unknown, a name is missing or too many, a shape is another, or a value not finite.
        """
        self._replace(self._head_prefix(task), values)

    def load_vectors(self, vectors: Mapping[str, Vector]) -> None:
        """Replace whole scopes, all of those given or none; the others keep their values.

        Raises:
            ModelError: a scope is unknown, has another size or element type, or a value is not finite.
        """
        for scope, vector in vectors.items():
            if scope not in self.schemas:
                raise ModelError(f"scope '{scope}' is not in this model; it has {', '.join(self.schemas)}")
            size = self.schemas[scope].size
            dtype = self.schemas[scope].dtype
            if vector.shape != (size,) or vector.dtype != dtype.value:
                raise ModelError(f"scope '{scope}': {vector.dtype} {vector.shape} given, {dtype} ({size},) needed")
            if not np.isfinite(vector).all():
                raise ModelError(f"scope '{scope}': a value is not finite")
        parameters = tensors_of(self.model)
        with torch.no_grad():
            for scope, vector in vectors.items():
                for entry in self.schemas[scope].entries:
                    values = torch.tensor(vector[entry.offset : entry.offset + entry.count])
                    parameters[entry.name].copy_(values.view(entry.shape))

    def _head_prefix(self, task: str) -> str:
        if task not in self.tasks:
            raise ModelError(f"task '{task}' is not in this model; it has {', '.join(self.tasks)}")
        return f"heads.{task}."

    def _copies(self, prefix: str) -> dict[str, Tensor]:
        found = tensors_of(self.model).items()
        return {name: value.detach().clone() for name, value in found if name.startswith(prefix)}

    @torch.no_grad()
    def _replace(self, prefix: str, values: Mapping[str, Tensor]) -> None:
        own = {name: value for name, value in tensors_of(self.model).items() if name.startswith(prefix)}
        for name in sorted(own.keys() ^ values.keys()):
            raise ModelError(f"parameter '{name}' is {'missing' if name in own else 'not one of these'}")
        for name, value in values.items():
            if value.shape != own[name].shape:
                raise ModelError(f"parameter '{name}': shape {tuple(value.shape)}, not {tuple(own[name].shape)}")
            if not torch.isfinite(value).all():
                raise ModelError(f"parameter '{name}': a value is not finite")
        for name, value in values.items():
            own[name].copy_(value)


def _elements(parameters: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in parameters.values())


def _described(task: TaskDefinition) -> str:
    text = f"{task.type}, {len(task.labels)} labels" if task.labels else str(task.type)
    return f"{text}, pairs" if task.pair else text
