"""Checks of where rows come from, and of how a simulation gives them to its clients."""

from __future__ import annotations

from common.config.schema import Config
from common.methods.partitions import DirichletPartition

HELD_OUT_OF = ("files", "hub")
"""Sources of which rows can be held out."""


def source(config: Config) -> list[str]:
    """A source has what it needs, and nothing that it does not read."""
    data = config.data
    if data.source == "files" and data.dir is None and not config.simulation.sites:
        return ["data.source: files needs a folder; set data.dir"]
    if data.source in ("glue", "hub") and data.dir is not None:
        return [f"data.dir: '{data.dir}' is not read by source {data.source}; write source: files, or remove dir"]
    return []


def datasets(config: Config) -> list[str]:
    """Sets of the hub are named where they are read."""
    if config.data.source != "hub":
        return []
    return [
        f"tasks.{name}.dataset: missing, where data.source is hub; name a set, e.g. dataset: org/set"
        for name, section in config.tasks.items()
        if section.dataset is None
    ]


def split(config: Config) -> list[str]:
    """Shares that leave rows to train on, with labels that can be told apart."""
    rule, found = config.data.split, []
    if not rule.validation and not rule.test:
        return [
            f"data.split.{key}: not read without a share; set data.split.validation or data.split.test, or remove it"
            for key in ("by", "stratify")
            if getattr(rule, key)
        ]
    if rule.validation + rule.test >= 1:
        found.append(f"data.split: {rule.validation:g} and {rule.test:g} leave nothing to train on; lower them")
    if rule.stratify:
        found += [
            f"data.split.stratify: needs one label per row, task {name} has {'many' if kind.reads_labels else 'none'}; "
            "leave it out"
            for name, section in config.tasks.items()
            if (kind := section.kind_of(name)) is not None and not (kind.one_label and kind.reads_labels)
        ]
    return found


def augment(config: Config) -> list[str]:
    """Only images stay what they are when they are mirrored or moved."""
    inputs = config.model.inputs
    if config.data.augment is None or inputs.has_images(config):
        return []
    return [f"data.augment: changes images, server_model {config.model.server_model} reads {inputs.name}; remove it"]


def split_of_source(config: Config) -> list[str]:
    """Rows are held out where they are read, and a coordinator reads none."""
    rule, name = config.data.split, config.data.source
    if not (rule.validation or rule.test) or name in HELD_OUT_OF:
        return []
    return [f"data.split: source {name} says itself what is scored on; remove it, or name files with data.dir"]


def simulation(config: Config) -> list[str]:
    """What forbids a simulation: too few clients, or settings that only real clients can follow."""
    section = config.simulation
    found = _beside_sites(config) if section.sites else _too_few(config)
    if config.data.partition is not None:
        found.append("data.partition: a simulation deals out the rows by itself; remove it")
    if config.client.precision == "auto":
        found.append("client.precision: auto is timed by each client; write float32 or bfloat16 for a simulation")
    if isinstance(section.partition, DirichletPartition):
        many = [
            name for name, s in config.tasks.items() if (kind := s.kind_of(name)) is not None and not kind.one_label
        ]
        found += [
            f"simulation.partition: dirichlet needs one label per row, task {name} has many; write iid" for name in many
        ]
    return found


def _too_few(config: Config) -> list[str]:
    """Clients that could not hold all tasks."""
    section, tasks = config.simulation, len(config.tasks)
    if config.data.source == "given":  # along with who holds them
        return []
    if section.tasks_per_client > tasks:
        return [f"simulation.tasks_per_client: {section.tasks_per_client}, but there are {tasks} tasks; lower it"]
    if section.clients + section.tasks_per_client - 1 < tasks:
        return [f"simulation.clients: {section.clients} cannot hold {tasks} tasks; raise it, or tasks_per_client"]
    return []


def _beside_sites(config: Config) -> list[str]:
    """Keys that say something else about whose rows are where."""
    section, data = config.simulation, config.data
    found = [
        f"simulation.{key}: sites have rows of their own, which are not dealt out; remove it, or simulation.sites"
        for key in ("clients", "tasks_per_client", "partition")
        if getattr(section, key) != getattr(type(section)(), key)
    ]
    if data.dir is not None:
        found.append("data.dir: every site has a folder of its own; remove it, or simulation.sites")
    if data.source != "files":
        found.append(f"data.source: {data.source}, but simulation.sites are folders; write files, or remove the sites")
    return found
