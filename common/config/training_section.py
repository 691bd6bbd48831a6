"""Rounds, and what a client does in one: the section `training`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.bodies import TrainingSettings
from common.config.choices import Chosen
from common.config.values import Count, CountOrZero, FrozenLayers, Section
from common.methods.anchors import ANCHORS, Anchor
from common.methods.balance import PlainBalance
from common.methods.balances import BALANCES, LocalBalance
from common.methods.local_optimizers import LOCAL_OPTIMIZERS, AdamWOptimizer, LocalOptimizer
from common.methods.own_models import FineTunedModel, NoOwnModel, OwnModelRow
from common.methods.procedures import PROCEDURES, LocalProcedure, PlainProcedure, ProximalStep
from common.methods.schedules import SCHEDULES, ConstantSchedule, Schedule

BLANK_HEAD_RATE = 3e-3
"""The least rate of heads that start from nothing, for optimizers whose steps are as long as the rate."""


class TrainingSection(Section):
    """Rounds, and what a client does in one; `local_epochs` 0 gives zero deltas, `max_grad_norm` 0 is off."""

    num_rounds: Count = 10
    """rounds of the run"""
    patience: CountOrZero = 0
    """the run ends after so many scored versions without a better one, by model.keep.best; 0: off"""
    stop_at_gap: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """procedure sdca: the run ends once the duality gap of a version is at most this; 0: after num_rounds"""
    local_epochs: Annotated[int, Field(ge=0, le=2**31 - 1)] = 3
    """passes over a client's rows per round; 0: score only, return zero deltas"""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """of the clients; for small models; large pretrained ones want 2e-5 to 1e-4"""
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """of heads that start from nothing; null: with adamw 3e-3 if learning_rate is lower, else learning_rate"""
    schedule: Annotated[Schedule, Chosen(SCHEDULES)] = ConstantSchedule()
    """of these rates over the rounds"""
    batch_size: Count = 16
    """rows per training step"""
    eval_batch_size: Count = 128
    """rows per scoring step; changes speed and memory, not the scores"""
    optimizer: Annotated[LocalOptimizer, Chosen(LOCAL_OPTIMIZERS)] = AdamWOptimizer()
    """of the clients"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """on matrices of layers only"""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """gradients are clipped to this norm; 0: off"""
    frozen_rounds: CountOrZero = 0
    """in so many first rounds a part of the encoder is not trained; 0: none"""
    frozen_layers: FrozenLayers = "all"
    """that part: all of it, or <n>: embeddings and the lowest n layers"""
    procedure: Annotated[LocalProcedure, Chosen(PROCEDURES)] = PlainProcedure()
    """what a client does with an order to train: docs/methods.md"""
    proximal_step: Annotated[ProximalStep, Field(strict=False)] = ProximalStep.GRADIENT
    """how the pull of a procedure, an anchor or a relation is followed: gradient | proximal (stable however strong)"""
    finetune_epochs: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """passes after the last round, for a model of the client's own; 0: none"""
    anchor: Annotated[Anchor | None, Chosen(ANCHORS, none=True)] = None
    """what everything shared is pulled to in training"""
    balance: Annotated[LocalBalance, Chosen(BALANCES)] = PlainBalance()
    """how tasks of one client that meet in a step agree on it: docs/methods.md"""

    def rate_of_heads(self) -> float:
        """The rate of heads that start from nothing.

        Those that are learned slowly send the encoder gradients by which it forgets what it was pretrained for, before
        they tell anything (Kumar et al., ICLR 2022).
        """
        if self.head_learning_rate is not None:
            return self.head_learning_rate
        return max(self.learning_rate, BLANK_HEAD_RATE) if self.optimizer.steps_by_rate else self.learning_rate

    def own_models(self) -> dict[str, OwnModelRow]:
        """The clients' own models that are asked for, by key; `common.config.checks` allows one."""
        found = {"training.procedure": self.procedure.parts()[1]}
        if self.finetune_epochs:
            found["training.finetune_epochs"] = FineTunedModel(self.finetune_epochs)
        return {key: row for key, row in found.items() if not isinstance(row, NoOwnModel)}

    def settings(self) -> TrainingSettings:
        """What travels with every order."""
        return TrainingSettings(
            local_epochs=self.local_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            head_learning_rate=self.rate_of_heads(),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            eval_batch_size=self.eval_batch_size,
            procedure=self.procedure.parts()[0],
            balance=self.balance,
            optimizer=self.optimizer,
            proximal_step=self.proximal_step,
            own_model=next(iter(self.own_models().values()), NoOwnModel()),
        )
