"""The encoder of `common.encoders.patchtst`: a model of transformers."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn
from transformers import PatchTSTConfig, PatchTSTModel

from common.encoders.patchtst import PatchTSTEncoder


class PatchTSTNetwork(nn.Module):
    """`embeddings` (of patches and positions) and `layers.0`, `layers.1`, ..., parts of `net`, which computes.

    Positions are sines and cosines, which nothing trains. Initial values are those of transformers.
    """

    def __init__(self, description: PatchTSTEncoder) -> None:
        super().__init__()
        net = PatchTSTModel(config_of(description))
        self.embeddings = nn.ModuleDict({"patches": net.encoder.embedder, "positions": net.encoder.positional_encoder})
        self.layers = net.encoder.layers
        self.net = net
        self.config = SimpleNamespace(
            hidden_size=description.shape[1] * description.hidden, hidden_dropout_prob=description.dropout
        )

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, channels x hidden) for (rows, length, channels): the mean over patches of each channel.

        As PatchTSTForClassification of transformers.
        """
        vectors: Tensor = self.net(past_values=values).last_hidden_state.mean(dim=2).flatten(1)
        return vectors

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings."""


def config_of(description: PatchTSTEncoder) -> PatchTSTConfig:
    """Its configuration for transformers."""
    length, channels = description.shape
    return PatchTSTConfig(
        context_length=length,
        num_input_channels=channels,
        patch_length=description.patch,
        patch_stride=description.stride,
        d_model=description.hidden,
        ffn_dim=4 * description.hidden,
        num_hidden_layers=description.layers,
        num_attention_heads=description.heads,
        norm_type=f"{description.norm}norm",
        scaling="std" if description.scaled else None,
        attention_dropout=description.dropout,
        ff_dropout=description.dropout,
    )
