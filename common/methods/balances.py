"""The table of balances: what `training.balance` may say."""

from __future__ import annotations

from common.methods.balance import FamoBalance, GradNormBalance, LocalBalance, PlainBalance, UncertaintyBalance
from common.methods.choice import table
from common.methods.conflict import CONFLICT_RULES

BALANCES: dict[str, type[LocalBalance]] = table(
    PlainBalance, UncertaintyBalance, GradNormBalance, FamoBalance, *CONFLICT_RULES.values()
)
