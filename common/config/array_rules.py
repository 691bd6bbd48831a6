"""Rules for the encoder `mlp`, which reads rows of numbers: what speaks of texts contradicts it."""

from __future__ import annotations

from common.config.schema import Config, ModelSection
from common.tasks import KNOWN_TASKS

_REMEDY = "only texts have this; leave the key out, or name a text encoder as model.server_model"
_TEXT_KEYS = ("tokenizer", "encoding", "max_length")


def sizes(config: Config) -> list[str]:
    """The mlp needs to know how many numbers a row has; nobody else does."""
    model = config.model
    if model.reads_text:
        return (
            []
            if model.mlp.features is None
            else [f"model.mlp: not read by server_model {model.server_model}; write server_model: mlp, or remove it"]
        )
    if model.mlp.features is None:
        return ["model.mlp.features: missing; write how many numbers a row has, e.g. 9"]
    return []


def text_settings(config: Config) -> list[str]:
    """Settings of tokenizers and pretrained weights that an mlp cannot follow."""
    model, plain = config.model, ModelSection.model_construct()
    if model.reads_text:
        return []
    found = [
        f"model.{key}: {getattr(model, key)} is not for server_model mlp; {_REMEDY}"
        for key in _TEXT_KEYS
        if getattr(model, key) != getattr(plain, key)
    ]
    if model.weights == "pretrained":
        found.append("model.weights: pretrained, but an mlp always starts from random weights; write auto or random")
    return found


def encodings(config: Config) -> list[str]:
    """An mlp has no word embeddings of which rows could be left out."""
    encoding = config.federation.update_encoding
    if config.model.reads_text or not encoding.startswith("rows"):
        return []
    dense = encoding.replace("rows", "dense")
    return [
        f"federation.update_encoding: {encoding} leaves out rows of word embeddings, an mlp has none; write {dense}"
    ]


def tasks(config: Config) -> list[str]:
    """Tasks over texts have nothing for an mlp to read, and those over numbers no text."""
    if config.model.reads_text:
        return [
            f"tasks.{name}.columns.features: not read by server_model {config.model.server_model}; "
            "write server_model: mlp, or remove it"
            for name, section in config.tasks.items()
            if section.columns is not None and section.columns.features is not None
        ]
    found = [
        f"tasks.{name}: known as a task over texts, an mlp reads numbers; name a task of your own differently"
        for name in config.tasks
        if name in KNOWN_TASKS
    ]
    named = {name: section.columns for name, section in config.tasks.items() if section.columns is not None}
    found += [
        f"tasks.{name}.columns.text: an mlp reads numbers, not texts; name label and features, or remove it"
        for name, columns in named.items()
        if columns.text is not None or columns.text_pair is not None
    ]
    found += [
        f"tasks.{name}.columns.features: names {len(columns.features)} features, model.mlp.features is "
        f"{config.model.mlp.features}; change one"
        for name, columns in named.items()
        if columns.features is not None and len(columns.features) != config.model.mlp.features
    ]
    found += [
        f"tasks.{name}.type: a {kind} reads {kind.only_input}, an mlp reads numbers; leave the task out"
        for name, section in config.tasks.items()
        if (kind := section.kind_of(name)) is not None and kind.only_input not in (None, "numbers")
    ]
    return found


def source(config: Config) -> list[str]:
    """The hub's rows are texts; only rows of numbers can be standardised."""
    if config.model.reads_text:
        standardise = config.data.standardise
        return (
            ["data.standardise: only rows of numbers can be; leave it out with a text encoder"] if standardise else []
        )
    if config.data.source == "glue":
        return ["data.source: glue has texts, an mlp reads numbers; write builtin (synthetic rows), or files with dir"]
    return []
