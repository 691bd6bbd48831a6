"""The recurrent network of `common.encoders.gru`."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn

from common.encoders.gru import GRUEncoder


class RecurrentNetwork(nn.Module):
    """Gated recurrent units `layers.0`, `layers.1`, ...; initial values are PyTorch's own."""

    def __init__(self, description: GRUEncoder) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=description.hidden, hidden_dropout_prob=description.dropout)
        widths = (description.shape[1], *[description.hidden] * description.layers)
        self.layers = nn.ModuleList(
            nn.GRU(widths[i], widths[i + 1], batch_first=True) for i in range(description.layers)
        )
        self.dropout = nn.Dropout(description.dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for sequences (rows, length, channels): the last state of the last layer."""
        states = values
        for place, layer in enumerate(self.layers):
            states, _ = layer(self.dropout(states) if place else states)
        return states[:, -1]

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings."""
