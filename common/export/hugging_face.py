"""A trained task over texts as a folder for Hugging Face's transformers, and for sentence-transformers."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.errors import ModelError
from common.export.format import Outputs
from common.export.graph import inputs_of
from common.export.scripts import FILL, LABEL, PREDICT
from common.inputs.texts import PAIRS, TAGS, WORDS
from common.models.encoder import reads_causally
from common.models.trained import TrainedTask
from common.models.weights import quiet
from common.parameters.flat import tensors_of
from common.targets import TargetUnits


@dataclass(frozen=True)
class NativeModel:
    """A class of transformers that computes what our encoder and head do."""

    name: str
    encoder: str
    """What its parameters of the encoder begin with."""
    head: Mapping[str, str]
    """What its parameters of the head begin with, by what ours do."""
    pipeline: str
    """What transformers calls its use."""
    factor: tuple[str, str] | None = None
    """A parameter of our head, and what those of the encoder begin with that it multiplies, as this class has none."""
    needs: Mapping[str, object] = field(default_factory=dict)
    """What the encoder's description must say."""
    pooled: bool = True
    """Whether it has the encoder's pooler."""


def _classifier(kind: str, name: str) -> NativeModel:
    return NativeModel(
        f"{name}ForSequenceClassification", f"{kind}.", {"linear.": "classifier."}, "text-classification"
    )


def _masked(kind: str, name: str, transform: str, norm: str, bias: str) -> NativeModel:
    # Classes of transformers take epsilon and activation of the encoder.
    needs = {"layer_norm_eps": EPSILON, "hidden_act": "gelu"}
    head = {"transform.": transform, "norm.": norm, "bias": bias}
    return NativeModel(f"{name}ForMaskedLM", f"{kind}.", head, "fill-mask", needs=needs, pooled=False)


def _roberta(name: str) -> NativeModel:
    return _masked("roberta", name, "lm_head.dense.", "lm_head.layer_norm.", "lm_head.bias")


def _tagger(kind: str, name: str, head: str = "classifier.") -> NativeModel:
    return NativeModel(
        f"{name}ForTokenClassification", f"{kind}.", {"linear.": head}, "token-classification", pooled=False
    )


def _causal(name: str, encoder: str, norm: str) -> NativeModel:
    return NativeModel(name, encoder, {}, "text-generation", factor=("scale", norm))


EPSILON = 1e-5
"""Of the normalisation in our head over hidden words."""
_BERT = "cls.predictions."
NATIVE: Mapping[str, Mapping[str, NativeModel]] = {
    "text": {"bert": _classifier("bert", "Bert"), "albert": _classifier("albert", "Albert")},
    TAGS: {
        "albert": _tagger("albert", "Albert"),
        "bert": _tagger("bert", "Bert"),
        "camembert": _tagger("roberta", "Camembert"),
        "deberta-v2": _tagger("deberta", "DebertaV2"),
        "distilbert": _tagger("distilbert", "DistilBert"),
        "electra": _tagger("electra", "Electra"),
        "gpt2": _tagger("transformer", "GPT2"),
        "llama": _tagger("model", "Llama", "score."),
        "mpnet": _tagger("mpnet", "MPNet"),
        "qwen2": _tagger("model", "Qwen2", "score."),
        "roberta": _tagger("roberta", "Roberta"),
        "xlm-roberta": _tagger("roberta", "XLMRoberta"),
    },
    WORDS: {
        "bert": _masked("bert", "Bert", f"{_BERT}transform.dense.", f"{_BERT}transform.LayerNorm.", f"{_BERT}bias"),
        "roberta": _roberta("Roberta"),
        "xlm-roberta": _roberta("XLMRoberta"),
        "camembert": _roberta("Camembert"),
        "gpt2": _causal("GPT2LMHeadModel", "transformer.", "ln_f."),
        "llama": _causal("LlamaForCausalLM", "model.", "norm."),
        "qwen2": _causal("Qwen2ForCausalLM", "model.", "norm."),
    },
}
"""By the form of the head and the type of the encoder. All others get our head in a file of its own, and a script."""


def refusal(trained: TrainedTask) -> str:
    """Why a model is none for transformers, or nothing."""
    known = trained.tokenizer or native_model(trained) is not None
    return "" if known and inputs_of(trained) else "it is no model of transformers"


def native_model(trained: TrainedTask) -> NativeModel | None:
    """The class of transformers that is this model, if there is one."""
    config, form = encoder_config(trained), trained.model.head(trained.task.name).form
    found = NATIVE.get(form, {}).get(config["model_type"])
    fits = found is not None and all(config.get(key) == value for key, value in found.needs.items())
    return found if fits else None


def encoder_config(trained: TrainedTask) -> dict[str, Any]:
    """The description of the encoder."""
    config: dict[str, Any] = json.loads(trained.model.architecture.encoder_config)
    return config


