"""Tasks over rows of numbers: files, generated rows, the perceptron, and what a configuration may not say of them."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from client.app import load_data, local_definitions
from client.data.array_examples import ArrayExamples
from client.data.array_loader import read_rows
from client.data.examples import TaskData, prepare
from client.data.synthetic import generate_rows
from client.data.texts import TextExamples
from client.disclosure import what_leaves
from client.training.evaluation import evaluate
from common.config import load_config, notes
from common.encoders.mlp import MLPEncoder
from common.errors import ConfigError, DataError, ModelError
from common.inputs import INPUT_KINDS
from common.models.multitask import draws_in_training
from common.orders import ModelArchitecture
from common.tasks import TASK_KINDS, TaskDefinition
from server.runs.model import MTLServerModel
from server.runs.preparation import prepare_run
from tests.federations import array_config, digest_of, federate, make_model

MINE = TaskDefinition("mine3", TASK_KINDS["classification"], ("clutter", "mine"), False, ("auc_mean",))
SCORE = TaskDefinition("school3", TASK_KINDS["regression"], (), False, ("rmse",))
TAGS = TaskDefinition("tags", TASK_KINDS["multilabel"], ("a", "b"), False, ("f1_micro",))
SIGN = TaskDefinition("sign", TASK_KINDS["classification"], ("-1", "1"), False, ("accuracy",))

X = np.arange(24, dtype=np.float64).reshape(12, 2)
Y = np.arange(12) % 2


def save(path: Path, **arrays: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def rows(
    folder: Path, task: TaskDefinition = MINE, features: int = 2, seed: int = 1
) -> tuple[ArrayExamples, ArrayExamples]:
    data = read_rows(folder, task, MLPEncoder(features), seed)
    assert isinstance(data.train, ArrayExamples)
    assert isinstance(data.validation, ArrayExamples)
    return data.train, data.validation


# ---- files ----


def test_one_file_per_task_is_split_once_and_for_all(tmp_path):
    save(tmp_path / "mine3.npz", x=X, y=Y)
    train, validation = rows(tmp_path)
    assert (len(train), len(validation)) == (9, 3)
    both = np.concatenate([train.values, validation.values])
    assert sorted(both[:, 0].tolist()) == X[:, 0].tolist()
    again, other = rows(tmp_path)[1], rows(tmp_path, seed=2)[1]
    assert again.values.tolist() == validation.values.tolist() != other.values.tolist()
    assert train.values.dtype == np.float32
    assert train.labels.dtype == np.int64
    assert (train.labels == train.values[:, 0] / 2 % 2).all()


def test_all_npz_names_tasks_by_number_or_by_name(tmp_path):
    save(tmp_path / "a" / "all.npz", task=np.repeat([3, 4], 6), x=X, y=Y)
    save(tmp_path / "b" / "all.npz", task=np.repeat(["mine3", "mine4"], 6), x=X, y=Y)
    for folder in "ab":
        train, validation = rows(tmp_path / folder)
        assert sorted(np.concatenate([train.values, validation.values])[:, 0].tolist()) == X[:6, 0].tolist()


def test_a_folder_with_both_splits_comes_first_and_csv_is_read(tmp_path):
    save(tmp_path / "mine3.npz", x=X + 100, y=Y)
    (tmp_path / "mine3").mkdir()
    (tmp_path / "mine3" / "train.csv").write_text("u,label,v\n1,mine,2\n3,clutter,4.5\n")
    save(tmp_path / "mine3" / "validation.npz", x=X, y=Y.astype(float))
    train, validation = rows(tmp_path)
    assert train.values.tolist() == [[1.0, 2.0], [3.0, 4.5]]
    assert train.labels.tolist() == [1, 0]
    assert validation.labels.tolist() == Y.tolist()


def test_labels_of_every_type(tmp_path):
    save(tmp_path / "sign.npz", x=X, y=Y * 2 - 1)
    assert set(rows(tmp_path, SIGN)[0].labels.tolist()) == {0, 1}
    save(tmp_path / "school3.npz", x=X, y=Y + 0.5)
    assert rows(tmp_path, SCORE)[0].labels.dtype == np.float64
    save(tmp_path / "tags.npz", x=X, y=np.stack([Y, 1 - Y], axis=1))
    assert rows(tmp_path, TAGS)[0].labels.sum(axis=1).tolist() == [1.0] * 9


def test_images_are_flattened(tmp_path):
    save(tmp_path / "mine3.npz", x=np.arange(12 * 6, dtype=np.uint8).reshape(12, 2, 3), y=Y)
    train, validation = rows(tmp_path, features=6)
    first = min(np.concatenate([train.values, validation.values]).tolist())
    assert first == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X, "y": Y[:5]}, "differ in their number of rows"),
        ({"x": X}, "array 'y' is missing; present are x"),
        ({"x": X[:0], "y": Y[:0]}, "has no rows"),
        ({"x": X[:, :1], "y": Y}, "rows have 1 features, model.mlp.features is 2"),
        ({"x": np.where(X == 6, np.nan, X), "y": Y}, "row 4, feature 1: nan is not a finite float32"),
        ({"x": X * 1e300, "y": Y}, "is not a finite float32"),
        ({"x": X.astype(str), "y": Y}, "features are of type"),
        ({"x": X, "y": Y + 1}, "label '2' is out of range"),
        ({"x": X, "y": np.full(12, 0.5)}, "unknown label '0.5'"),
        ({"x": X, "y": np.stack([Y, Y], axis=1)}, "y has shape"),
        ({"x": np.array([{}], dtype=object), "y": Y[:1]}, "not a readable .npz file of plain arrays"),
    ],
)
def test_a_bad_array_is_refused_in_one_line(tmp_path, arrays, words):
    save(tmp_path / "mine3.npz", **arrays)
    with pytest.raises(DataError, match=words) as refused:
        rows(tmp_path)
    assert "\n" not in refused.value.message


def test_missing_and_doubled_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"needed mine3/train\.npz with mine3/validation\.npz, mine3\.npz or all\.npz"):
        rows(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        rows(tmp_path / "nowhere")
    save(tmp_path / "all.npz", task=np.zeros(12, dtype=int), x=X, y=Y)
    with pytest.raises(DataError, match="no row is of task 3"):
        rows(tmp_path)
    with pytest.raises(DataError, match="'tags' ends with none"):
        rows(tmp_path, TAGS)
    (tmp_path / "mine3.csv").write_text("u,v\n1,2\n")
    with pytest.raises(DataError, match="column missing, needed label or "):
        rows(tmp_path)
    (tmp_path / "mine3.csv").write_text("u,v,y\n1,x,0\n")
    with pytest.raises(DataError, match=r"mine3\.csv, row 1, column 'v': 'x' is not a number; mend or remove the row"):
        rows(tmp_path)
    (tmp_path / "mine3.csv").write_text("u,v,y\n1,0\n")
    with pytest.raises(DataError, match="row 1: columns: 2 where the header has 3"):
        rows(tmp_path)
    save(tmp_path / "mine3.npz", x=X, y=Y)
    with pytest.raises(DataError, match="keep one"):
        rows(tmp_path)


# ---- generated rows, standardising, batches ----


def test_generated_rows_are_an_endless_split():
    few, many = (generate_rows(MINE, MLPEncoder(5), "train", count, 7) for count in (10, 30))
    assert many.values[:10].tolist() == few.values.tolist()
    assert many.labels[:10].tolist() == few.labels.tolist()
    assert generate_rows(MINE, MLPEncoder(5), "validation", 10, 7).values.tolist() != few.values.tolist()
    assert generate_rows(SCORE, MLPEncoder(5), "train", 10, 7).labels.dtype == np.float64
    assert generate_rows(TAGS, MLPEncoder(5), "train", 10, 7).labels.shape == (10, 2)


def test_standardised_rows_have_mean_zero_and_deviation_one():
    train, validation = (
        ArrayExamples(np.c_[X, np.ones(12)].astype(np.float32), Y),
        ArrayExamples(np.ones((1, 3), "f4"), Y[:1]),
    )
    data = TaskData(train, validation, "here").standardised()
    scaled, scored = data.train, data.validation
    assert np.allclose(scaled.values.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(scaled.values.std(axis=0), [1, 1, 0], atol=1e-6)
    assert scored.values[0].tolist() == pytest.approx([(1 - 11) / X[:, 0].std(), (1 - 12) / X[:, 1].std(), 0.0])


def test_partitions_are_disjoint_and_whole(tmp_path):
    save(tmp_path / "mine3.npz", x=X, y=Y)
    parts = []
    for part in ("1/2", "2/2"):
        config = array_config(
            f"data.dir='{tmp_path}'", f"data.partition={part}", "model.mlp.features=2", tasks=("mine3",)
        )
        parts.append(load_data(config, config.definitions())["mine3"])
    kept = np.concatenate([part.train.values for part in parts])
    assert sorted(kept[:, 0].tolist()) == sorted(rows(tmp_path, seed=42)[0].values[:, 0].tolist())


def test_a_batch_is_the_rows_themselves():
    data = ArrayExamples(X.astype(np.float32), Y)
    architecture = ModelArchitecture(MLPEncoder(2, (3,)).describe(), "siamese", 128, "", 0)
    assert prepare(data, MINE, architecture, None) is data
    batch = data.batch(np.array([3, 1]))
    assert batch.values.tolist() == X[[3, 1]].tolist()
    assert batch.labels.tolist() == Y[[3, 1]].tolist()
    with pytest.raises(DataError, match="reads numbers, and here are texts"):
        prepare(TextExamples(), MINE, architecture, None)


# ---- the encoder ----


def test_the_perceptron_is_layers_and_relu():
    encoder = INPUT_KINDS["numbers"].build_encoder(MLPEncoder(2, (3,)).describe())
    x = torch.tensor([[1.0, 2.0]])
    layer = encoder.layers[0]
    assert torch.equal(encoder(x), torch.relu(x @ layer.weight.T + layer.bias))


@pytest.mark.parametrize(
    "values",
    [{"features": 0}, {"hidden": [0]}, {"hidden": ["x"]}, {"dropout": 1}, {"features": True}, {"dropout": "x"}],
)
def test_impossible_sizes_are_a_model_error(values):
    sizes = json.loads(MLPEncoder(2, (3,)).describe()) | values
    with pytest.raises(ModelError, match="mlp"):
        INPUT_KINDS["numbers"].build_encoder(json.dumps(sizes))


def test_the_server_model_needs_no_tokenizer():
    model = make_model(array_config())
    assert model.tokenizer_bytes == b""
    assert model.architecture.tokenizer_bytes == 0
    assert model.parameter_counts().shared == 5 * 8 + 8
    assert not draws_in_training(model.model)
    assert draws_in_training(make_model(array_config("model.mlp.dropout=0.5")).model)


def test_a_federation_learns_and_is_the_same_over_every_transport(tmp_path):
    config = array_config("training.num_rounds=4", "training.local_epochs=3", "federation.min_clients=4")
    clients = (("a", ("a0",), "1/2"), ("b", ("a0",), "2/2"), ("c", ("b1",), "1/2"), ("d", ("a0", "b1"), "2/2"))
    runs = [asyncio.run(federate(config, tmp_path / how, clients, how)) for how in ("direct", "codec", "grpc")]
    assert len({digest_of(run) for run in runs}) == 1
    model = make_model(config)
    model.load_vectors(runs[0].vectors)
    scored = {}
    for name, made in (("before", make_model(config)), ("after", model)):
        data = load_data(config, config.definitions())["a0"]
        task = config.definitions()[0]
        scored[name] = task.summarise(evaluate(made.model, task, data.validation, 64))["auc_mean"]
    assert scored["after"] > max(0.75, scored["before"])


def test_a_run_folder_of_an_mlp_has_an_empty_tokenizer(tmp_path):
    prepared = prepare_run(array_config(), tmp_path)
    assert "mlp" in prepared.summary
    assert (tmp_path / "tokenizer.pack").read_bytes() == b""


def test_what_leaves_says_features():
    lines = "\n".join(what_leaves(array_config(), ["a0"]))
    assert "features, labels" in lines
    assert "word pieces" not in lines


# ---- refusals at load ----

SENSORS = ("model.server_model=mlp", "model.mlp.features=9", "tasks={a: {type: regression}}")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.mlp=null", "model.mlp: missing"),
        ("model.tokenizer=vocab.txt", "model.tokenizer: vocab.txt is not for server_model mlp"),
        ("model.pair_mode=cross", "model.pair_mode: cross is not for server_model mlp"),
        ("model.max_length=64", "model.max_length: 64 is not for server_model mlp"),
        ("model.weights=pretrained", "model.weights: pretrained, but mlp"),
        ("model.server_model=bert-base-uncased", "model.mlp: not read by server_model bert-base-uncased"),
        (
            "federation.update_encoding=rows-float32",
            "leaves out rows of word embeddings, mlp has none; write dense-float32",
        ),
        ("tasks={sst2: {}}", "tasks.sst2: known as a task over texts"),
        ("tasks={a: {type: regression, columns: {text: t, label: l}}}", "tasks.a.columns.text: mlp reads numbers"),
        ("data.source=glue", "data.source: glue has texts"),
        ("model.mlp.hidden=[0]", "model.mlp.hidden: 0 is out of range; write 1 to 1000000"),
        ("model.mlp.dropout=1", "model.mlp.dropout"),
    ],
)
def test_contradictions_are_refused_at_load(override, line):
    assert notes(load_config(None, SENSORS)) == []
    with pytest.raises(ConfigError) as refused:
        load_config(None, [*SENSORS, override])
    assert any(line in problem for problem in refused.value.problems), refused.value.problems


def test_texts_are_not_standardised():
    with pytest.raises(ConfigError, match=r"data\.statistics: only rows of numbers"):
        load_config(None, ["tasks={sst2: {}}", "data.statistics=site"])


def test_an_architecture_of_an_mlp_travels(tmp_path):
    config = array_config()
    model = make_model(config)
    again = MTLServerModel.restore(model.architecture, b"", "mlp", config.definitions(), config.sharing_plan())
    assert {scope: schema.digest for scope, schema in again.schemas.items()} == {
        scope: schema.digest for scope, schema in model.schemas.items()
    }
    assert local_definitions(config, ["a0"])[0] == config.definitions()[0]
