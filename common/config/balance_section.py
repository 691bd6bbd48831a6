"""How the tasks of one client meet in a step: the section `training.balance`, and which of its keys go together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.balance import READS, BalanceRule, LocalBalance
from common.config.values import Section


class BalanceSection(Section):
    """A rule and what it reads (`common.balance`); the others are left out. `balance: famo` is the short form."""

    rule: Literal[
        "plain", "uncertainty", "gradnorm", "famo", "pcgrad", "mgda", "cagrad", "nash", "imtl_g", "upgrad"
    ] = "plain"
    rate: Annotated[float, Field(gt=0, le=1e6)] = 0.025
    alpha: Annotated[float, Field(ge=0, le=1e6)] = 1.5
    decay: Annotated[float, Field(ge=0, le=1e6)] = 1e-3
    cagrad_c: Annotated[float, Field(gt=0, le=1e6)] = 0.4
    rescale: bool = True

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, body: Any) -> Any:
        return {"rule": body} if isinstance(body, str) else body

    def chosen(self) -> LocalBalance:
        """The rule with the settings that it reads."""
        rule = BalanceRule(self.rule)
        return LocalBalance(rule, **{key: getattr(self, key) for key in READS[rule]})

    def problems(self) -> list[str]:
        """Settings that the rule does not read, one line each."""
        keys = type(self).model_fields.keys() - {"rule"} - READS[BalanceRule(self.rule)]
        return [
            f"training.balance.{key}: rule {self.rule} does not read it; write rule: {_readers(key)}, or leave it out"
            for key in sorted(keys)
            if getattr(self, key) != type(self).model_fields[key].default
        ]


def _readers(key: str) -> str:
    return " or ".join(rule.value for rule in BalanceRule if key in READS[rule])
