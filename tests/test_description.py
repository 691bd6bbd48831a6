"""The description of an encoder: what may stand in it, whoever sent it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from common.errors import ModelError
from common.models.description import KINDS, clean_config
from common.models.encoder import build_encoder, load_config, shallower
from common.models.pretrained import KNOWN_ARCHITECTURES
from common.parameters.flat import shapes_of

BERT: dict[str, Any] = json.loads(KNOWN_ARCHITECTURES["prajjwal1/bert-tiny"])
SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "embedding_size": 32, "dim": 32, "hidden_dim": 32, "n_layers": 2, "n_heads": 2,
    "input_embedding_size": 32, "output_embedding_size": 32, "attention_window": [8, 8],
    "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4,
}  # fmt: skip

CODE: dict[str, Any] = {
    "_attn_implementation": "somebody/kernel",
    "attn_implementation": "somebody/kernel:forward",
    "_attn_implementation_internal": "somebody/kernel",
    "_experts_implementation": "somebody/kernel",
    "auto_map": {"AutoModel": "somebody/code--code.Model"},
    "_name_or_path": "somebody/model",
    "name_or_path": "somebody/model",
    "quantization_config": {"quant_method": "x"},
    "kernel_config": {"x": "somebody/kernel"},
    "text_config": {"model_type": "bert", "_attn_implementation": "somebody/kernel"},
    "backbone": "somebody/model",
    "use_kernels": True,
    "torch_dtype": "float16",
    "dtype": "float16",
    "architectures": ["BertModel"],
    "per_layer_config": {"0": {"_attn_implementation": "somebody/kernel"}},
    "is_decoder": False,
    "torchscript": True,
    "return_dict": False,
    "output_attentions": True,
    "__class__": "x",
}


def test_only_known_keys_pass() -> None:
    assert clean_config(json.dumps(BERT | CODE)) == clean_config(json.dumps(BERT))
    assert json.loads(clean_config(json.dumps(BERT))) == BERT


def test_nothing_but_known_keys_reaches_transformers() -> None:
    config = load_config(json.dumps(BERT | CODE))
    assert config._attn_implementation in (None, "eager", "sdpa")
    plain = load_config(json.dumps(BERT))
    assert config.to_dict() == plain.to_dict()
    assert not any("somebody" in str(value) for value in vars(config).values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "somebody/kernel"),
        ("hidden_act", {"name": "gelu"}),
        ("hidden_act", "x" * 65),
        ("hidden_size", {"a": 1}),
        ("hidden_size", [[1]]),
        ("hidden_size", 10**12),
        ("num_hidden_layers", 1_000_000),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", float("inf")),
        ("pad_token_id", "https://example.org"),
        ("classifier_dropout", [{"x": 1}]),
        ("vocab_size", list(range(1001))),
    ],
)
def test_values_of_known_keys_are_plain(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"encoder of type 'bert': {key} is .* plain number or name") as caught:
        clean_config(json.dumps(BERT | {key: value}))
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"is_decoder": True}, "is_decoder: True it would be a decoder"),
        ({"is_encoder_decoder": True}, "would have a decoder"),
        ({"add_cross_attention": True}, "would have a decoder"),
        ({"position_embedding_type": "relative_key"}, "positions would be read differently"),
        ({"model_type": "esm"}, "type 'esm' is not a text encoder known here; use one of albert, bert"),
        ({"model_type": ["bert"]}, "no 'model_type'"),
    ],
)
def test_other_kinds_of_models_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        clean_config(json.dumps(BERT | change))


@pytest.mark.parametrize("text", ["", "{", "3", "[]", "null", "[" * 200_000, '{"a":' * 200_000])
def test_what_is_no_object_is_one_line(text: str) -> None:
    with pytest.raises(ModelError, match="encoder configuration") as caught:
        clean_config(text)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_transformers_saves_of_each_kind_builds_the_same_encoder(kind: str) -> None:
    whole = AutoConfig.for_model(kind, **{key: value for key, value in SIZES.items() if key in KINDS[kind]})
    text = clean_config(whole.to_json_string(use_diff=False))
    assert clean_config(text) == text
    config = load_config(text)
    assert {key: getattr(config, key) for key in KINDS[kind] if hasattr(whole, key)} == {
        key: getattr(whole, key) for key in KINDS[kind] if hasattr(whole, key)
    }
    with torch.device("meta"):
        shapes = shapes_of(build_encoder(text))
        fewer = shapes_of(build_encoder(shallower(text, 1)))
    assert shapes
    assert len(fewer) <= len(shapes)


def test_rotary_angles_of_modernbert_are_kept_as_numbers() -> None:
    sizes = {key: value for key, value in SIZES.items() if key in KINDS["modernbert"]}
    saved = AutoConfig.for_model("modernbert", **sizes, global_rope_theta=500.0, local_rope_theta=70.0)
    text = clean_config(saved.to_json_string(use_diff=False))
    assert {key: value for key, value in json.loads(text).items() if "rope" in key} == {
        "global_rope_theta": 500.0,
        "local_rope_theta": 70.0,
    }
    assert load_config(text).rope_parameters == saved.rope_parameters
    scaled = json.loads(saved.to_json_string(use_diff=False))
    scaled["rope_parameters"]["full_attention"] |= {"rope_type": "linear", "factor": 2.0}
    for values in (scaled, {"model_type": "modernbert", "rope_parameters": "x"}, scaled | {"rope_parameters": None}):
        values |= {"rope_scaling": {"factor": 2.0}} if values["rope_parameters"] is None else {}
        with pytest.raises(ModelError, match="rope_parameters must be"):
            clean_config(json.dumps(values))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted({*BERT, *CODE})), JSON, max_size=6))
def test_any_values_give_plain_ones_or_one_line(values: dict[str, Any]) -> None:
    try:
        kept = json.loads(clean_config(json.dumps(BERT | values)))
    except ModelError as error:
        assert "\n" not in error.message
        return
    assert kept.keys() <= KINDS["bert"] | {"model_type"}
    assert not any(isinstance(value, dict) for value in kept.values())
