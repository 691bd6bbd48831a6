"""The table of relations: what `relation.name` may say besides none."""

from __future__ import annotations

from common.methods.agreement import AgreementRelation
from common.methods.bipartition import BipartitionRelation
from common.methods.choice import table
from common.methods.effect import EffectRelation
from common.methods.ifca import IFCARelation
from common.methods.lasso import LassoRelation
from common.methods.linear import (
    AttentionRelation,
    ClusterRelation,
    GraphRelation,
    MeanRelation,
    PartialRelation,
    PrecisionRelation,
    SimilarityRelation,
)
from common.methods.mocha import MochaRelation
from common.methods.parting import PartingRelation
from common.methods.relation import Relation

RELATIONS: dict[str, type[Relation]] = table(
    MeanRelation,
    GraphRelation,
    LassoRelation,
    PrecisionRelation,
    ClusterRelation,
    AttentionRelation,
    SimilarityRelation,
    PartialRelation,
    AgreementRelation,
    BipartitionRelation,
    PartingRelation,
    IFCARelation,
    EffectRelation,
    MochaRelation,
)
