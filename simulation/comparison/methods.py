"""What can be compared: a name, and what its configuration changes. `docs/methods.md` has the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from common.config import Config, vary
from common.config.values import Section
from common.errors import ConfigError
from common.methods.choice import Row, described
from common.methods.task_weights import TASK_WEIGHTS

LOCAL, SINGLE_TASK = "local", "single_task"
BASELINES = (LOCAL, SINGLE_TASK)
"""What it is to go alone: each client by itself, or each task by itself; what gains are against, unless asked."""

FORGET: tuple[str, ...] = (
    *("sharing.plan", "sharing.private_layers", "sharing.groups", "sharing.members", "sharing.rules", "relation"),
    *("training.procedure", "training.finetune_epochs", "training.balance"),
    *("aggregation", "guard", "blend"),
)
"""Keys that say which method it is; a built-in one starts with their defaults, which are plain federated averaging."""

SAME_FOR_ALL: tuple[str, ...] = (
    *("run", "tasks", "data", "simulation", "compare"),
    *("training.num_rounds", "training.local_epochs", "training.batch_size"),
    *("federation.client_fraction", "federation.tasks_per_order"),
)
"""What a method of one's own may not change: rows and budget. Weights and roles of tasks it may."""

PARAMETERS = {
    "sharing.plan": ("private_layers", "members"),
    "guard.enabled": ("margin", "rounds"),
    "blend.enabled": ("mix", "trains"),
}
"""What else of its section a choice reads that is no row of a table."""


@dataclass(frozen=True)
class ComparedMethod:
    """One method. `changes` maps paths of the configuration to values; `by_task` gives each task a run of its own.

    `forget` are paths that go back to their defaults before. `central` gives the rows of all clients to one.
    """

    name: str
    changes: Mapping[str, object] = field(default_factory=dict)
    by_task: bool = False
    forget: tuple[str, ...] = FORGET
    central: bool = False

    def configure(self, config: Config, changes: Mapping[str, object]) -> Config:
        """The configuration of this method, with further changes.

        Raises:
            ConfigError: one line per problem, beginning with the method's name.
        """
        try:
            return vary(config, {**self.changes_to(config), **changes}, self.forget, "simulate")
        except ConfigError as error:
            raise ConfigError(*(f"method {self.name}: {problem}" for problem in error.problems)) from None

    def changes_to(self, config: Config) -> Mapping[str, object]:
        """What it changes; where the file chooses the same as a built-in method, with the file's parameters."""
        if not self.forget:
            return self.changes
        found = dict(self.changes)
        for path, value in self.changes.items():
            section, key = _section_of(config, path)
            chosen = getattr(section, key)
            wanted = value if isinstance(value, Mapping) else {"name": value}
            if isinstance(chosen, Row) and chosen.name == wanted["name"]:
                found[path] = {**wanted, **described(chosen)}
            elif chosen == value:
                kept = (key for key in PARAMETERS.get(path, ()) if key in section.model_fields_set)
                found |= {f"{path.rpartition('.')[0]}.{key}": getattr(section, key) for key in kept}
        return found


def _section_of(config: Config, path: str) -> tuple[Section, str]:
    """The section in which a path ends, and its key there."""
    *names, key = path.split(".")
    return reduce(getattr, names, config), key


_ONE_PLACE = {
    "sharing.plan": "local",
    "federation.client_fraction": 1.0,
    "simulation.dropouts": 0.0,
    "simulation.stragglers": 0.0,
}
"""One client that has all rows and is asked in every round."""


def _aggregation(**values: object) -> dict[str, object]:
    return {f"aggregation.{key}": value for key, value in values.items()}


def _related(name: str) -> dict[str, object]:
    return {"sharing.plan": "soft", "relation": name}


def _optimizer(name: str, rate: float) -> dict[str, object]:
    return {**_aggregation(optimizer=name), "federation.server_learning_rate": rate}


