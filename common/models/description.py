"""What may stand in the description of an encoder of transformers: plain values of keys that its kind is known to read.

A description comes from a model folder or from a coordinator. Libraries read far more from it than sizes: code by
reference, names on a hub, attention kernels that are fetched and run. So nothing passes that is not listed here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from common.errors import ModelError

# Keys by the kind of encoder, as its model reads them in transformers 4.50 and later. The first row is of all kinds.
_ALL = """
vocab_size pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id initializer_range
max_position_embeddings classifier_dropout chunk_size_feed_forward
"""
_LAYERS = """
hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob
attention_probs_dropout_prob layer_norm_eps type_vocab_size
"""
_DISENTANGLED = """
relative_attention max_relative_positions position_biased_input pos_att_type pooler_dropout pooler_hidden_act
pooler_hidden_size legacy embedding_size
"""
_ROTARY = """
hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size hidden_act attention_dropout
rms_norm_eps rope_theta
"""
_KINDS: dict[str, str] = {
    "albert": f"{_LAYERS} embedding_size num_hidden_groups inner_group_num classifier_dropout_prob",
    "bert": _LAYERS,
    "big_bird": f"{_LAYERS} attention_type use_bias rescale_embeddings block_size num_random_blocks",
    "camembert": _LAYERS,
    "convbert": f"{_LAYERS} embedding_size head_ratio conv_kernel_size num_groups",
    "data2vec-text": _LAYERS,
    "deberta": f"{_LAYERS} {_DISENTANGLED} talking_head",
    "deberta-v2": f"""{_LAYERS} {_DISENTANGLED} attention_head_size norm_rel_ebd position_buckets share_att_key
        conv_kernel_size conv_act conv_groups""",
    "distilbert": """dim hidden_dim n_layers n_heads dropout attention_dropout activation sinusoidal_pos_embds
        seq_classif_dropout""",
    "electra": f"{_LAYERS} embedding_size",
    "ernie": f"{_LAYERS} task_type_vocab_size use_task_id",
    "ibert": f"{_LAYERS} quant_mode force_dequant",
    "longformer": f"{_LAYERS} attention_window",
    "megatron-bert": _LAYERS,
    "mobilebert": f"""{_LAYERS} embedding_size trigram_input use_bottleneck intra_bottleneck_size true_hidden_size
        use_bottleneck_attention key_query_shared_bottleneck num_feedforward_networks normalization_type
        classifier_activation""",
    "modernbert": """hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_activation norm_eps
        norm_bias attention_bias attention_dropout embedding_dropout mlp_bias mlp_dropout local_attention layer_types
        global_attn_every_n_layers global_rope_theta local_rope_theta initializer_cutoff_factor classifier_pooling
        classifier_bias classifier_activation decoder_bias""",
    "mpnet": f"{_LAYERS} relative_attention_num_buckets",
    "nystromformer": f"""{_LAYERS} segment_means_seq_len num_landmarks conv_kernel_size
        inv_coeff_init_option""",
    "rembert": f"{_LAYERS} input_embedding_size output_embedding_size classifier_dropout_prob",
    "roberta": _LAYERS,
    "roberta-prelayernorm": _LAYERS,
    "roformer": f"{_LAYERS} embedding_size rotary_value",
    "squeezebert": f"""{_LAYERS} embedding_size q_groups k_groups v_groups post_attention_groups intermediate_groups
        output_groups""",
    "xlm-roberta": _LAYERS,
    "xlm-roberta-xl": _LAYERS,
    "gpt2": """n_positions n_embd n_layer n_head n_inner activation_function resid_pdrop embd_pdrop attn_pdrop
        layer_norm_epsilon scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn""",
    "llama": f"{_ROTARY} attention_bias mlp_bias head_dim",
    "qwen2": f"{_ROTARY} use_sliding_window sliding_window max_window_layers layer_types",
}
DECODERS = frozenset({"gpt2", "llama", "qwen2"})
"""The kinds that read causally: a token's vector tells of it and of the tokens before it."""
KINDS: dict[str, frozenset[str]] = {kind: frozenset((keys + _ALL).split()) for kind, keys in _KINDS.items()}
"""The keys that are kept, by `model_type`."""

_VISION = """
hidden_size num_hidden_layers num_attention_heads hidden_act hidden_dropout_prob attention_probs_dropout_prob
initializer_range layer_norm_eps patch_size qkv_bias
"""
_STAGES = "hidden_sizes depths hidden_act"
_IMAGES: dict[str, str] = {
    "vit": f"{_VISION} intermediate_size",
    "dinov2": f"{_VISION} image_size mlp_ratio layerscale_value drop_path_rate use_swiglu_ffn use_mask_token",
    "convnext": f"""{_STAGES} patch_size num_stages initializer_range layer_norm_eps layer_scale_init_value
        drop_path_rate""",
    "resnet": f"{_STAGES} embedding_size layer_type downsample_in_first_stage downsample_in_bottleneck",
}
IMAGE_KINDS: dict[str, frozenset[str]] = {kind: frozenset(keys.split()) for kind, keys in _IMAGES.items()}
"""The same of models over images. Channels are those of the rows, and so is the size unless it is named here."""

