"""The federations of `same_bits`: small ones that together use every choice of the configuration at least once.

Settings are written as paths and values, in the words of this tree. `RENAMED` translates them for an older one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

Settings = Mapping[str, object]


class How(Enum):
    """How a federation is run, always by the command line."""

    DEMO = auto()
    """`--mode demo` with the configuration that the tree ships."""
    SIMULATE = auto()
    """`--mode simulate`."""
    DAEMONS = auto()
    """A server and client processes."""
    COORDINATOR_DIES = auto()
    """The same; the server gets SIGKILL after the first round, then goes on with `--resume`."""
    CLIENT_DIES = auto()
    """The same; the first client gets SIGKILL after the first round, then is started again."""


@dataclass(frozen=True)
class Client:
    """A client process of a federation."""

    name: str
    tasks: str
    partition: str = "1/1"
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Federation:
    """One row of the comparison."""

    settings: Settings
    how: How = How.SIMULATE
    clients: Sequence[Client] = ()


RENAMED: dict[str, tuple[str, dict[object, object]]] = {
    "data.statistics": ("data.standardise", {"site": True, "none": False}),
    "model.pair_mode": ("model.encoding", {}),
    "training.procedure.name": ("training.procedure", {}),
    "training.procedure.mu": ("training.mu", {}),
    "training.procedure.head_epochs": ("training.head_epochs", {}),
    "training.proximal_step": ("training.pull", {}),
    "training.anchor": ("relation", {}),
    "training.balance.name": ("training.balance.rule", {}),
    "training.balance.radius": ("training.balance.cagrad_c", {}),
    "aggregation.conflict.name": ("aggregation.conflict", {}),
    "aggregation.conflict.radius": ("aggregation.cagrad_c", {}),
    "aggregation.conflict.rescale": ("aggregation.rescale", {}),
    "aggregation.robust.name": ("aggregation.robust", {}),
    "aggregation.robust.faulty_share": ("aggregation.faulty_share", {}),
    "blend.enabled": ("", {}),
}
"""Path here -> path at the base, and value here -> value at the base where values differ too.

