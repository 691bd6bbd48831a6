"""What a client does with an order to train: the rows; their functions are in `client.training.procedures`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from common.methods.choice import LARGEST, Bounds, Epochs, Row, Strength, parameters_of, table
from common.methods.dual_losses import DUAL_LOSSES, DualLoss
from common.methods.own_models import NoOwnModel, OwnModelRow, PulledModel


class ProximalStep(StrEnum):
    """How a proximal term (mu/2) ||theta - anchor||^2 is followed.

    GRADIENT adds mu (theta - anchor) to the gradient; with plain gradient steps of rate eta it diverges for
    eta mu > 2. PROXIMAL steps without it and then goes to the minimum of the term around there,
    (theta + eta mu anchor) / (1 + eta mu), which is stable for every mu.
    """

    GRADIENT = "gradient"
    PROXIMAL = "proximal"


class LocalProcedure(Row):
    """Base of the rows."""

    has_anchor: ClassVar[bool] = False
    """Whether it has a proximal term to the received model, so that `training.proximal_step` is read."""
    splits_model: ClassVar[bool] = False
    """Whether it needs a plan that splits the model into a shared encoder and heads."""
    looks_ahead: ClassVar[bool] = False
    """Whether gradients are taken where the model does not stand."""
    has_controls: ClassVar[bool] = False
    """Whether clients exchange control variates, a vector for each scope."""

    sums_gradients: ClassVar[bool] = False
    """Whether what is handed in comes of sums of rows' gradients alone, so that noise on these hides rows."""
    is_dual: ClassVar[bool] = False
    """Whether it solves the dual of linear models, so that rounds go another way: `common.methods.sdca`."""

    def parts(self) -> tuple[LocalProcedure, OwnModelRow]:
        """What it is of the model that is handed in, and of the client's own: what orders carry."""
        return self, NoOwnModel()

    def largest_mu(self) -> float:
        """The strength of its proximal term."""
        return 0.0

    def extra_epochs(self, local_epochs: int) -> int:
        """Passes over a client's examples per round beyond `local_epochs`, or gradients as many as one has."""
        return 0


@dataclass(frozen=True)
class PlainProcedure(LocalProcedure):
    """FedAvg (McMahan et al. 2017): epochs over the client's own examples."""

    name = "plain"
    sums_gradients = True


@dataclass(frozen=True)
class FedProx(LocalProcedure):
    """FedProx (Li et al. 2020): the loss plus (mu/2) ||w - received||^2 over everything that travels."""

    name = "fedprox"
    sums_gradients = True
    has_anchor = True
    mu: Strength = 0.1
    """strength of the pull to the received model"""

    def largest_mu(self) -> float:
        """See `LocalProcedure`."""
        return self.mu


@dataclass(frozen=True)
class FedRep(LocalProcedure):
    """FedRep (Collins et al. 2021): first the heads with the encoder frozen, then the reverse."""

    name = "fedrep"
    sums_gradients = True
    splits_model = True
    head_epochs: Epochs = 1
    """passes with the encoder frozen; local_epochs then train the encoder"""

    def extra_epochs(self, local_epochs: int) -> int:
        """See `LocalProcedure`."""
        return self.head_epochs


@dataclass(frozen=True)
class Ditto(LocalProcedure):
    """Ditto (Li et al. 2021): FedAvg, and beside it a personal model per client, pulled to the received one."""

    name = "ditto"
    has_anchor = True
    mu: Strength = 0.1
    """strength of the pull to the received model"""

    def parts(self) -> tuple[LocalProcedure, OwnModelRow]:
        """See `LocalProcedure`."""
        return PlainProcedure(), PulledModel(self.mu)

    def largest_mu(self) -> float:
        """See `LocalProcedure`."""
        return self.mu


@dataclass(frozen=True)
class PerFedAvg(LocalProcedure):
    """Per-FedAvg, first order (Fallah et al. 2020): the gradient after one step on the batch before."""

    name = "per_fedavg"
    looks_ahead = True
    inner_learning_rate: Strength = 0.01
    """rate of the step that is looked ahead"""

    def extra_epochs(self, local_epochs: int) -> int:
        """See `LocalProcedure`."""
        return local_epochs


@dataclass(frozen=True)
class Scaffold(LocalProcedure):
    """SCAFFOLD, option II (Karimireddy et al. 2020): SGD with c - c_i added to each gradient.

    c_i is what the client's gradients were on average in its last order, c the mean of that over all clients.
    """

    name = "scaffold"
    has_controls = True


@dataclass(frozen=True)
class SDCA(LocalProcedure):
    """The local solver of MOCHA (Smith et al. 2017): dual coordinate ascent of linear heads, with a certificate.

    A run with it minimises sum_t mean_i loss(w_t' x_ti, y_ti) + (strength / 2) tr(W Omega W') over all heads together;
    the relation says Omega.
    """

    name = "sdca"
    is_dual = True
    loss: str = "hinge"
    """hinge, smoothed_hinge, logistic, or squared"""
    smoothing: Annotated[float, Bounds(above=0, most=1)] = 0.5
    """of smoothed_hinge: how wide its round part is"""
    strength: Annotated[float, Bounds(above=0, most=LARGEST)] = 0.01
    """lambda, of the penalty"""
    passes: Annotated[float, Bounds(above=0, most=1e4)] = 1.0
    """over a client's rows, in each round"""
    bias: Annotated[float, Bounds(least=0, most=1e4)] = 1.0
    """value of a constant number in each row, whose weight is the bias; larger: less of a penalty on it; 0: no bias"""

    def dual_loss(self) -> DualLoss:
        """The loss."""
        row = DUAL_LOSSES[self.loss]
        return row.of({"smoothing": self.smoothing} if "smoothing" in parameters_of(row) else {})

    def problems(self) -> list[str]:
        """See `Row`."""
        if self.loss in DUAL_LOSSES:
            return []
        return [f"loss: '{self.loss[:80]}' is not one of {', '.join(DUAL_LOSSES)}; write one of them"]


PROCEDURES: dict[str, type[LocalProcedure]] = table(PlainProcedure, FedProx, FedRep, Ditto, PerFedAvg, Scaffold, SDCA)
