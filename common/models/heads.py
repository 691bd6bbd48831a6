"""One head per task: from the encoder's vectors to outputs, and from outputs to a loss."""

from __future__ import annotations

from abc import abstractmethod
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ModelError
from common.inputs import Batch, Encoder
from common.inputs.texts import PAIRS, TAGS, WORDS

INITIAL_STD = 0.02
DEFAULT_DROPOUT = 0.1


class Head(nn.Module):
    """What a task has of its own in a model."""

    form = "text"
    """How an export calls it."""

    @property
    def is_blank(self) -> bool:
        """Whether it starts from values that say nothing, so that `training.head_learning_rate` is its rate."""
        return True

    @abstractmethod
    def read(self, encoder: Encoder, batch: Batch) -> Tensor:
        """Outputs (rows, outputs) for a batch."""

    @abstractmethod
    def reset(self, generator: torch.Generator) -> None:
        """Draw initial values from a generator on the CPU."""


class LinearHead(Head):
    """Dropout and a linear layer over one vector per example, as in `BertForSequenceClassification`.

    `cosine_start` is for heads over pairs.
    """

    def __init__(self, outputs: int, features: int, dropout: float, cosine_start: float = 0.0) -> None:
        super().__init__()
        self.cosine_start = cosine_start
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, outputs)

    def read(self, encoder: Encoder, batch: Batch) -> Tensor:
        """See `forward`."""
        return self.forward(batch.vectors(encoder))

    def forward(self, vectors: Tensor) -> Tensor:
        """Outputs (rows, outputs) for vectors (rows, hidden)."""
        outputs: Tensor = self.linear(self.dropout(vectors).to(self.linear.weight.dtype))
        return outputs

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw initial values from a generator on the CPU: normal weights (std 0.02), zero biases."""
        self.linear.weight.copy_(torch.empty(self.linear.weight.shape).normal_(std=INITIAL_STD, generator=generator))
        self.linear.bias.zero_()


class SiameseHead(LinearHead):
    """A head over two vectors per example: u, v, abs(u - v), u * v and cosine(u, v).

    Source: InferSent (Conneau et al., 2017) for the first four; the cosine is what sentence encoders are trained on.
    """

    form = PAIRS

    def __init__(self, outputs: int, hidden: int, dropout: float, cosine_start: float = 0.0) -> None:
        super().__init__(outputs, 4 * hidden + 1, dropout, cosine_start)

    def read(self, encoder: Encoder, batch: Batch) -> Tensor:
        """See `forward`."""
        return self.forward(*batch.pair_vectors(encoder))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        """Outputs (rows, outputs) for the vectors of first and second texts, (rows, hidden) each."""
        cosine = functional.cosine_similarity(first, second, dim=-1).unsqueeze(-1)
        features = torch.cat([first, second, (first - second).abs(), first * second, cosine], dim=-1)
        return super().forward(features)

    @property
    def is_blank(self) -> bool:
        """See `Head`; a cosine says much."""
        return not self.cosine_start

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """As in `LinearHead`, or as `cosine_start` * (cosine(u, v) - 1/2) where that is above 0."""
        super().reset(generator)
        if self.cosine_start:
            self.linear.weight.zero_()
            self.linear.weight[:, -1] = self.cosine_start
            self.linear.bias.fill_(-0.5 * self.cosine_start)


class TokenHead(LinearHead):
    """Dropout and a linear layer over the vector of each token asked for, as in `BertForTokenClassification`."""

    form = TAGS

    def read(self, encoder: Encoder, batch: Batch) -> Tensor:
        """See `forward`."""
        return self.forward(batch.hidden_vectors(encoder))


class TiedHead(Head):
    """Words by the encoder's own word embeddings, so that a head adds little (Press and Wolf 2017)."""

    form = WORDS

    @property
    def is_blank(self) -> bool:
        """See `Head`; the word embeddings say much."""
        return False

    def read(self, encoder: Encoder, batch: Batch) -> Tensor:
        """See `forward`: a row of outputs for each token that the batch asks for."""
        return self.forward(batch.hidden_vectors(encoder), word_table(encoder).weight)

    @abstractmethod
    def forward(self, vectors: Tensor, table: Tensor) -> Tensor:
        """Outputs (tokens, words) for vectors (tokens, hidden) and word embeddings (words, width)."""


class NextHead(TiedHead):
    """The next word: a factor per channel, then the word embeddings.

    A factor and no bias per word: language models of transformers have none, and their last norm can take the factors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, vectors: Tensor, table: Tensor) -> Tensor:
        """See `TiedHead`."""
        return functional.linear(vectors * self.scale, table)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Start with the words that the encoder itself would say."""
        self.scale.fill_(1.0)


class MaskedHead(TiedHead):
    """The word behind a hidden token: a layer as in BERT, then the word embeddings (Devlin et al. 2019), and a bias."""

    def __init__(self, hidden: int, width: int, words: int) -> None:
        super().__init__()
        self.transform = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, vectors: Tensor, table: Tensor) -> Tensor:
        """See `TiedHead`."""
        return functional.linear(self.norm(functional.gelu(self.transform(vectors))), table, self.bias)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw initial values from a generator on the CPU: normal weights (std 0.02), zero biases."""
        weight = self.transform.weight
        weight.copy_(torch.empty(weight.shape).normal_(std=INITIAL_STD, generator=generator))
        for bias in (self.transform.bias, self.norm.bias, self.bias):
            bias.zero_()
        self.norm.weight.fill_(1.0)


class DenseHead(Head):
    """Outputs for every pixel of an image from the encoder's map: two convolutions, enlarged bilinearly to `area`."""

    form = "dense"

    def __init__(self, outputs: int, channels: int, area: tuple[int, int]) -> None:
        super().__init__()
        self.area = area
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.linear = nn.Conv2d(channels, outputs, 1)

    def read(self, encoder: Encoder, batch: Batch) -> Tensor:
        """See `forward`."""
        return self.forward(batch.maps(encoder))

    def forward(self, maps: Tensor) -> Tensor:
        """Outputs (rows, outputs, *area) for maps (rows, channels, height, width)."""
        found = self.linear(torch.relu(self.convolution(maps)))
        return functional.interpolate(found, self.area, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw initial values from a generator on the CPU: normal weights, zero biases.

        Source: He et al. (2015) for the convolution before the ReLU; the last one as in `LinearHead`.
        """
        first, last = self.convolution.weight, self.linear.weight
        for weight, std in ((first, sqrt(2 / first[0].numel())), (last, INITIAL_STD)):
            weight.copy_(torch.empty(weight.shape).normal_(std=std, generator=generator))
        for layer in (self.convolution, self.linear):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # both have one


PAIR_HEADS: dict[str, type[LinearHead]] = {"cross": LinearHead, "siamese": SiameseHead}
"""The head of a pair task by the model's pair mode; single texts always have a `LinearHead`."""


def word_table(encoder: Encoder) -> nn.Embedding:
    """The encoder's word embeddings.

    Raises:
        ModelError: it has none.
    """
    found = encoder.get_input_embeddings()
    if not isinstance(found, nn.Embedding):
        raise ModelError("this encoder has no word embeddings for a head over words; choose another model.server_model")
    return found


def dropout_of(config: Any) -> float:
    """The rate before the head, in (0, 1): as in Hugging Face's own classification models."""
    rate = getattr(config, "classifier_dropout", None)
    return float(getattr(config, "hidden_dropout_prob", DEFAULT_DROPOUT) if rate is None else rate)
