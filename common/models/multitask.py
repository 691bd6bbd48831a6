"""One encoder and one head per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ModelError
from common.models.batch import Batch, FeatureBatch, TextBatch
from common.models.encoder import Encoder, build_encoder, mean_vectors, sentence_vectors, token_vectors
from common.models.heads import Head, MaskedHead, SiameseHead
from common.models.mlp import MLPConfig, MLPEncoder
from common.models.randomness import borrowed_generator
from common.orders import ModelArchitecture
from common.seeds import derive_seed
from common.tasks import TaskDefinition, TaskType

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DEFAULT_DROPOUT = 0.1

# One call of the encoder for both texts of a pair saves 5 to 15 % in small batches; in large ones (tokens, padding
# included) two calls use the processor's caches better.
LARGEST_STACK = 4096
MOST_PADDING = 1.1

PAIR_HEADS: dict[str, type[Head]] = {"cross": Head, "siamese": SiameseHead}
"""The head of a pair task by the model's encoding; single texts always have a `Head`."""


class MultiTaskModel(nn.Module):
    """An encoder shared by all tasks and a head for each: `encoder.…` and `heads.<task>.…`.

    Values are arbitrary until `initialise` or a load; building leaves torch's global generator as it was.

    Args:
        architecture: configuration of the encoder and how pairs are read.
        tasks: the tasks whose heads this copy holds.

    `precision` is what matrices are multiplied in; parameters, gradients and outputs are float32 in any case.

    Raises:
        ModelError: the encoder cannot be built, the encoding is unknown or a task's name cannot be used.
    """

    def __init__(self, architecture: ModelArchitecture, tasks: Sequence[TaskDefinition]) -> None:
        super().__init__()
        if architecture.encoding not in PAIR_HEADS:
            raise ModelError(f"encoding '{architecture.encoding}' is not one of {', '.join(PAIR_HEADS)}")
        self.architecture = architecture
        self.precision = torch.float32
        with borrowed_generator():
            self.encoder: Encoder = build_encoder(architecture.encoder_config)
            self.heads = nn.ModuleDict()
            for task in tasks:
                self._add_head(task)

    def part(self, tasks: Sequence[str]) -> MultiTaskModel:
        """A model of the same encoder and some of the same heads: modules are shared, nothing is copied."""
        made = MultiTaskModel.__new__(MultiTaskModel)
        nn.Module.__init__(made)
        made.architecture, made.precision, made.encoder = self.architecture, self.precision, self.encoder
        made.heads = nn.ModuleDict({task: self.heads[task] for task in tasks})
        return made

    def forward(self, task: str, batch: Batch) -> Tensor:
        """The outputs of a task's head for a batch, float32 (rows, outputs); `batch.pair` is read in siamese pairs.

        A masked task has a row of outputs, one per word of the vocabulary, for each of `batch.positions`.
        """
        if self.precision == torch.float32:
            return self._outputs(task, batch)
        # Left after each forward pass, since autocast keeps its copies of the weights until then.
        rows = batch.features if isinstance(batch, FeatureBatch) else batch.input_ids
        with torch.autocast(rows.device.type, self.precision):
            return self._outputs(task, batch).float()

    def _outputs(self, task: str, batch: Batch) -> Tensor:
        head = self.heads[task]
        if isinstance(head, SiameseHead):
            if isinstance(batch, FeatureBatch) or batch.pair is None:
                raise ValueError(f"task {task} reads pairs of texts, but the batch has no second texts")
            outputs: Tensor = head(*self._mean_vectors_of_pair(batch, batch.pair))
        elif isinstance(head, MaskedHead):
            outputs = head(self._hidden_words(batch), self._word_table().weight)
        else:
            outputs = head(sentence_vectors(self.encoder, batch))
        return outputs

    def _hidden_words(self, batch: Batch) -> Tensor:
        """The vectors of the tokens at a masked batch's positions, (words, hidden)."""
        if isinstance(batch, FeatureBatch) or batch.positions is None:
            raise ValueError("a masked task reads batches that say which words are hidden")
        return token_vectors(self.encoder, batch).flatten(0, 1).index_select(0, batch.positions)

    def _word_table(self) -> nn.Embedding:
        found = self.encoder.get_input_embeddings()
        if not isinstance(found, nn.Embedding):
            raise ModelError("a masked_lm task needs an encoder with word embeddings; leave the task out")
        return found

    def _mean_vectors_of_pair(self, first: TextBatch, second: TextBatch) -> tuple[Tensor, Tensor]:
        """The vectors of both texts, (rows, hidden) each, in whichever number of encoder calls is faster."""
        assert not isinstance(self.encoder, MLPEncoder)
        rows, separate = len(first.input_ids), first.input_ids.numel() + second.input_ids.numel()
        together = 2 * rows * max(first.input_ids.shape[1], second.input_ids.shape[1])
        if together > min(MOST_PADDING * separate, LARGEST_STACK):
            return mean_vectors(self.encoder, first), mean_vectors(self.encoder, second)
        stacked = _stack(first, second, self.encoder.config.pad_token_id or 0)
        both = mean_vectors(self.encoder, stacked)
        return both[:rows], both[rows:]

    def _add_head(self, task: TaskDefinition) -> None:
        config = self.encoder.config
        head: nn.Module
        if task.type is TaskType.MASKED_LM:
            words, width = self._word_table().weight.shape
            head = MaskedHead(config.hidden_size, width, words)
        else:
            kind = PAIR_HEADS[self.architecture.encoding] if task.pair else Head
            head = kind(task, config.hidden_size, _dropout(config))
        try:
            self.heads[task.name] = head
        except KeyError:
            raise ModelError(f"tasks.{task.name}: a head cannot have this name; choose another") from None


def draws_in_training(model: MultiTaskModel) -> bool:
    """Whether a training step takes random numbers from torch's generator; False only where that is certain."""
    return not (isinstance(model.encoder, MLPEncoder) and model.encoder.config.hidden_dropout_prob == 0.0)


def initialise(model: MultiTaskModel, seed: int) -> None:
    """Give every parameter its initial random value, in place.

    The encoder's values depend only on the seed, each head's only on the seed and its task's name: never on the
    other tasks or on torch's global generator, which stays as it was.
    """
    with borrowed_generator(derive_seed(seed, "encoder")):
        fresh = build_encoder(model.architecture.encoder_config)
    model.encoder.load_state_dict(fresh.state_dict())
    initialise_heads(model, seed)


def initialise_heads(model: MultiTaskModel, seed: int) -> None:
    """The same for the heads alone."""
    for task, head in model.heads.items():
        assert isinstance(head, Head | MaskedHead)
        head.reset(torch.Generator().manual_seed(derive_seed(seed, "head", task)))


def _dropout(config: PretrainedConfig | MLPConfig) -> float:
    """The rate before the head, in (0, 1): as in Hugging Face's own classification models."""
    rate = getattr(config, "classifier_dropout", None)
    return float(getattr(config, "hidden_dropout_prob", DEFAULT_DROPOUT) if rate is None else rate)


def _stack(first: TextBatch, second: TextBatch, padding_id: int) -> TextBatch:
    """Both batches as one of twice the rows."""
    length = max(first.input_ids.shape[1], second.input_ids.shape[1])

    def joined(name: str, value: int) -> Tensor:
        parts = [getattr(first, name), getattr(second, name)]
        return torch.cat([functional.pad(part, (0, length - part.shape[1]), value=value) for part in parts])

    return TextBatch(joined("input_ids", padding_id), joined("attention_mask", 0))