METHODS: dict[str, ComparedMethod] = {
    method.name: method
    for method in (
        ComparedMethod(LOCAL, {"sharing.plan": "local"}),
        ComparedMethod(SINGLE_TASK, by_task=True),
        ComparedMethod("hard"),
        ComparedMethod("central", _ONE_PLACE, central=True),
        ComparedMethod("central_single", _ONE_PLACE, by_task=True, central=True),
        *(ComparedMethod(name, {"sharing.plan": name}) for name in ("full", "private_heads", "fedper", "lg")),
        *(ComparedMethod(name, _aggregation(weights=name)) for name, row in TASK_WEIGHTS.items() if row.by_task),
        *(
            ComparedMethod(name, _aggregation(weights="task_balanced", conflict=name))
            for name in ("pcgrad", "cagrad", "mgda", "nash", "imtl_g", "upgrad")
        ),
        ComparedMethod("norm", _aggregation(scale="norm", mean_over="readers")),
        ComparedMethod("guard", {"guard.enabled": True}),
        ComparedMethod("adaptive", {"sharing.plan": "adaptive"}),
        ComparedMethod("parting", {"sharing.plan": "adaptive", "relation": "parting"}),
        ComparedMethod("adaptive_guard", {"sharing.plan": "adaptive", "guard.enabled": True}),
        ComparedMethod("blend", {"blend.enabled": True}),
        ComparedMethod("adaptive_blend", {"sharing.plan": "adaptive", "blend.enabled": True}),
        ComparedMethod("soft", {"sharing.plan": "soft"}),
        ComparedMethod("graph_l1", _related("graph_l1")),
        ComparedMethod("partial", {"sharing.plan": "soft", "relation": {"name": "partial", "share": 0.5}}),
        ComparedMethod("fedamp", _related("attention")),
        ComparedMethod("mat_fl", _related("similarity")),
        ComparedMethod("mocha", _related("mocha")),
        ComparedMethod("ifca", _related("ifca")),
        ComparedMethod("effect", {"sharing.plan": "adaptive", "relation": "effect"}),
        *(ComparedMethod(name, {"training.procedure": name}) for name in ("fedprox", "ditto")),
        ComparedMethod("fedrep", {"training.procedure": "fedrep", "sharing.plan": "private_heads"}),
        ComparedMethod("per_fedavg", {"training.procedure": "per_fedavg", "training.finetune_epochs": 1}),
        ComparedMethod("finetune", {"training.finetune_epochs": 1}),
        ComparedMethod("momentum", _optimizer("momentum", 0.3)),
        *(ComparedMethod(name, _optimizer(name, 0.01)) for name in ("adam", "yogi")),
    )
}


def known_methods(config: Config) -> dict[str, ComparedMethod]:
    """The built-in methods and those of the configuration."""
    own = config.compare.methods
    return METHODS | {name: ComparedMethod(name, changes, forget=()) for name, changes in own.items()}


def choose(config: Config, names: Sequence[str]) -> list[ComparedMethod]:
    """The methods of these names, built-in or of the configuration.

    Raises:
        ConfigError: a name is unknown, or a method of the configuration is not fit to be compared.
    """
    own = config.compare.methods
    problems = [f"compare.methods.{name}: is a built-in method; choose another name" for name in own if name in METHODS]
    problems += [
        f"compare.methods.{name}: {problem}"
        for name, changes in own.items()
        for path, value in changes.items()
        if (problem := _budget_problem(path, value))
    ]
    known = known_methods(config)
    unknown = [name for name in names if name not in known]
    if unknown:
        problems.append(f"--methods: '{unknown[0]}' is unknown; known are {', '.join(known)}")
    if problems:
        raise ConfigError(*problems)
    return [known[name] for name in names]


def _budget_problem(path: str, value: object) -> str | None:
    """What is wrong with a change of one method that would give it other rows or another budget."""
    if is_same_for_all(path):
        return f"{path} must be the same for all methods; remove it"
    lost = next((fixed for fixed in SAME_FOR_ALL if fixed.startswith(f"{path}.")), None)
    if lost is None:
        return None
    key = next(iter(value), "KEY") if isinstance(value, Mapping) else "KEY"
    return (
        f"{path} as a whole replaces {lost}, which must be the same for all; write its keys by path, e.g. {path}.{key}"
    )


def is_same_for_all(path: str) -> bool:
    """Whether a key of the configuration is about rows and budget, which no method may have for itself."""
    if path.startswith("tasks.") and path.endswith((".weight", ".auxiliary", ".class_weights")):
        return False
    return any(path == fixed or path.startswith(f"{fixed}.") for fixed in SAME_FOR_ALL)


def extra_epochs(config: Config) -> int:
    """Passes over a client's rows, or gradients as many as one pass has, beyond num_rounds x local_epochs."""
    training = config.training
    per_round = training.procedure.extra_epochs(training.local_epochs)
    beside = config.order_settings().own_model.extra_epochs(training.num_rounds, training.local_epochs)
    return training.num_rounds * per_round + beside
