"""A module of a person's own names its layers, and plans by layer follow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from common.config import Config, load_config
from common.errors import ConfigError, ModelError
from common.models.encoder import shallower
from common.models.given_module import give
from common.models.own_module import named_layers
from common.parameters.capacity import blocks_of
from common.parameters.plan import PLANS, SharingPlan, groups_plan
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.federations import digest_of, federate, make_model
from tests.test_array_encoders import CLIENTS, MIN, TASKS

NET = """
from torch import nn, relu


class Net(nn.Module):
    layers = ["stem", "blocks.first", "blocks.second"]

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)
        self.stem = nn.Conv2d(1, 4, 3)
        self.blocks = nn.ModuleDict({"first": nn.Linear(4, 4), "second": nn.Linear(4, 4)})

    def forward(self, images):
        found = relu(self.stem(images)).mean((2, 3))
        for block in self.blocks.values():
            found = relu(block(found))
        return self.out(found)
"""


def config_of(folder: Path, *more: str, net: str = NET) -> Config:
    file = folder / "net.py"
    file.write_text(net)
    values = {"file": str(file), "class": "Net", "reads": "images", "shape": [1, 8, 6]}
    sizes = ("training.num_rounds=2", "training.local_epochs=1", "training.learning_rate=1e-2", "training.batch_size=8")
    return load_config(None, ["model.server_model=module", f"model.module={json.dumps(values)}", TASKS, *sizes, *more])


LAYERS = [{"encoder.layers.0"}, {"encoder.layers.1"}, {"encoder.layers.2"}]
ABOVE = {"encoder.net.out"}


def parts_of(config: Config) -> dict[str, set[str]]:
    """The modules of every scope."""
    schemas = make_model(config).schemas
    return {scope: {e.name.rpartition(".")[0] for e in schema.entries} for scope, schema in schemas.items()}


@pytest.mark.parametrize("count", [1, 2])
def test_plans_by_layer_find_the_named_layers(tmp_path: Path, count: int) -> None:
    def of(plan: str) -> dict[str, set[str]]:
        return parts_of(config_of(tmp_path, f"sharing.plan={plan}", f"sharing.private_layers={count}"))

    top = of("fedper")
    assert top["shared"] == set().union(*LAYERS[: 3 - count])
    assert top["private"] == set().union(*LAYERS[3 - count :], ABOVE)
    bottom = of("lg")
    assert bottom["private"] == set().union(*LAYERS[:count])
    assert bottom["shared"] == set().union(*LAYERS[count:], ABOVE)


def test_groups_and_blocks_find_them_too(tmp_path: Path) -> None:
    found = parts_of(config_of(tmp_path, "sharing.plan=groups", "sharing.groups={north: [a0], south: [b1]}"))
    assert found["shared"] == LAYERS[0] | LAYERS[1]
    assert found["group/{1}"] == LAYERS[2] | ABOVE
    assert set(parts_of(config_of(tmp_path, "sharing.by_layer=true"))) == {
        *("shared/layer_0", "shared/layer_1", "shared/layer_2", "shared/top", "task/a0", "task/b1")
    }


def test_a_list_of_modules_called_layers_is_found_as_it_is() -> None:
    names = {f"encoder.net.layers.{n}.weight": (1,) for n in range(2)} | {"encoder.net.out.weight": (1,)}
    shapes = names | {"heads.a.linear.weight": (1,)}
    found = {scope: {e.name for e in s.entries} for scope, s in SharingPlan(PLANS["fedper"]).schemas(shapes).items()}
    assert found["shared"] == {"encoder.net.layers.0.weight"}
    by_group = SharingPlan(groups_plan(1)).schemas(shapes)
    assert {e.name for e in by_group["shared"].entries} == {"encoder.net.layers.0.weight"}
    assert blocks_of(by_group)["shared"] == {"layer_0"}


@pytest.mark.parametrize("plan", ["fedper", pytest.param("adaptive", marks=pytest.mark.slow)])
def test_one_model_over_every_transport_and_in_a_simulation(tmp_path: Path, plan: str) -> None:
    config = config_of(tmp_path, MIN, f"sharing.plan={plan}")
    found = {how: asyncio.run(federate(config, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")}
    assert len({digest_of(run) for run in found.values()}) == 1
    digests = set()
    for workers in (1, 2):
        pool = config_of(tmp_path, f"simulation={{clients: 4, workers: {workers}}}", f"sharing.plan={plan}")
        run = run_virtual_clients(pool, make_model(pool), population(pool), tmp_path / str(workers))
        digests.add(digest_of(asyncio.run(run)[0]))
    assert len(digests) == 1


def test_names_of_layers_change_no_value(tmp_path: Path) -> None:
    with_layers = make_model(config_of(tmp_path)).model.encoder
    other = tmp_path / "other"
    other.mkdir()
    without = make_model(config_of(other, net=NET.replace('layers = ["stem"', 'parts = ["stem"'))).model.encoder
    assert isinstance(with_layers, nn.Module) and isinstance(without, nn.Module)
    images = torch.rand(3, 1, 8, 6)
    assert torch.equal(with_layers(images), without(images))
    assert next(iter(dict(without.named_parameters()))) == "net.out.weight"
    assert len([*with_layers.parameters()]) == len([*without.parameters()])


def test_clients_may_train_the_top_layer_alone_but_build_all(tmp_path: Path) -> None:
    one = TASKS.split(", b1")[0] + "}"
    config = config_of(tmp_path, "sharing.by_layer=true", "federation.min_clients=1", "client.trains=top_1", one)
    start = {scope: vector.numpy().copy() for scope, vector in make_model(config).vectors.items()}
    run = asyncio.run(federate(config, tmp_path / "top", (("a", ("a0",), "1/1"),)))
    changed = {scope for scope, vector in run.vectors.items() if (vector != start[scope]).any()}
    assert changed == {"shared/layer_2", "shared/top", "task/a0"}
    with pytest.raises(ModelError, match=r"client\.layers: an encoder of type 'module' is built whole; leave it out"):
        shallower(make_model(config).architecture.encoder_config, 1)


WRONG = {
    '["stem", "block"]': "layers names 'block', which is no part of it; its parts are out, stem, blocks",
    '["stem", "blocks", "blocks.first"]': "layers names 'blocks.first', which shares parameters with a layer below",
    '["stem", "stem"]': "layers names 'stem', which shares parameters with a layer below; name parts with parameters",
    '[""]': "layers names '', which is no part of it",
}


@pytest.mark.parametrize("names", WRONG)
def test_a_name_of_no_part_is_one_line(tmp_path: Path, names: str) -> None:
    net = NET.replace('["stem", "blocks.first", "blocks.second"]', names)
    with pytest.raises(ModelError) as caught:
        make_model(config_of(tmp_path, net=net))
    assert WRONG[names] in caught.value.message and "\n" not in caught.value.message


class Given(nn.Module):
    layers = ("first",)

    def __init__(self, name: str = "first") -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(5, 4), nn.Linear(4, 3), nn.ReLU()
        self.layers = (name,)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(torch.relu(self.first(rows)))
        return found


def test_a_given_module_names_its_layers_too() -> None:
    built = give(Given(), "numbers", (5,)).build()
    assert isinstance(built, nn.Module)
    assert [*dict(built.named_parameters())] == [
        *("layers.0.weight", "layers.0.bias", "net.second.weight", "net.second.bias")
    ]
    with pytest.raises(ModelError, match=r"encoder: class 'Given': ValueError: layers names 'third', which is no part"):
        give(Given("third"), "numbers", (5,))
    with pytest.raises(ModelError, match=r"layers names 'idle', which has no parameters"):
        give(Given("idle"), "numbers", (5,))


def test_an_attribute_that_names_nothing_is_left_alone() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    for value in (3, [], [8, 4], None):
        net.__dict__["layers"] = value
        assert named_layers(net) == []


def test_the_line_about_plans_says_what_to_do(tmp_path: Path) -> None:
    net = NET.replace('layers = ["stem"', 'parts = ["stem"')
    with pytest.raises(ConfigError, match="or a module that names them in its attribute `layers`"):
        make_model(config_of(tmp_path, "sharing.plan=fedper", net=net))
