"""One head per task: from the encoder's vectors to outputs, and from outputs to a loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TaskDefinition, TaskType

INITIAL_STD = 0.02

COSINE_START = 2.5
"""How many units lie between the first scores of unrelated (cosine 0) and of equal texts (1); STS-B's range from 0 to 5
has two and a half, whose middle is the mean score."""

Reduction = Literal["mean", "sum", "none"]


class Head(nn.Module):
    """Dropout and a linear layer over one vector per example, as in `BertForSequenceClassification`."""

    def __init__(self, task: TaskDefinition, features: int, dropout: float) -> None:
        super().__init__()
        self.task_type = task.type
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, task.outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        """Outputs (rows, outputs) for vectors (rows, hidden)."""
        outputs: Tensor = self.linear(self.dropout(vectors))
        return outputs

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw initial values from a generator on the CPU: normal weights (std 0.02), zero biases."""
        self.linear.weight.copy_(torch.empty(self.linear.weight.shape).normal_(std=INITIAL_STD, generator=generator))
        self.linear.bias.zero_()


class SiameseHead(Head):
    """A head over two vectors per example: u, v, abs(u - v), u * v and cosine(u, v).

    Source: InferSent (Conneau et al., 2017) for the first four; the cosine is what sentence encoders are trained on.
    """

    def __init__(self, task: TaskDefinition, hidden: int, dropout: float) -> None:
        super().__init__(task, 4 * hidden + 1, dropout)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        """Outputs (rows, outputs) for the vectors of first and second texts, (rows, hidden) each."""
        cosine = functional.cosine_similarity(first, second, dim=-1).unsqueeze(-1)
        features = torch.cat([first, second, (first - second).abs(), first * second, cosine], dim=-1)
        return super().forward(features)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """As in `Head`; a regression starts as `COSINE_START` * (cosine(u, v) - 1/2) instead.

        From small random weights, the many u, v and abs(u - v) first grow to meet the mean score and bury the
        similarity that the encoder already knows: on 1,000 rows of STS-B that costs 0.3 of Spearman's rho.
        """
        super().reset(generator)
        if self.task_type is TaskType.REGRESSION:
            self.linear.weight.zero_()
            self.linear.weight[:, -1] = COSINE_START
            self.linear.bias.fill_(-0.5 * COSINE_START)


class MaskedHead(nn.Module):
    """The word behind a hidden token: a layer as in BERT, then the word embeddings themselves (Devlin et al. 2019).

    The decoder is tied to the encoder's table, so that it adds no more than a bias per word.
    """

    def __init__(self, hidden: int, width: int, words: int) -> None:
        super().__init__()
        self.transform = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, vectors: Tensor, table: Tensor) -> Tensor:
        """Outputs (tokens, words) for vectors (tokens, hidden) and word embeddings (words, width)."""
        return functional.linear(self.norm(functional.gelu(self.transform(vectors))), table, self.bias)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw initial values from a generator on the CPU: normal weights (std 0.02), zero biases."""
        weight = self.transform.weight
        weight.copy_(torch.empty(weight.shape).normal_(std=INITIAL_STD, generator=generator))
        for bias in (self.transform.bias, self.norm.bias, self.bias):
            bias.zero_()
        self.norm.weight.fill_(1.0)


def task_loss(
    task: TaskDefinition,
    outputs: Tensor,
    targets: Tensor,
    reduction: Reduction = "mean",
    units: TargetUnits = OWN_UNITS,
) -> Tensor:
    """Cross entropy (of classes or hidden words), binary cross entropy averaged over the labels, or squared error.

    Args:
        task: says how to read the outputs.
        outputs: logits or predictions, (rows, task.outputs).
        targets: class indices int64 (rows,), 0/1 indicators float32 (rows, labels) or scores float64 (rows,).
        reduction: over the rows; `none` gives one loss per row, (rows,).
        units: in which a regression's head works, and its loss is.
    """
    if task.type in (TaskType.CLASSIFICATION, TaskType.MASKED_LM):
        return functional.cross_entropy(outputs, targets, reduction=reduction)
    if task.type is TaskType.REGRESSION:
        wanted = ((targets.double() - units.mean) / units.scale).float()
        return functional.mse_loss(outputs.squeeze(-1), wanted, reduction=reduction)
    rows = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=-1)
    if reduction == "none":
        return rows
    return rows.mean() if reduction == "mean" else rows.sum()