Whoever renames a key or a value adds a line. A path stands for all below it; an empty path at the base leaves it out.
"""

COMMON: Settings = {
    "training.num_rounds": 3,
    "training.local_epochs": 1,
    "training.batch_size": 8,
    "client.threads": 1,
    "client.device": "cpu",
    "federation.lease_seconds": 600,
}

KINDS: Mapping[str, Settings] = {
    "a": {"type": "classification", "labels": ["no", "yes"]},
    "b": {"type": "classification", "labels": 3},
    "c": {"type": "regression"},
    "d": {"type": "multilabel", "labels": ["x", "y", "z"]},
}

NUMBERS: Settings = {
    **COMMON,
    "model.server_model": "mlp",
    "model.mlp.features": 5,
    "model.mlp.hidden": [16, 8],
    "training.learning_rate": 5e-3,
    **{f"tasks.{name}": {**kind, "train_samples": 48, "val_samples": 24} for name, kind in KINDS.items()},
    "simulation.clients": 6,
    "simulation.tasks_per_client": 2,
}

TEXTS: Settings = {
    **COMMON,
    "model.server_model": "{encoder}",
    "model.weights": "random",
    "model.max_length": 32,
    "training.learning_rate": 1e-3,
    **{f"tasks.{name}": {"train_samples": 32, "val_samples": 16} for name in ("sst2", "qqp", "stsb")},
    "simulation.clients": 4,
    "simulation.tasks_per_client": 2,
}


def numbers(how: How = How.SIMULATE, clients: Sequence[Client] = (), **settings: object) -> Federation:
    """A federation over generated rows of numbers; `a__b` in a name stands for the path `a.b`."""
    return Federation({**NUMBERS, **_paths(settings)}, how, clients)


def texts(how: How = How.SIMULATE, clients: Sequence[Client] = (), **settings: object) -> Federation:
    """A federation over generated texts, with an encoder of two narrow layers."""
    return Federation({**TEXTS, **_paths(settings)}, how, clients)


def copies(relation: Settings, **settings: object) -> Federation:
    """Every client has a copy of its own, and a relation couples them."""
    plan = {"sharing.plan": "soft", "sharing.members": "clients", "training.num_rounds": 2}
    coupled = {f"relation.{key}": value for key, value in relation.items()}
    return Federation({**NUMBERS, **plan, **coupled, **_paths(settings)})


def _paths(settings: Settings) -> dict[str, object]:
    return {name.replace("__", "."): value for name, value in settings.items()}


LINKS = [["client-1", "client-2", 1.0], ["client-2", "client-3", 0.5], ["client-4", "client-6", 1.0]]

FEDERATIONS: dict[str, Federation] = {
    "demo": Federation({"blend.enabled": False}, How.DEMO),
    # ---- plans, codecs, robust rules ----
    "hard": texts(
        federation__update_encoding="rows-float32", training__schedule="linear", aggregation__max_examples=20
    ),
    "full": numbers(
        sharing__plan="full",
        aggregation__weights="uniform",
        aggregation__robust="median",
        aggregation__norm_bound=0.05,
        data__statistics="site",
    ),
    "private_heads": numbers(
        sharing__plan="private_heads",
        training__procedure__name="fedrep",
        training__procedure__head_epochs=2,
        aggregation__weights="temperature",
        federation__update_encoding="dense-bfloat16",
        client__precision="bfloat16",
    ),
    "fedper": texts(
        sharing__plan="fedper",
        training__procedure__name="fedprox",
        training__procedure__mu=1.0,
        model__pair_mode="cross",
        federation__update_encoding="dense-bfloat16",
    ),
    "lg": texts(
        sharing__plan="lg",
        aggregation__weights="uniform",
        aggregation__robust__name="trimmed_mean",
        aggregation__robust__faulty_share=0.4,
        federation__update_encoding="rows-bfloat16",
    ),
    "local": numbers(sharing__plan="local", training__balance__name="gradnorm", training__balance__rate=0.1),
    "groups": texts(
        sharing__plan="groups",
        sharing__groups={"pairs": {"scores": ["stsb"], "duplicates": ["qqp"]}, "sentences": ["sst2"]},
        simulation__tasks_per_client=1,
        aggregation__weights="dynamic",
        aggregation__optimizer="momentum",
    ),
    "by_layer": texts(
        sharing__by_layer=True, training__frozen_rounds=1, training__frozen_layers="1", client__trains="top_1"
    ),
    "rules": numbers(
        sharing__plan="rules",
        sharing__rules=[
            {"heads.a.*": "private"},
            {"heads.{task}.*": "task/{task}"},
            {"*layers.0*": "member/{member}"},
            {"*": "shared"},
        ],
        training__anchor__name="start",
        training__anchor__strength=0.5,
        training__procedure__name="fedprox",
        training__proximal_step="proximal",
    ),
    # ---- relations, and the balance of a client's tasks ----
    "mean": numbers(sharing__plan="soft", training__balance="pcgrad", federation__task_choice="rotate"),
    "graph": copies({"name": "graph", "links": LINKS}, training__balance="mgda"),
    "graph_l1": copies(
        {"name": "graph_l1", "links": LINKS, "penalty": 0.5, "strength": 0.01},
        training__balance__name="cagrad",
        training__balance__radius=0.8,
        training__num_rounds=4,
    ),
    "precision": copies(
        {"name": "precision", "links": [["client-1", "client-2", -0.5]], "diagonal": 2.0},
        training__balance="nash",
        training__proximal_step="proximal",
    ),
    "clusters": copies(
        {"name": "clusters", "clusters": {"north": ["client-1", "client-2"], "south": ["client-3", "client-4"]}},
        training__balance="imtl_g",
        aggregation__optimizer="adam",
    ),
    "attention": copies({"name": "attention", "temperature": 0.5}, training__balance="upgrad"),
    "similarity": copies(
        {"name": "similarity", "threshold": 0.2}, training__balance__name="famo", training__balance__rate=0.1
    ),
    "partial": copies(
        {"name": "partial", "share": 0.3}, training__balance__name="uncertainty", training__balance__rate=0.1
    ),
    "adaptive": numbers(
        sharing__plan="adaptive",
        sharing__members="clients",
        relation__margin=0.5,
        relation__patience=1,
        training__num_rounds=5,
        training__balance__name="upgrad",
        training__balance__rescale=False,
    ),
    # ---- weights of tasks, conflicts, server optimizers, procedures ----
    "pcgrad": numbers(aggregation__weights="task_balanced", aggregation__conflict="pcgrad", training__optimizer="sgd"),
    "mgda": numbers(
        aggregation__weights="task_balanced",
        aggregation__conflict="mgda",
        training__procedure__name="ditto",
        training__procedure__mu=1.0,
        aggregation__max_examples="2x",
    ),
    "cagrad": numbers(
        aggregation__weights="attention",
        aggregation__conflict__name="cagrad",
        aggregation__conflict__radius=0.8,
        training__procedure="per_fedavg",
        training__finetune_epochs=1,
    ),
    "nash": numbers(
        aggregation__weights="famo",
        aggregation__conflict="nash",
        aggregation__only_conflicts=False,
        aggregation__optimizer="yogi",
        federation__server_learning_rate=0.01,
        aggregation__task_optimizer="sgd",
        aggregation__task_learning_rate=1.0,
    ),
    "imtl_g": numbers(
        aggregation__conflict__name="imtl_g",
        aggregation__only_conflicts=False,
        aggregation__conflict__rescale=False,
        training__procedure="ditto",
        training__proximal_step="proximal",
        training__schedule="cosine",
    ),
    "upgrad": texts(
        aggregation__conflict="upgrad",
        tasks__words={"type": "masked_lm", "auxiliary": True, "train_samples": 32, "val_samples": 16},
        simulation__clients=5,
        training__frozen_rounds=1,
    ),
    "guard": numbers(
        guard={"enabled": True, "margin": 0.0, "rounds": 1},
        training__num_rounds=6,
        aggregation__optimizer="momentum",
        federation__server_learning_rate=2.0,
    ),
    # ---- what goes wrong ----
    "crowd": numbers(
        simulation__clients=40,
        simulation__partition="dirichlet",
        simulation__dropouts=0.1,
        simulation__stragglers=0.1,
        simulation__workers=2,
        federation__client_fraction=0.6,
        federation__tasks_per_order=1,
        federation__task_choice="examples",
        aggregation__weights="uniform",
        aggregation__robust="multi_krum",
        training__num_rounds=5,
        tasks__b={"type": "classification", "labels": 3, "train_samples": 480, "val_samples": 240},
        tasks__d={"type": "regression", "train_samples": 480, "val_samples": 240},
    ),
    "daemons": texts(
        How.DAEMONS,
        (
            Client("one", "sst2", "1/2", {"client.layers": 1}),
            Client("two", "sst2,qqp", "2/2", {"client.trains": "top_1"}),
            Client("three", "qqp,stsb", "2/2", {"client.trains": "head", "client.compact_vocabulary": False}),
            Client("four", "qqp", "1/2"),
        ),
        sharing__by_layer=True,
        federation__update_encoding="rows-float32",
    ),
    "coordinator_killed": numbers(
        How.COORDINATOR_DIES,
        (Client("one", "a", "1/2"), Client("two", "a,b,c", "2/2"), Client("three", "b,d")),
        sharing__plan="private_heads",
        training__procedure="ditto",
        training__num_rounds=30,
        aggregation__optimizer="adam",
        federation__server_learning_rate=0.01,
    ),
    "client_killed": numbers(
        How.CLIENT_DIES,
        (Client("one", "a,c", "1/2"), Client("two", "a,b,d", "2/2")),
        sharing__plan="soft",
        sharing__members="clients",
        training__num_rounds=30,
    ),
}