def write_folder(trained: TrainedTask, folder: Path) -> None:
    """Write encoder, head and tokenizer: as a class of transformers where one computes the same, else with a script.

    Siamese pairs get the files by which sentence-transformers reads the encoder.
    """
    config, native, task = encoder_config(trained), native_model(trained), trained.task
    form, prefix = trained.model.head(task.name).form, f"heads.{task.name}."
    values = {name: value.detach().contiguous() for name, value in tensors_of(trained.model).items()}
    encoder = {name.removeprefix("encoder."): v for name, v in values.items() if name.startswith("encoder.")}
    head = {
        name.removeprefix(prefix): _in_users_units(name, value, trained.units)
        for name, value in values.items()
        if name.startswith(prefix)
    }
    if native is not None:
        if native.factor is not None:
            factor, multiplied = native.factor
            encoder |= {name: v * head[factor] for name, v in encoder.items() if name.startswith(multiplied)}
        kept = {name: v for name, v in encoder.items() if native.pooled or not name.startswith("pooler.")}
        tensors = {native.encoder + name: value for name, value in kept.items()}
        for ours, theirs in native.head.items():
            tensors |= {theirs + n.removeprefix(ours): v for n, v in head.items() if n.startswith(ours)}
        _save(tensors, folder / "model.safetensors")
        _write_json(config | _native_config(native, trained), folder / "config.json")
        return
    _save(encoder, folder / "model.safetensors")
    _write_json(config, folder / "config.json")
    _save({name.removeprefix("linear."): value for name, value in head.items()}, folder / "head.safetensors")
    description = {
        "task": task.name,
        "type": str(task.type),
        "labels": list(task.labels),
        "pair": task.pair,
        "kind": form,
        "token": "last" if reads_causally(trained.model.encoder.config) else "first",
        "max_length": trained.model.architecture.max_length,
    }
    _write_json(description, folder / "head.json")
    script = {WORDS: FILL, TAGS: LABEL}.get(form, PREDICT).replace("ANSWER", task.type.answer)
    (folder / "predict.py").write_text(script, encoding="utf-8")
    if form == PAIRS:
        _write_sentence_transformer(trained, folder)


def _write_sentence_transformer(trained: TrainedTask, folder: Path) -> None:
    """The encoder with the mean over tokens, in the layout that sentence-transformers reads."""
    package = "sentence_transformers.models."
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{package}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{package}Pooling"},
    ]
    modes = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {
        "word_embedding_dimension": trained.model.encoder.config.hidden_size,
        "pooling_mode_mean_tokens": True,
        **{f"pooling_mode_{mode}": False for mode in modes},
    }
    (folder / "1_Pooling").mkdir()
    _write_json(modules, folder / "modules.json")
    _write_json(pooling, folder / "1_Pooling" / "config.json")
    length = trained.model.architecture.max_length
    _write_json({"max_seq_length": length, "do_lower_case": False}, folder / "sentence_bert_config.json")


def load_folder(trained: TrainedTask, folder: Path) -> Outputs:
    """What transformers makes of a folder: its own class, or the script that is in there.

    Raises:
        ModelError: transformers misses a parameter, or finds one too many; or pooling is not ours.
    """
    import transformers

    names, native = [item.name for item in inputs_of(trained)], native_model(trained)
    if native is None:
        with quiet():
            script = runpy.run_path(str(folder / "predict.py"))

        def by_script(tensors: Sequence[Tensor]) -> Tensor:
            given = dict(zip(names, tensors, strict=True))
            second = {name.removeprefix("pair_"): given.pop(name) for name in names if name.startswith("pair_")}
            found: Tensor = script["outputs"](*filter(None, (given, second)))
            return found

        return by_script
    with quiet():
        loaded, report = getattr(transformers, native.name).from_pretrained(str(folder), output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[key]:
            raise ModelError(f"--format hugging_face: {native.name} has {key.replace('_', ' ')}: {sorted(report[key])}")

    def by_class(tensors: Sequence[Tensor]) -> Tensor:
        found: Tensor = loaded.eval()(**dict(zip(names, tensors, strict=True))).logits
        return found

    return by_class


def write_tokenizer(trained: TrainedTask, folder: Path) -> None:
    """Write the two files from which `AutoTokenizer` makes the tokenizer."""
    files: dict[str, dict[str, Any]] = json.loads(trained.tokenizer)
    files["tokenizer_config.json"]["model_max_length"] = trained.model.architecture.max_length
    for name in ("tokenizer.json", "tokenizer_config.json"):
        _write_json(files[name], folder / name)


def _in_users_units(name: str, value: Tensor, units: TargetUnits) -> Tensor:
    """A parameter of the last layer, such that its outputs are `units.mean + units.scale` times those of before."""
    scaled = units.scale * value.double()
    return (scaled + units.mean if name.endswith(".bias") else scaled).float().detach()


def _native_config(native: NativeModel, trained: TrainedTask) -> dict[str, Any]:
    task = trained.task
    if trained.model.head(task.name).form == WORDS:
        return {"architectures": [native.name], "tie_word_embeddings": True}
    names = task.labels or ("score",)
    problem = {"problem_type": task.type.problem_type} if task.type.problem_type else {}
    return {
        "architectures": [native.name],
        **problem,
        "num_labels": len(names),
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with torch.no_grad():
        save_file({name: value.clone() for name, value in tensors.items()}, str(path), metadata={"format": "pt"})


def _write_json(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
