"""Decoders as text encoders: what a head reads of them, their scopes, tokenizers without padding, a federation."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from common.errors import ModelError
from common.export.folder import export_task
from common.inputs.texts import TextBatch
from common.models.description import clean_config
from common.models.encoder import load_config
from common.models.layout import scope_schemas
from common.models.pretrained import resolve_encoder
from common.orders import ModelArchitecture
from common.parameters.plan import PLANS, SharingPlan
from common.tasks import KNOWN_TASKS
from tests.federations import digest_of, federate, small_config
from tests.federations import make_model as make_whole
from tests.test_export import trained
from tests.training_cases import CONFIGS, make_model

DECODERS = ("gpt2", "llama")


@pytest.mark.parametrize("kind", DECODERS)
def test_a_head_reads_the_last_token_as_that_of_transformers_does(kind: str) -> None:
    model, config = make_model(kind), load_config(json.dumps(CONFIGS[kind]))
    theirs = AutoModelForSequenceClassification.from_config(config).eval()
    theirs.base_model.load_state_dict(model.encoder.state_dict())
    theirs.score.weight.data.copy_(model.heads["sst2"].linear.weight)
    rng = np.random.Generator(np.random.PCG64(1))
    ids, lengths = torch.from_numpy(rng.integers(3, 290, size=(4, 9))), torch.tensor([[9], [1], [5], [8]])
    mask = (torch.arange(9) < lengths).long()
    ids = ids * mask + config.pad_token_id * (1 - mask)
    with torch.no_grad():
        ours = model.eval()("sst2", TextBatch(ids, mask))
        torch.testing.assert_close(ours, theirs(input_ids=ids, attention_mask=mask).logits, rtol=0, atol=1e-6)
        alone = model("sst2", TextBatch(ids[1:2, :1], mask[1:2, :1]))
    torch.testing.assert_close(ours[1:2], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "layers", "above"), [("gpt2", "h", {"ln_f.weight", "ln_f.bias"}), ("llama", "layers", {"norm.weight"})]
)
def test_plans_know_the_layers_of_a_decoder(kind: str, layers: str, above: set[str]) -> None:
    config = json.dumps(CONFIGS[kind] | {"num_hidden_layers": 2, "n_layer": 2})
    architecture = ModelArchitecture(config, "siamese", 32, "", 0)

    def names(plan: str, scope: str) -> set[str]:
        schemas = scope_schemas(architecture, [KNOWN_TASKS["sst2"]], SharingPlan(PLANS[plan], 1))
        return {".".join(entry.name.split(".")[1:3]) for entry in schemas[scope].entries}

    assert names("fedper", "private") == {f"{layers}.1", *above}
    assert f"{layers}.0" in names("fedper", "shared") and f"{layers}.1" not in names("fedper", "shared")
    assert f"{layers}.0" in names("lg", "private") and f"{layers}.1" in names("lg", "shared")
    blocks = set(scope_schemas(architecture, [KNOWN_TASKS["sst2"]], SharingPlan(PLANS["adaptive"])))
    assert {name.rsplit("/", 1)[-1] for name in blocks} == {"embeddings", "layer_0", "layer_1", "top", "sst2"}


def test_the_rotary_angle_of_a_decoder_is_kept_as_a_number() -> None:
    nested = {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}
    text = clean_config(json.dumps(CONFIGS["llama"] | nested))
    assert json.loads(text)["rope_theta"] == 500.0 and load_config(text).rope_parameters["rope_theta"] == 500.0
    for scaled in ({"rope_parameters": {"rope_theta": 5.0, "rope_type": "linear"}}, {"rope_scaling": {"factor": 2.0}}):
        with pytest.raises(ModelError, match="type 'llama': rope_parameters must be a rope_theta alone"):
            clean_config(json.dumps(CONFIGS["llama"] | scaled))


def write_decoder(folder: Path) -> Path:
    """A GPT-2 of one layer with a byte-level tokenizer whose only special token ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: number for number, token in enumerate([*alphabet, "<|endoftext|>"])}
    backend = Tokenizer(models.BPE(words, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps(CONFIGS["gpt2"]))
    return folder


def test_a_federation_over_a_decoder_pads_with_the_end_of_text(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "decoder")
    source = resolve_encoder(str(folder), "random", None, 0)
    assert source.tokenizer is not None and source.tokenizer.pad_token_id == 256
    assert source.tokenizer("a b")["input_ids"] == source.tokenizer.convert_tokens_to_ids(["a", "Ġ", "b"])
    config = small_config(tmp_path, f"model.server_model='{folder}'", "sharing.plan=adaptive")
    runs = [asyncio.run(federate(config, tmp_path / how, how=how)) for how in ("direct", "grpc")]
    assert len({digest_of(run) for run in runs}) == 1
    export_task(trained(make_whole(config), "sst2"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "head.json").read_text())["token"] == "last"
