"""Texts and pairs of texts, read by the encoders of Hugging Face's transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.inputs.kind import Batch, Encoder, InputKind, TensorInput, moved
from common.models.encoder import (
    EncoderSource,
    Weights,
    build_encoder,
    load_config,
    longest_input,
    reads_causally,
)
from common.tasks import KNOWN_TASKS

if TYPE_CHECKING:  # see `common.inputs.kind`
    import torch
    from torch import Tensor

    from common.config.model_section import ModelSection
    from common.config.schema import Config

BUILTIN_TASKS = ("sst2", "qqp", "stsb")

# One call of the encoder for both texts of a pair saves 5 to 15 % in small batches; in large ones (tokens, padding
# included) two calls use the processor's caches better.
LARGEST_STACK = 4096
MOST_PADDING = 1.1

_SMALL_MODEL_RATE = 1e-4

PAIRS, WORDS, TAGS = "siamese", "words", "tags"
"""Forms of heads: one reads two texts by themselves; two read every token, for a word and for a label."""


@dataclass(frozen=True)
class TextBatch(Batch):
    """Token ids of a batch of texts, padded to the longest."""

    input_ids: Tensor
    """int64 (rows, length)."""
    attention_mask: Tensor
    """1 at tokens, 0 at padding, int64 (rows, length)."""
    token_type_ids: Tensor | None = None
    """Which text of a cross-encoded pair, int64 (rows, length)."""
    pair: TextBatch | None = None
    """The second texts of siamese pairs; it has no labels itself."""
    labels: Tensor | None = None
    """See `Batch`; where tokens are asked for, of each of them, int64 (tokens,) or (tokens, 2): beside it, the row."""
    positions: Tensor | None = None
    """The tokens that are asked for, int64 (tokens,), counted row by row over all of `input_ids`."""

    def to(self, device: torch.device) -> TextBatch:
        """See `Batch`."""
        if device.type == "cpu":
            return self
        return TextBatch(
            moved(self.input_ids, device),
            moved(self.attention_mask, device),
            None if self.token_type_ids is None else moved(self.token_type_ids, device),
            None if self.pair is None else self.pair.to(device),
            None if self.labels is None else moved(self.labels, device),
            None if self.positions is None else moved(self.positions, device),
        )

    def vectors(self, encoder: Encoder) -> Tensor:
        """The pooled output, or without a pooler the first token's vector: of a decoder the last, which read them all.

        As BertForSequenceClassification and GPT2ForSequenceClassification of transformers.
        """
        hidden, pooled = self._encode(encoder)
        if reads_causally(encoder.config):
            last = self.attention_mask.sum(dim=1, keepdim=True) - 1
            return hidden.take_along_dim(last.unsqueeze(-1), dim=1).squeeze(1)
        return hidden[:, 0] if pooled is None else pooled

    def mean_vectors(self, encoder: Encoder) -> Tensor:
        """The mean of the last layer over each row's tokens, padding left out, (rows, hidden)."""
        hidden = self._encode(encoder)[0].float()
        mask = self.attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    def pair_vectors(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """The mean vectors of both texts, in whichever number of encoder calls is faster."""
        if self.pair is None:
            return super().pair_vectors(encoder)
        rows, separate = len(self.input_ids), self.input_ids.numel() + self.pair.input_ids.numel()
        together = 2 * rows * max(self.input_ids.shape[1], self.pair.input_ids.shape[1])
        if together > min(MOST_PADDING * separate, LARGEST_STACK):
            return self.mean_vectors(encoder), self.pair.mean_vectors(encoder)
        padding = 0 if reads_causally(encoder.config) else encoder.config.pad_token_id or 0
        both = self.stacked(self.pair, padding).mean_vectors(encoder)
        return both[:rows], both[rows:]

    def hidden_vectors(self, encoder: Encoder) -> Tensor:
        """The vectors of the tokens at `positions`."""
        if self.positions is None:
            return super().hidden_vectors(encoder)
        return self._encode(encoder)[0].flatten(0, 1).index_select(0, self.positions)

    def shaped(self, outputs: Tensor) -> Tensor:
        """Where every token has outputs, (rows, length, outputs)."""
        return outputs if self.positions is None else outputs.unflatten(0, tuple(self.input_ids.shape))  # type: ignore[no-untyped-call]

    def stacked(self, other: TextBatch, padding_id: int) -> TextBatch:
        """Both batches as one of twice the rows."""
        import torch
        from torch.nn import functional

        length = max(self.input_ids.shape[1], other.input_ids.shape[1])

        def joined(name: str, value: int) -> Tensor:
            parts = [getattr(self, name), getattr(other, name)]
            return torch.cat([functional.pad(part, (0, length - part.shape[1]), value=value) for part in parts])

        return TextBatch(joined("input_ids", padding_id), joined("attention_mask", 0))

    def _encode(self, encoder: Encoder) -> tuple[Tensor, Tensor | None]:
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.token_type_ids is not None and has_token_types(encoder.config):
            inputs["token_type_ids"] = self.token_type_ids
        outputs = encoder(**inputs)
        return outputs.last_hidden_state, getattr(outputs, "pooler_output", None)


@dataclass(frozen=True)
class SeparatePairs(TextBatch):
    """Siamese pairs whose texts are read one after the other, whatever their sizes: a graph has no choice."""

    def pair_vectors(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """See `TextBatch`."""
        assert self.pair is not None
        return self.mean_vectors(encoder), self.pair.mean_vectors(encoder)


def has_token_types(config: Any) -> bool:
    """Whether an encoder with this configuration tells the two texts of a pair apart by token types."""
    return (getattr(config, "type_vocab_size", 0) or 0) > 1


def _tasks(config: Config) -> list[str]:
    return [
        f"tasks.{name}.columns.features: not read by server_model {config.model.server_model}; "
        "write server_model: mlp, or remove it"
        for name, section in config.tasks.items()
        if section.columns is not None and section.columns.features is not None
    ]


def _statistics(config: Config) -> list[str]:
    if config.data.statistics == "none":
        return []
    return ["data.statistics: only rows of numbers can be standardised; leave it out with a text encoder"]


def _tasks_have_data(config: Config) -> list[str]:
    """Files may hold any task; the built-in texts and the hub's do not."""
    if config.data.source in ("files", "hub", "given"):
        return []
    builtin = config.data.source == "builtin"
    remedy = "set data.dir to a folder of your own files"
    return [
        f"data.source: {config.data.source} has no data for task '{name}'; {remedy}"
        + (", or write data.source: glue" if builtin and name in KNOWN_TASKS else "")
        for name, section in config.tasks.items()
        for kind in [section.kind_of(name)]
        if (name if kind is None or not builtin else kind.builtin_data(name))
        not in (BUILTIN_TASKS if builtin else KNOWN_TASKS)
    ]


class Texts(InputKind):
    """Read as tokens; every encoder that is not of another kind of inputs reads texts."""

    name = "texts"
    checks = (
        (("model",), _tasks),
        (("model", "data"), _statistics),
        (("data", "model"), _tasks_have_data),
    )
    stays = "texts, tokens"
    update_shows = ": the embedding rows that changed are exactly the word pieces of this client's training texts"

    def notes(self, config: Config) -> list[str]:
        """Small encoders learn little at the rates of large ones; noise on every word hides little and costs much."""
        return [*self._rate(config), *self._noised_words(config)]

    def _noised_words(self, config: Config) -> list[str]:
        training = config.training
        stands = training.frozen_rounds >= training.num_rounds or config.client.trains != "all"
        if not config.privacy.of_rows or stands:
            return []
        advice = "every word embedding gets noise in every step, those of no text included; write 0 for the embeddings"
        return [f"training.frozen_layers: {advice}, and training.frozen_rounds: {training.num_rounds}"]

    def _rate(self, config: Config) -> list[str]:
        model, rate = config.model, config.training.learning_rate
        small = "bert-tiny" in model.server_model or model.weights == "random"
        if config.training.optimizer.name == "sgd" or not small or rate >= _SMALL_MODEL_RATE:
            return []
        shipped = type(config.training)().learning_rate
        advice = f"a model this small learns little at {rate:g}; {shipped:g} is the shipped rate"
        return [f"training.learning_rate: {advice}"]

    def longest_input(self, encoder_config: str) -> int | None:
        """See `InputKind`."""
        return longest_input(load_config(encoder_config))

    def find_encoder(self, section: ModelSection, weights: Weights | None = None) -> EncoderSource:
        """Look for it in folders, packages and the hub."""
        from common.models.pretrained import resolve_encoder

        return resolve_encoder(
            section.server_model, weights or section.weights, section.tokenizer, section.hub_timeout_seconds
        )

    def build_encoder(self, encoder_config: str) -> Encoder:
        """An encoder of transformers."""
        return build_encoder(encoder_config)

    def tensor_inputs(self, encoder_config: str, form: str) -> tuple[TensorInput, ...]:
        """Token ids and their mask: of both texts where each is read by itself, else with types where it has some."""
        names = [("input_ids", "length"), ("attention_mask", "length")]
        if form == PAIRS:
            names += [("pair_input_ids", "pair_length"), ("pair_attention_mask", "pair_length")]
        elif has_token_types(load_config(encoder_config)):
            names.append(("token_type_ids", "length"))
        return tuple(TensorInput(name, ("rows", length), whole=True) for name, length in names)

    def drawn_tensors(
        self, encoder_config: str, form: str, rows: int, length: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Random tokens; the first row is as long as it may be, the second text of a pair one token shorter."""
        import torch

        config = load_config(encoder_config)

        def texts(longest: int) -> list[Tensor]:
            lengths = torch.randint(1, longest + 1, (rows, 1), generator=generator)
            lengths[0] = longest
            mask = (torch.arange(longest) < lengths).long()
            ids = torch.randint(config.vocab_size, (rows, longest), generator=generator)
            return [ids * mask + (config.pad_token_id or 0) * (1 - mask), mask]

        found = texts(length)
        if form == PAIRS:
            found += texts(max(length - 1, 1))
        elif has_token_types(config):
            found.append(torch.randint(2, (rows, length), generator=generator).cummax(dim=1).values)
        return tuple(found)

    def batch_of(self, form: str, tensors: tuple[Tensor, ...]) -> TextBatch:
        """Of a head that reads every token, all of them."""
        import torch

        ids, mask, *more = tensors
        if form == PAIRS:
            return SeparatePairs(ids, mask, pair=TextBatch(more[0], more[1]))
        positions = torch.arange(ids.shape[0] * ids.shape[1], device=ids.device) if form in (WORDS, TAGS) else None
        return TextBatch(ids, mask, more[0] if more else None, positions=positions)
