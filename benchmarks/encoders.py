"""Encoders of known sizes with random weights."""

from __future__ import annotations

import json
from pathlib import Path

from common.parameters.scope import is_private
from server.runs.run_folder import RunFolder

SIZES = {
    "1kb": (1, 4),
    "bert-tiny": (2, 128),
    "bert-mini": (4, 256),
    "bert-base": (12, 768),
}
"""Layers and hidden size of BERT encoders to make at random."""

SMALLEST_VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "e", "i")


def write_encoder(folder: Path, name: str) -> Path:
    """A model folder with a configuration and no weights; the smallest has a vocabulary of its own."""
    layers, hidden = SIZES[name]
    config = {
        "model_type": "bert",
        "vocab_size": 30_522,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": max(1, hidden // 64),
        "intermediate_size": 4 * hidden,
    }
    folder.mkdir(parents=True, exist_ok=True)
    if name == "1kb":
        config |= {
            "vocab_size": len(SMALLEST_VOCABULARY),
            "intermediate_size": hidden,
            "max_position_embeddings": 8,
        }
        (folder / "vocab.txt").write_text("\n".join(SMALLEST_VOCABULARY) + "\n")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def model_settings(folder: Path, name: str) -> list[str]:
    """The configuration keys that choose such an encoder."""
    settings = [f"model.server_model='{write_encoder(folder / f'encoder-{name}', name)}'", "model.weights=random"]
    return [*settings, "model.max_length=8"] if name == "1kb" else settings


def parameter_bytes(run: Path) -> int:
    """How many bytes the parameters have that travel in a run."""
    _, schemas = RunFolder(run).read_description()
    return sum(schema.nbytes for scope, schema in schemas.items() if not is_private(scope))
