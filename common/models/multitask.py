"""One encoder and one head per task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.inputs import Batch, Encoder, input_described
from common.models.heads import PAIR_HEADS, Head
from common.models.randomness import borrowed_generator
from common.orders import ModelArchitecture
from common.seeds import derive_seed
from common.tasks import TaskDefinition


class MultiTaskModel(nn.Module):
    """An encoder shared by all tasks and a head for each: `encoder.…` and `heads.<task>.…`.

    Values are arbitrary until `initialise` or a load; building leaves torch's global generator as it was.

    Args:
        architecture: configuration of the encoder and how pairs are read.
        tasks: the tasks whose heads this copy holds.

    `precision` is what matrices are multiplied in; parameters, gradients and outputs are float32 in any case.

    Raises:
        ModelError: the encoder cannot be built, the pair mode is unknown or a task's name cannot be used.
    """

    def __init__(self, architecture: ModelArchitecture, tasks: Sequence[TaskDefinition]) -> None:
        super().__init__()
        if architecture.pair_mode not in PAIR_HEADS:
            raise ModelError(f"pair mode '{architecture.pair_mode}' is not one of {', '.join(PAIR_HEADS)}")
        self.architecture = architecture
        self.inputs = input_described(architecture.encoder_config)
        self.precision = torch.float32
        with borrowed_generator():
            self.encoder: Encoder = self.inputs.build_encoder(architecture.encoder_config)
            self.heads = nn.ModuleDict()
            for task in tasks:
                self._add_head(task)

    def part(self, tasks: Sequence[str]) -> MultiTaskModel:
        """A model of the same encoder and some of the same heads: modules are shared, nothing is copied."""
        made = MultiTaskModel.__new__(MultiTaskModel)
        nn.Module.__init__(made)
        made.architecture, made.inputs, made.precision = self.architecture, self.inputs, self.precision
        made.encoder = self.encoder
        made.heads = nn.ModuleDict({task: self.heads[task] for task in tasks})
        return made

    def forward(self, task: str, batch: Batch) -> Tensor:
        """The outputs of a task's head for a batch, float32 (rows, outputs); `batch.pair` is read in siamese pairs.

        Where tokens are asked for, there is a row of outputs for each of `batch.positions`.
        """
        if self.precision == torch.float32:
            return self._outputs(task, batch).float()  # of exact heads; others are float32
        # Left after each forward pass, since autocast keeps its copies of the weights until then.
        with torch.autocast(next(self.parameters()).device.type, self.precision):
            return self._outputs(task, batch).float()

    def head(self, task: str) -> Head:
        """The head of a task."""
        found = self.heads[task]
        assert isinstance(found, Head)
        return found

    def _outputs(self, task: str, batch: Batch) -> Tensor:
        return self.head(task).read(self.encoder, batch)

    def _add_head(self, task: TaskDefinition) -> None:
        head = task.type.head(task, self.architecture.pair_mode, self.encoder)
        try:
            self.heads[task.name] = head.double() if self.architecture.exact_heads else head
        except KeyError:
            raise ModelError(f"tasks.{task.name}: a head cannot have this name; choose another") from None


def draws_in_training(model: MultiTaskModel) -> bool:
    """Whether a training step takes random numbers from torch's generator; False only where that is certain."""
    return model.inputs.draws(model.encoder)


def initialise(model: MultiTaskModel, seed: int) -> None:
    """Give every parameter its initial random value, in place.

    The encoder's values depend only on the seed, each head's only on the seed and its task's name: never on the
    other tasks or on torch's global generator, which stays as it was.
    """
    with borrowed_generator(derive_seed(seed, "encoder")):
        fresh = model.inputs.build_encoder(model.architecture.encoder_config)
    model.encoder.load_state_dict(fresh.state_dict())
    initialise_heads(model, seed)


def initialise_heads(model: MultiTaskModel, seed: int) -> None:
    """The same for the heads alone; exact ones begin at 0, where their dual variables do."""
    for task in model.heads:
        model.head(task).reset(torch.Generator().manual_seed(derive_seed(seed, "head", task)))
        if model.architecture.exact_heads:
            for parameter in model.head(task).parameters():
                nn.init.zeros_(parameter)
