"""How fast a model trains in float32 and in bfloat16 on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from statistics import median

import torch

from client.training.loop import TaskSet, epoch_steps, take_step
from client.training.optimizer import new_optimizer
from common.bodies import TrainingSettings
from common.models.multitask import MultiTaskModel
from common.models.randomness import borrowed_generator
from common.parameters.flat import tensors_of

WARM_UP_STEPS = 3
TIMED_STEPS = 12

FLOAT32 = torch.float32
BFLOAT16 = torch.bfloat16


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16, rather than only a way around."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def time_precisions(
    model: MultiTaskModel, sets: Sequence[TaskSet], settings: TrainingSettings
) -> tuple[float, float] | None:
    """Median seconds of a step in float32 and in bfloat16, or None without anything to train on.

    Takes real steps on real batches, in turns, so that other load on the machine meets both. The model's parameters
    and torch's generators are afterwards as they were.
    """
    steps = epoch_steps(sets, settings.batch_size, 0, 0)
    if not steps:
        return None
    seconds: dict[torch.dtype, list[float]] = {FLOAT32: [], BFLOAT16: []}
    device = next(model.parameters()).device
    with _unchanged(model), borrowed_generator(0, device):
        optimizer = new_optimizer(model, settings)
        model.train()
        for parts in islice(cycle(steps), WARM_UP_STEPS + TIMED_STEPS):
            for precision, taken in seconds.items():
                model.precision = precision
                started = _now(device)
                take_step(model, optimizer, parts, settings.max_grad_norm)
                taken.append(_now(device) - started)
    return median(seconds[FLOAT32][WARM_UP_STEPS:]), median(seconds[BFLOAT16][WARM_UP_STEPS:])


@contextmanager
def _unchanged(model: MultiTaskModel) -> Iterator[None]:
    """Give parameters, statistics, precision and mode of the model back as they were."""
    before = [(tensor, tensor.detach().clone()) for tensor in tensors_of(model).values()]
    precision, training = model.precision, model.training
    try:
        yield
    finally:
        model.precision = precision
        model.train(training)
        for tensor, values in before:
            tensor.grad = None
            tensor.detach().copy_(values)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
