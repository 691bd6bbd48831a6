"""The table of balances: what `training.balance` may say. Every conflict rule is one."""

from __future__ import annotations

from common.methods.balance import BalanceRow, FamoBalance, GradNormBalance, PlainBalance, UncertaintyBalance
from common.methods.choice import table
from common.methods.conflict import CONFLICT_RULES, ConflictRule

LocalBalance = BalanceRow | ConflictRule

BALANCES: dict[str, type[BalanceRow] | type[ConflictRule]] = {
    **table(PlainBalance, UncertaintyBalance, GradNormBalance, FamoBalance),
    **CONFLICT_RULES,
}
