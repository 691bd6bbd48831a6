"""Small models of several kinds with random rows, for tests of local training."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from client.data.tokenised import TokenisedSet, TokenisedTexts
from client.training.compact import Examples
from client.training.loop import Progress, TaskSet
from client.training.own_model import OwnModel
from client.training.work import Work
from common.bodies import TrainingSettings
from common.models.multitask import MultiTaskModel, initialise
from common.orders import ModelArchitecture
from common.parameters.flat import bind
from common.parameters.schema import ParameterSchema
from common.tasks import KNOWN_TASKS

VOCABULARY = 300
LAYER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}
CONFIGS = {
    "bert": {"model_type": "bert", "pad_token_id": 0, **LAYER},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, **LAYER},
    "distilbert": {
        "model_type": "distilbert",
        "dim": 16,
        "hidden_dim": 32,
        "n_layers": 1,
        "n_heads": 2,
        "vocab_size": VOCABULARY,
    },
    "albert": {"model_type": "albert", "pad_token_id": 0, "embedding_size": 8, **LAYER},
    "mpnet": {"model_type": "mpnet", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, **LAYER},
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 40,
        "vocab_size": VOCABULARY,
        "bos_token_id": 299,
        "eos_token_id": 299,
        "pad_token_id": 299,
    },
    "llama": {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **LAYER},
}
SETTINGS = TrainingSettings(
    local_epochs=2,
    batch_size=4,
    learning_rate=1e-2,
    head_learning_rate=1e-2,
    weight_decay=0.01,
    max_grad_norm=0.0,
    eval_batch_size=8,
)
CLIPPED = replace(SETTINGS, max_grad_norm=0.1)


def make_model(kind: str = "bert", pair_mode: str = "siamese", **changes: object) -> MultiTaskModel:
    """A model with heads for sst2 and qqp and the same values every time."""
    architecture = ModelArchitecture(json.dumps(CONFIGS[kind] | changes), pair_mode, 32, "", 0)
    model = MultiTaskModel(architecture, [KNOWN_TASKS["sst2"], KNOWN_TASKS["qqp"]])
    initialise(model, 5)
    return model


def make_sets(padding_id: int, pair_mode: str = "siamese", ids: tuple[int, int] = (3, 150)) -> tuple[TaskSet, ...]:
    """Rows of sst2 and qqp with token ids of that range; validation rows have ids that training rows lack."""
    rng = np.random.Generator(np.random.PCG64(3))
    middle = ids[0] + 2 * (ids[1] - ids[0]) // 3

    def texts(rows: int, high: int, *, types: bool = False) -> TokenisedTexts:
        offsets = np.concatenate([[0], np.cumsum(rng.integers(2, 12, size=rows))])
        values = rng.integers(ids[0], high, size=offsets[-1], dtype=np.int32)
        return TokenisedTexts(values, offsets, rng.integers(0, 2, size=len(values), dtype=np.int8) if types else None)

    def encoded(task: str, rows: int, high: int) -> TokenisedSet:
        pair = task == "qqp"
        second = texts(rows, high) if pair and pair_mode == "siamese" else None
        first = texts(rows, high, types=pair and pair_mode == "cross")
        return TokenisedSet(first, second, rng.integers(0, 2, size=rows), padding_id)

    return tuple(
        TaskSet(KNOWN_TASKS[task], encoded(task, rows, middle), encoded(task, 7, ids[1]))
        for task, rows in (("sst2", 18), ("qqp", 10))
    )


def values_of(model: MultiTaskModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def make_work(
    model: MultiTaskModel,
    sets: Sequence[TaskSet],
    settings: TrainingSettings,
    progress: Progress = lambda done: None,
    compact: bool = False,
    travelling: frozenset[str] | None = None,
) -> Work:
    """All the work of an order on a small model, all of whose parameters travel unless told otherwise."""
    names = frozenset(name for name, _ in model.named_parameters())
    schemas = {"shared": ParameterSchema.of({name: tuple(value.shape) for name, value in model.named_parameters()})}
    vectors = bind(model, schemas)
    received = {scope: vector.detach().clone() for scope, vector in vectors.items()}
    return Work(
        model,
        Examples.of(model, tuple(sets), compact),
        settings,
        9,
        progress,
        names if travelling is None else travelling,
        frozenset(name for name in names if name.startswith("encoder.")),
        OwnModel(schemas, vectors, received, {}),
    )


def no_progress(_: float) -> None:
    """For work that nobody watches."""
