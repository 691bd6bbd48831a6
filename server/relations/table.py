"""The table of relations: what `relation.name` may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from common.config.relation_section import RelationSection
from common.config.schema import Config
from server.relations.agreement import agreement
from server.relations.lasso import network_lasso
from server.relations.linear import (
    Links,
    attention,
    clusters,
    graph,
    mean,
    precision,
    similarity,
    towards_mean,
)
from server.relations.ties import Relation

RELATIONS: Mapping[str, Callable[[RelationSection], Relation]] = {
    "mean": lambda section: mean(section.strength),
    "graph": lambda section: graph(section.strength, _links(section)),
    "graph_l1": lambda section: network_lasso(section.strength, _links(section), section.penalty),
    "precision": lambda section: precision(section.strength, _links(section), section.diagonal),
    "clusters": lambda section: clusters(section.strength, list(section.clusters.values())),
    "attention": lambda section: attention(section.strength, section.temperature),
    "similarity": lambda section: similarity(section.threshold, section.share),
    "partial": lambda section: towards_mean(section.share),
    "agreement": lambda section: agreement(section.margin, section.decay, section.patience),
}
"""Relations between members. `start`, which pulls everybody to the run's first values, has none."""


def relation_of(config: Config) -> Relation | None:
    """The relation that a configuration names, if it is one between members."""
    made = RELATIONS.get(config.relation.name)
    return None if made is None else made(config.relation)


def _links(section: RelationSection) -> Links:
    return {frozenset((link.one, link.other)): link.weight for link in section.links}
