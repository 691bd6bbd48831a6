"""Weights in a folder: read whole, or refused; never passed over for random values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from common.errors import ModelError
from common.models.encoder import build_encoder, load_config
from common.models.pretrained import KNOWN_ARCHITECTURES, resolve_encoder
from common.models.weights import unread_weights

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s"]
SMALL = json.dumps(
    json.loads(KNOWN_ARCHITECTURES["prajjwal1/bert-tiny"])
    | {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 120, "num_attention_heads": 2}
)
INDEX = "model.safetensors.index.json"


def described(folder: Path) -> Path:
    """A folder with a configuration and a vocabulary."""
    folder.mkdir()
    (folder / "config.json").write_text(SMALL)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def sharded(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The same with weights in three parts, and the values."""
    described(folder)
    model = AutoModel.from_config(load_config(SMALL))
    model.save_pretrained(str(folder), max_shard_size="12KB")
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    return folder, model.state_dict()


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def test_weights_in_parts_are_read(tmp_path: Path) -> None:
    folder, values = sharded(tmp_path / "model")
    for weights in ("auto", "pretrained"):
        source = resolve_encoder(str(folder), weights, None, 0)  # type: ignore[arg-type]
        assert source.origin == f"pretrained from folder {folder}"
        assert source.state is not None
        assert source.state.keys() == values.keys()
        assert all(torch.equal(values[name], value) for name, value in source.state.items())


def test_pickled_parts_are_read_without_running_them(tmp_path: Path) -> None:
    folder = described(tmp_path / "model")
    values = build_encoder(SMALL).state_dict()
    names = sorted(values)
    parts = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for part, held in parts.items():
        torch.save({name: values[name] for name in held}, folder / part)
    index = {"metadata": {}, "weight_map": {name: part for part, held in parts.items() for name in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    source = resolve_encoder(str(folder), "auto", None, 0)
    assert source.state is not None
    assert all(torch.equal(values[name], source.state[name]) for name in names)


def missing_part(folder: Path) -> None:
    sorted(folder.glob("model-*"))[1].unlink()


def damaged_part(folder: Path) -> None:
    sorted(folder.glob("model-*"))[1].write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def part_elsewhere(folder: Path) -> None:
    edit_index(folder, lambda index: index["weight_map"].update({"pooler.dense.bias": "../other.safetensors"}))


def unknown_name(folder: Path) -> None:
    first = sorted(folder.glob("model-*"))[0].name
    edit_index(folder, lambda index: index["weight_map"].update({"embeddings.extra": first}))


def lost_part_and_its_names(folder: Path) -> None:
    last = sorted(folder.glob("model-*"))[-1]
    edit_index(
        folder, lambda i: i.update(weight_map={n: part for n, part in i["weight_map"].items() if part != last.name})
    )


def empty_index(folder: Path) -> None:
    edit_index(folder, lambda index: index["weight_map"].clear())


def index_of_numbers(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {"a": 3}}')


def index_without_end(folder: Path) -> None:
    (folder / INDEX).write_text("[" * 100_000)


def not_finite(folder: Path) -> None:
    part = next(part for part in folder.glob("model-*") if "pooler.dense.bias" in load_file(part))
    values = load_file(part)
    values["pooler.dense.bias"][3] = float("nan")
    save_file(values, part, metadata={"format": "pt"})


def quantised(folder: Path) -> None:
    config = json.loads(SMALL) | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (missing_part, "the part model-00002-of-.* is missing"),
        (damaged_part, "model-00002-of-.* cannot be read"),
        (part_elsewhere, "is no name of a part"),
        (unknown_name, r"lacks embeddings\.extra"),
        (lost_part_and_its_names, "lack .* more"),
        (empty_index, "it names 0 parts"),
        (index_of_numbers, "is no index|is no name"),
        (index_without_end, "is no index of weights"),
        (not_finite, r"not finite in pooler\.dense\.bias"),
        (quantised, "are quantised"),
    ],
)
@pytest.mark.parametrize("weights", ["auto", "pretrained"])
def test_weights_that_are_not_whole_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], said: str, weights: Any
) -> None:
    folder, _ = sharded(tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelError, match=said) as caught:
        resolve_encoder(str(folder), weights, None, 0)
    assert "\n" not in caught.value.message
    assert resolve_encoder(str(folder), "random", None, 0).state is None


@pytest.mark.parametrize(
    "name",
    [
        "tf_model.h5", "flax_model.msgpack", "model.gguf", "onnx/model.onnx", "model.pt", "weights.pth", "model.ckpt",
        "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index", "saved_model/saved_model.pb", "rust_model.ot",
        "model-00001-of-00002.safetensors", "adapter_model.safetensors", "pytorch_model-00001-of-00002.bin",
        "consolidated.00.pth", "model.npz", "model.safetensors.incomplete", "tf_model.h5.index.json", "weights",
        "checkpoint-500/model.safetensors", "Model.Safetensors", "openvino_model.xml", "model_state.pdparams",
    ],
)  # fmt: skip
def test_weights_in_a_form_that_is_not_read_are_refused(tmp_path: Path, name: str) -> None:
    folder = described(tmp_path / "model")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x00" * 64)
    for weights in ("auto", "pretrained"):
        with pytest.raises(ModelError, match=f"holds '{name}', but none of") as caught:
            resolve_encoder(str(folder), weights, None, 0)  # type: ignore[arg-type]
        assert "model.weights: random" in caught.value.message
    assert resolve_encoder(str(folder), "random", None, 0).state is None


def test_a_link_that_leads_nowhere_is_no_lack_of_weights(tmp_path: Path) -> None:
    folder = described(tmp_path / "model")
    (folder / "model.safetensors").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(ModelError, match=r"holds 'model\.safetensors'"):
        resolve_encoder(str(folder), "auto", None, 0)


def test_descriptions_alone_are_no_weights(tmp_path: Path) -> None:
    folder = described(tmp_path / "model")
    for name in ("README.md", "LICENSE", ".gitattributes", "tokenizer.json.lock", "1_Pooling/config.json", "logo.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert resolve_encoder(str(folder), "auto", None, 0).state is None
    assert unread_weights(["config.json", "a/b/vocab.txt"]) is None
    assert unread_weights(["config.json", "flax_model.msgpack"]) == "flax_model.msgpack"


def test_what_the_folder_says_of_code_is_not_heeded(tmp_path: Path) -> None:
    folder, values = sharded(tmp_path / "model")
    config = json.loads(SMALL) | {
        "_attn_implementation": "somebody/kernel",
        "auto_map": {"AutoModel": "code.Model"},
        "transformers_weights": "elsewhere.safetensors",
    }
    (folder / "config.json").write_text(json.dumps(config))
    source = resolve_encoder(str(folder), "pretrained", None, 0)
    assert source.state is not None
    assert torch.equal(source.state["pooler.dense.bias"], values["pooler.dense.bias"])
    assert "kernel" not in source.config_json
