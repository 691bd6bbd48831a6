"""Vision models of transformers as encoders: from folders or by configuration, normalised here."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from client.app import load_data
from client.data.array_examples import ArrayExamples
from common.config import Config, load_config, render
from common.encoders.vision import VisionEncoder
from common.errors import ConfigError, DataError, ModelError
from common.inputs import input_described
from common.inputs.arrays import encoder_described
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.federations import digest_of, federate, make_model
from tests.test_array_encoders import CLIENTS, KIND, MIN, TASKS, statistics_of
from tests.vision_cases import KINDS, SIZES, config_of, hidden_of, saved

PIXELS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
SIZED = {kind: PIXELS | {"size": dict(zip(("height", "width"), e.shape[1:], strict=True))} for kind, e in KINDS.items()}


def of_folder(folder: Path, *more: str) -> Config:
    return load_config(None, [f"model.server_model='{folder}'", TASKS, *SIZES, *more])


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_transformers_own_model_over_normalised_pixels(tmp_path: Path, kind: str) -> None:
    net, config = saved(kind, tmp_path, **SIZED[kind]), of_folder(tmp_path)
    made = make_model(config)
    encoder, rows = made.model.encoder, torch.rand(3, *KINDS[kind].shape)
    mean, std = (torch.tensor(PIXELS[key])[:, None, None] for key in ("image_mean", "image_std"))
    with torch.no_grad():
        torch.testing.assert_close(encoder(rows), hidden_of(kind, net, (rows - mean) / std), rtol=0, atol=1e-6)
    assert config.model.inputs.name == "images" and made.architecture.max_length
    described = made.architecture.encoder_config
    assert str(tmp_path) not in described and input_described(described).name == "images"
    random = make_model(of_folder(tmp_path, "model.weights=random")).model.encoder
    assert not torch.equal(encoder(rows), random(rows))


def test_by_configuration_alone_it_is_the_same_module_with_stated_means() -> None:
    assert KINDS["vit"].resolved().mean == (0.5,) * 3 == KINDS["vit"].resolved().std
    assert KINDS["resnet"].resolved().mean == (0.485, 0.456, 0.406)
    grey = VisionEncoder(type_="resnet", shape=(1, 16, 16), mean=(0.25,)).resolved()
    assert (grey.mean, grey.std) == ((0.25,), (0.5,))
    for encoder in KINDS.values():
        made = encoder_described(encoder.describe())
        assert made == encoder.resolved() and made.has_norm_statistics == (encoder.type_ == "resnet")


@pytest.mark.parametrize(
    "plan", ["private_heads", *(pytest.param(p, marks=pytest.mark.slow) for p in ("hard", "adaptive"))]
)
def test_one_model_over_every_transport_and_in_a_simulation(tmp_path: Path, plan: str) -> None:
    config = config_of(KINDS["vit"], MIN, f"sharing.plan={plan}")
    found = {how: asyncio.run(federate(config, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")}
    assert len({digest_of(run) for run in found.values()}) == 1
    digests = set()
    for workers in (1, 2):
        pool = config_of(KINDS["vit"], f"simulation={{clients: 4, workers: {workers}}}", f"sharing.plan={plan}")
        run = run_virtual_clients(pool, make_model(pool), population(pool), tmp_path / str(workers))
        digests.add(digest_of(asyncio.run(run)[0]))
    assert len(digests) == 1


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_training_from_a_folder_is_a_plain_loop_of_torch(tmp_path: Path, kind: str) -> None:
    """One client, full batches: each round is a step of SGD on transformers' own model and a linear layer."""
    net = saved(kind, tmp_path / "model", **SIZED[kind])
    one = "tasks={a0: " + KIND + "}"
    steps = ("training.num_rounds=3", "training.batch_size=64", "training.optimizer=sgd", "training.learning_rate=0.1")
    shared = "sharing.norm_statistics=shared"
    config = of_folder(tmp_path / "model", one, *steps, "training.max_grad_norm=0", shared)
    run = asyncio.run(federate(config, tmp_path / "run", (("a", ("a0",), "1/1"),)))
    rows = load_data(config, config.definitions())["a0"].train
    assert isinstance(rows, ArrayExamples)
    batch = rows.batch(np.arange(len(rows)))
    mean, std = (torch.tensor(PIXELS[key])[:, None, None] for key in ("image_mean", "image_std"))
    head = make_model(config).model.head("a0").linear
    assert isinstance(head, nn.Linear)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], 0.1)
    net.train()
    for _ in range(3):
        optimizer.zero_grad()
        outputs = head(hidden_of(kind, net, (batch.values - mean) / std))
        functional.cross_entropy(outputs, batch.labels).backward()
        optimizer.step()
    found = make_model(config)
    found.load_vectors(run.vectors)
    trained = found.model.encoder.net.state_dict()  # type: ignore[union-attr, attr-defined]
    for name, expected in net.state_dict().items():
        if not name.startswith("pooler.") and "num_batches" not in name:
            torch.testing.assert_close(trained[name], expected, rtol=0, atol=1e-6, msg=name)
    torch.testing.assert_close(found.model.head("a0").linear.weight, head.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_plans_by_layer_find_embeddings_layers_and_norm(kind: str) -> None:
    def parts(plan: str) -> dict[str, set[str]]:
        schemas = make_model(config_of(KINDS[kind], f"sharing.plan={plan}", "sharing.norm_statistics=shared")).schemas
        return {scope: {".".join(e.name.split(".")[1:3]) for e in s.entries} for scope, s in schemas.items()}

    def of(names: set[str]) -> set[str]:
        return {name if name.startswith("layers.") else name.split(".")[0] for name in names}

    norm = set() if kind == "resnet" else {"norm"}
    assert of(parts("fedper")["shared"]) == {"embeddings", "layers.0"}
    assert of(parts("fedper")["private"]) == {"layers.1"} | norm
    assert of(parts("lg")["private"]) == {"embeddings", "layers.0"}
    assert of(parts("lg")["shared"]) == {"layers.1"} | norm


def test_statistics_of_resnet_stay_with_their_client(tmp_path: Path) -> None:
    config = config_of(KINDS["resnet"], MIN, "training.num_rounds=1")
    run = asyncio.run(federate(config, tmp_path, CLIENTS))
    public = {e.name for scope, s in make_model(config).schemas.items() if scope in run.vectors for e in s.entries}
    assert public and not any("running" in name for name in public)
    kept = statistics_of(tmp_path)
    assert len({v.tobytes() for v in kept.values()}) == len(CLIENTS)


def test_maps_serve_tasks_with_labels_per_pixel() -> None:
    dense = "tasks={a0: {type: dense_classification, labels: 3}}"
    for kind, area in (("vit", (2, 3)), ("dinov2", (2, 2)), ("convnext", (2, 3)), ("resnet", (2, 2))):
        model = make_model(config_of(KINDS[kind], dense, "data.dir=here")).model
        rows = torch.rand(2, *KINDS[kind].shape)
        assert model.encoder.maps(rows).shape == (2, 16, *area)  # type: ignore[attr-defined]
        outputs = model("a0", model.inputs.batch_of("dense", (rows,)))
        assert outputs.shape == (2, 3, *KINDS[kind].shape[1:])
    encoder, rows = make_model(config_of(KINDS["vit"])).model.encoder, torch.rand(1, 3, 8, 12)
    tokens = encoder.net((rows - 0.5) / 0.5).last_hidden_state  # type: ignore[attr-defined]
    torch.testing.assert_close(encoder.maps(rows)[0, :, 1, 2], tokens[0, 1 + 3 + 2])  # type: ignore[attr-defined]


# ---- folders ----


def test_the_size_of_images_is_where_a_folder_says_it(tmp_path: Path) -> None:
    def shape(kind: str, *more: str, **pixels: object) -> tuple[int, ...]:
        saved(kind, tmp_path / kind, **pixels)
        encoder = of_folder(tmp_path / kind, *more).model.array_encoder
        assert encoder is not None
        return encoder.row_shape

    assert shape("convnext") == (3, 12, 12)  # its image_size
    assert shape("convnext", size={"shortest_edge": 10}) == (3, 10, 10)
    assert shape("dinov2", size={"shortest_edge": 20}, crop_size={"height": 16, "width": 12}) == (3, 16, 12)
    assert shape("vit", size={"height": 30, "width": 30}) == (3, 8, 12)  # it has a vector for each place
    with pytest.raises(ModelError, match=r"model\.vision\.shape: neither config\.json nor .* says the size of images"):
        shape("resnet", image_mean=[0.5, 0.5, 0.5])
    named = f"model={{server_model: vision, vision: {{folder: '{tmp_path / 'resnet'}', shape: [3, 32, 32]}}}}"
    encoder = load_config(None, [named, TASKS]).model.array_encoder
    assert encoder is not None and encoder.row_shape == (3, 32, 32)
    named = f"model={{server_model: vision, vision: {{folder: '{tmp_path / 'vit'}', shape: [3, 8, 8]}}}}"
    with pytest.raises(ModelError, match=r"shape: \(8, 8\), but .* reads images of \(8, 12\); resize the rows"):
        load_config(None, [named, TASKS])


def test_a_configuration_that_was_read_needs_no_folder_any_more(tmp_path: Path) -> None:
    saved("resnet", tmp_path / "model", **SIZED["resnet"])
    config, written = of_folder(tmp_path / "model"), tmp_path / "config.yaml"
    written.write_text(render(config))
    shutil.rmtree(tmp_path / "model")
    again = load_config(written)
    assert again == config and again.model.server_model == "vision"
    assert again.model.array_encoder == config.model.array_encoder
    assert make_model(load_config(written, ["model.weights=random"])).architecture.encoder_config
    with pytest.raises(
        ModelError, match=r"model\.vision\.folder: .* is not there; correct it, or write model\.weights"
    ):
        make_model(again)


def test_nothing_but_known_keys_reaches_transformers(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    path = tmp_path / "config.json"
    told = json.loads(path.read_text()) | {"auto_map": {"AutoModel": "evil--code.Net"}, "_attn_implementation": "x/y"}
    path.write_text(json.dumps(told))
    described = make_model(of_folder(tmp_path)).architecture.encoder_config
    assert "evil" not in described and "x/y" not in described


def test_weights_that_are_wanted_must_be_there(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.weights: pretrained, but .* has no weights; give others"):
        make_model(of_folder(tmp_path, "model.weights=pretrained"))
    assert make_model(of_folder(tmp_path)).model.encoder.config.hidden_size == 16
    with pytest.raises(ConfigError, match=r"model\.weights: pretrained, but vision always starts from random weights"):
        config_of(KINDS["vit"], "model.weights=pretrained")


def test_rows_of_another_size_are_refused_with_the_remedy(tmp_path: Path) -> None:
    np.savez(tmp_path / "a0.npz", x=np.zeros((8, 16, 16, 3), dtype=np.uint8), y=np.arange(8) % 2)
    config = config_of(KINDS["vit"], f"data.dir='{tmp_path}'")
    line = r"rows are 16x16x3, model\.vision\.shape is 3x8x12; change one"
    with pytest.raises(DataError, match=line):
        load_data(config, config.definitions()[:1])
    saved("vit", tmp_path / "vit")
    config = of_folder(tmp_path / "vit", f"data.dir='{tmp_path}'")
    with pytest.raises(DataError, match=r"the model of model\.vision reads 3x8x12; change the rows$"):
        load_data(config, config.definitions()[:1])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            "type=bert",
            "model.vision.type: 'bert' is no vision model known here; write vit | dinov2 | convnext",
        ),
        ("shape=[8, 8]", "model.vision.shape: 2 numbers; write channels, height and width"),
        ("config={hiden_size: 4}", "model.vision.config.hiden_size: is not read by vit; known are attention_probs"),
        ("config={hidden_act: 'a/b'}", "model.vision.config.hidden_act: 'a/b' is no plain number or name"),
        ("config={num_hidden_layers: 5000}", "model.vision.config.num_hidden_layers: 5000 is no plain number"),
        ("mean=[0.5, 0.5]", "model.vision.mean: 2 numbers for 3 channels; write one for each"),
        ("std=[0]", "model.vision.std: must be above 0"),
    ],
)
def test_what_cannot_be_is_one_line(change: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(KINDS["vit"], f"model.vision.{change}")
    assert caught.value.problems[0].startswith(line), caught.value.problems


@pytest.mark.parametrize(
    ("shape", "config"),
    [((3, 8, 8), {"hidden_act": "nonsense", "patch_size": 4}), ((3, 2, 2), {"patch_size": 4})],
)
def test_what_transformers_cannot_build_is_one_line(shape: tuple[int, ...], config: dict[str, object]) -> None:
    odd = VisionEncoder(type_="vit", shape=shape, config=config)
    with pytest.raises(ModelError, match=r"model\.vision: no vit for images of .* \(.*\); correct config") as caught:
        make_model(config_of(odd))
    assert "\n" not in caught.value.message


def test_no_description_names_a_folder_and_standardised_rows_are_refused() -> None:
    described = json.loads(KINDS["vit"].describe()) | {"folder": "/etc"}
    with pytest.raises(ModelError, match=r"folder is for model\.vision alone"):
        encoder_described(json.dumps(described))
    with pytest.raises(ConfigError, match=r"data\.statistics: vision brings rows to a scale of its own; remove it"):
        config_of(KINDS["vit"], "data.statistics=federation")
    config_of(KINDS["vit"], "data.statistics=federation", "model.vision.mean=[0]", "model.vision.std=[1]")