_NAME = re.compile(r"[A-Za-z0-9_|.-]{0,64}")
"""A text: the name of a function or a kind, such as gelu or p2c|c2p; never a path, an address or a hub's name."""
_LARGEST = 10_000_000
_LONGEST = 1000
_REPEATED = (
    "num_hidden_layers", "n_layers", "n_layer", "num_hidden_groups", "inner_group_num", "num_feedforward_networks"
)  # fmt: skip
"""How often modules come; more than a thousand would take forever to build, and no encoder has as many."""

# Other readings of the same sizes: parameters would mean something else than what their values were trained for.
_OTHERWISE = (
    ("is_decoder", False, "it would be a decoder"),
    ("is_encoder_decoder", False, "it would have a decoder"),
    ("add_cross_attention", False, "it would have a decoder"),
    ("position_embedding_type", "absolute", "positions would be read differently"),
)


def clean_config(text: str) -> str:
    """The part of a Hugging Face `config.json` that decides the architecture, as JSON with sorted keys.

    Keys that are not known for its kind are left out: they say nothing about the shape or the values of an encoder.

    Raises:
        ModelError: the text is no JSON object, its kind is not known, or a known key has no plain value.
    """
    values = read_object(text)
    kind = values.get("model_type")
    if not isinstance(kind, str):
        raise ModelError("encoder configuration has no 'model_type'; use a Hugging Face config.json")
    if kind not in KINDS:
        known = ", ".join(sorted(KINDS))
        raise ModelError(f"a model of type '{kind[:80]}' is not a text encoder known here; use one of {known}")
    for key, usual, otherwise in _OTHERWISE:
        if values.get(key, usual) not in (usual, None):
            raise ModelError(f"encoder of type '{kind}': with {key}: {values[key]!r:.80} {otherwise}; use an encoder")
    if kind == "modernbert":
        values = _with_plain_angles(values)
    if "rope_theta" in KINDS[kind]:
        values = _with_plain_angle(kind, values)
    kept = {key: value for key, value in values.items() if key in KINDS[kind]}
    for key, value in kept.items():
        if not _is_small(key, value):
            raise ModelError(f"encoder of type '{kind}': {key} is {value!r:.80}; it must be a plain number or name")
    return json.dumps({"model_type": kind, **kept}, sort_keys=True)


def image_problems(kind: str, values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the configuration of a model over images, of which all keys must be known."""
    known = IMAGE_KINDS[kind]
    return [
        f"{key}: is not read by {kind}; known are {', '.join(sorted(known))}"
        if key not in known
        else f"{key}: {value!r:.80} is no plain number or name; correct it"
        for key, value in values.items()
        if key not in known or not _is_small(key, value)
    ]


def _is_small(key: str, value: object) -> bool:
    """Whether a value is plain, and no encoder becomes endless by it."""
    repeated = value if key in _REPEATED and isinstance(value, int) else 0
    if key == "depths" and isinstance(value, list | tuple):
        repeated = sum(depth for depth in value if isinstance(depth, int))
    return _is_plain(value) and repeated <= _LONGEST


def read_object(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: the text is anything else.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"encoder configuration is not JSON: {str(error)[:200]}") from None
    if not isinstance(values, dict):
        raise ModelError("encoder configuration is no JSON object with a 'model_type'; use a Hugging Face config.json")
    return values


def _is_plain(value: object, nested: bool = True) -> bool:
    if isinstance(value, list | tuple):
        return nested and len(value) <= _LONGEST and all(_is_plain(item, nested=False) for item in value)
    if isinstance(value, str):
        return _NAME.fullmatch(value) is not None
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and -_LARGEST <= value <= _LARGEST)


def _with_plain_angles(values: dict[str, Any]) -> dict[str, Any]:
    """ModernBERT's rotary angles as two numbers: what newer files nest under `rope_parameters`."""
    nested = values.get("rope_parameters")
    if nested is None and values.get("rope_scaling") is None:
        return values
    plain = {key: value for key, value in values.items() if key != "rope_parameters"}
    try:
        for layers, key in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
            angles = dict((nested or {})[layers])
            plain[key] = angles.pop("rope_theta")
            if angles not in ({}, {"rope_type": "default"}) or values.get("rope_scaling") is not None:
                raise ValueError(layers)
    except (TypeError, KeyError, ValueError):
        raise ModelError(
            "encoder of type 'modernbert': rope_parameters must be a rope_theta for full_attention and one for "
            "sliding_attention, without scaling"
        ) from None
    return plain


def _with_plain_angle(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The rotary angle of all layers as one number: what newer files nest under `rope_parameters`."""
    nested, scaling = values.get("rope_parameters"), values.get("rope_scaling")
    if nested is None and scaling is None:
        return values
    known = isinstance(nested, dict) and nested.keys() <= {"rope_theta", "rope_type"}
    if known and scaling is None and dict(nested or {}).get("rope_type", "default") == "default":
        return {**values, "rope_theta": dict(nested or {}).get("rope_theta")}
    raise ModelError(f"encoder of type '{kind}': rope_parameters must be a rope_theta alone, without scaling")
