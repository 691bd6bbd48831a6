"""What orders ask for. Plain values, no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar, Literal

from common.methods.balance import PlainBalance
from common.methods.balances import LocalBalance
from common.methods.choice import parameters_of
from common.methods.local_optimizers import AdamWOptimizer, LocalOptimizer
from common.methods.own_models import NoOwnModel, OwnModelRow
from common.methods.procedures import LocalProcedure, PlainProcedure, ProximalStep
from common.parameters.scope import Scope, is_sum
from common.secure.terms import SumOrder

LEAST_SCORES_NOISE, MOST_SCORES_NOISE = 0.1, 1e6
"""Rows: less hides nothing, and more drowns everything."""


@dataclass(frozen=True)
class RowNoise:
    """How clients hide their single rows: by noise on sums of gradients, each of which is at most `clip` long."""

    clip: float
    delta: float
    """The chance that epsilon does not cover."""
    rounds: int
    """For how many orders `epsilon` shall last, where it says how much noise there is."""
    epsilon: float | None = None
    """The budget of the rows of each task over all orders to a client; None: there is none."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise in units of `clip`; None: the least that `epsilon` allows for `rounds`."""
    scores_noise: float | None = None
    """Of the noise on counts of validation rows, which are then all that leaves of scores; None: there is none."""

    def problem(self) -> str | None:
        """What is wrong with these numbers, or None."""
        given = [value for value in (self.epsilon, self.noise_multiplier) if value is not None]
        if not all(0.0 < value < inf for value in (self.clip, *given)):
            return "clip, epsilon and noise_multiplier must be positive numbers"
        if not 0.0 < self.delta < 1.0:
            return f"delta: {self.delta:g} is not between 0 and 1"
        if not self.rounds:
            return "rounds: there is none"
        if self.scores_noise is not None and not LEAST_SCORES_NOISE <= self.scores_noise <= MOST_SCORES_NOISE:
            return f"scores_noise: {self.scores_noise:g} is not between {LEAST_SCORES_NOISE} and {MOST_SCORES_NOISE:g}"
        return None if given else "one of epsilon and noise_multiplier must say how much noise there is"


@dataclass(frozen=True)
class TrainingSettings:
    """How to train locally; travels with the order, so that all clients do the same."""

    local_epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    """Of heads that start from nothing."""
    weight_decay: float
    max_grad_norm: float
    eval_batch_size: int
    procedure: LocalProcedure = field(default_factory=PlainProcedure)
    balance: LocalBalance = field(default_factory=PlainBalance)
    optimizer: LocalOptimizer = field(default_factory=AdamWOptimizer)
    proximal_step: ProximalStep = ProximalStep.GRADIENT
    frozen: str = ""
    """What of the encoder is not trained: nothing (empty), `all`, or embeddings and the lowest `<n>` layers."""
    own_model: OwnModelRow = field(default_factory=NoOwnModel)
    """What a client trains beside the model that it hands in."""
    keeps_scores: bool = False
    """Losses and scores stay with the client."""
    row_noise: RowNoise | None = None
    """How single rows are hidden in what is handed in; None: they are not."""

    def limited(self) -> Iterator[tuple[str, str, float]]:
        """See `Body.limited`."""
        yield "epochs", "local_epochs", self.local_epochs
        for row in (self.procedure, self.own_model):
            for key, parameter in parameters_of(type(row)).items():
                if parameter.kind is int:  # what these rows count is epochs
                    yield "epochs", f"{key} of {row.name}", getattr(row, key)
        yield "batch_size", "batch_size", self.batch_size
        yield "batch_size", "eval_batch_size", self.eval_batch_size


@dataclass(frozen=True)
class ScopeVersion:
    """One scope at one version."""

    scope: str
    version: int


@dataclass(frozen=True)
class ProximalTerm:
    """Adds (mu/2) ||theta - anchor||^2 to the loss of a scope, which may be private.

    The anchor is a scope called `anchor/<scope>`, of the same layout, at a version of its own: 0 are the run's first
    values, what a relation made has another one.
    """

    scope: str
    mu: float
    version: int

    @property
    def anchor(self) -> ScopeVersion:
        """What to fetch."""
        return ScopeVersion(Scope.parse(self.scope).anchor, self.version)

    @property
    def to_start(self) -> bool:
        """Whether it holds the scope to the run's first values, which says nothing of other clients."""
        return self.version == 0


@dataclass(frozen=True)
class ControlShare:
    """The mean of clients' control variates of a scope is the scope `control/<scope>` divided by `clients`."""

    scope: str
    clients: int


DENSE_FLOAT32 = "dense-float32"


ROWS_FLOAT32 = "rows-float32"


DENSE_BFLOAT16 = "dense-bfloat16"


ROWS_BFLOAT16 = "rows-bfloat16"


RING = "ring"
"""Of answers that enter sums: 32-bit integers, masked or not, and 64-bit counts behind them."""


@dataclass(frozen=True)
class Body:
    """What an order asks for; each kind is answered by an `Update`, or by a `Reply`."""

    activity: ClassVar[str] = "working"
    """What a client does meanwhile, for people."""

    def needed(self, scopes: tuple[ScopeVersion, ...]) -> tuple[ScopeVersion, ...]:
        """All values that must be received, of an order with these scopes."""
        return ()

    def limited(self) -> Iterator[tuple[str, str, float]]:
        """What a client may set a limit to: the name of the limit in `client.limits`, of the field, and its value."""
        return iter(())


def _bases(candidate: tuple[ScopeVersion, ...]) -> frozenset[str]:
    """The scopes whose place a candidate's values take."""
    return frozenset(Scope.parse(wanted.scope).base for wanted in candidate)


@dataclass(frozen=True)
class NoisePromise:
    """What the coordinator promises of noise on what it publishes of an update."""

    noise_multiplier: float
    """Standard deviation of the noise in units of the longest update."""
    epsilon: float
    """What everything that is then published about this client says at most, with `delta`."""
    delta: float
    clients: int
    """At least so many have a part in each sum that is published."""


@dataclass(frozen=True)
class Train(Body):
    """Train the received scopes and hand in how they changed, as an `Update`."""

    activity = "training"
    settings: TrainingSettings
    seed: int
    """Derived for this client, round and purpose: it tells nothing of the run's own seed."""
    codec: str = DENSE_FLOAT32
    """What the update shall be encoded with, one that the client offered."""
    proximal_terms: tuple[ProximalTerm, ...] = ()
    isolated_tasks: tuple[str, ...] = ()
    """Tasks whose training stays in the client's isolated model: nothing of them enters the update."""
    controls: tuple[ControlShare, ...] = ()
    """What the sums of control variates among the order's scopes are sums of."""
    starts: tuple[ScopeVersion, ...] = ()
    """Candidates that take the place of the values of their scopes: the update is the change from these."""
    fixed: tuple[str, ...] = ()
    """Scopes that nobody trains in this round, so that the update does not hold them."""
    noise: NoisePromise | None = None
    """None: what comes of the update is published as it is."""
    sums: SumOrder | None = None
    """How the update and its results enter sums that alone can be read; None: they travel as they are."""

    def needed(self, scopes: tuple[ScopeVersion, ...]) -> tuple[ScopeVersion, ...]:
        """The scopes, or the candidates in their place, and the anchors of proximal terms."""
        own = (wanted for wanted in scopes if wanted.scope not in _bases(self.starts))
        return (*own, *self.starts, *(term.anchor for term in self.proximal_terms))

    def limited(self) -> Iterator[tuple[str, str, float]]:
        """See `Body`."""
        return self.settings.limited()


@dataclass(frozen=True)
class DualProblem:
    """What a client must know of the dual problem of one of its heads (Smith et al., NeurIPS 2017)."""

    task: str
    scope: str
    """Of the head."""
    rows: int
    """Of all clients that the head is trained on: losses are means over these."""
    variance: float
    """The head's entry on the diagonal of the relationship matrix."""
    coupling: float
    """How much stronger the local penalty is, so that heads may move at the same time; 1 or more."""
    solved: int
    """The round that this client's dual variables are from; 0: it has none."""


@dataclass(frozen=True)
class Solve(Body):
    """Solve the dual problems of linear heads by coordinate ascent; an `Update` says how their supports changed."""

    activity = "solving"
    settings: TrainingSettings
    seed: int
    """Derived as in `Train`."""
    problems: tuple[DualProblem, ...]
    codec: str = DENSE_FLOAT32
    """As in `Train`."""

    def needed(self, scopes: tuple[ScopeVersion, ...]) -> tuple[ScopeVersion, ...]:
        """The heads, without their supports."""
        return tuple(wanted for wanted in scopes if not is_sum(wanted.scope))

    def limited(self) -> Iterator[tuple[str, str, float]]:
        """See `Body`."""
        return self.settings.limited()


Candidate = tuple[ScopeVersion, ...]
"""Values that some of an order's scopes might have, `candidate/<name>/<scope>` each; the others are as published."""

ProbedRows = Literal["train", "validation"]


@dataclass(frozen=True)
class Probe(Body):
    """Compare candidates by their losses on the client's own rows; nothing is trained. The answer is a `Reply`."""

    activity = "comparing"
    candidates: tuple[Candidate, ...]
    """Gains are those over the first. One without scopes is the published model. None: there is nothing to compare."""
    rows: ProbedRows
    batch_size: int
    seed: int
    """Derived as in `Train`; decides what is drawn of rows that are drawn anew, such as hidden words."""

    def needed(self, scopes: tuple[ScopeVersion, ...]) -> tuple[ScopeVersion, ...]:
        """All candidates, and those of the scopes that one of them leaves as published."""
        if not self.candidates:
            return ()
        always = frozenset.intersection(*map(_bases, self.candidates))
        left = tuple(wanted for wanted in scopes if wanted.scope not in always)
        return left + tuple(dict.fromkeys(found for candidate in self.candidates for found in candidate))

    def limited(self) -> Iterator[tuple[str, str, float]]:
        """See `Body`."""
        yield "batch_size", "batch_size", self.batch_size


@dataclass(frozen=True)
class Evaluate(Body):
    """Score the received model, and the client's own where it has or makes one; the answer is a `Reply`."""

    activity = "scoring"
    settings: TrainingSettings
    seed: int
    """Derived as in `Train`."""
    problems: tuple[DualProblem, ...] = ()
    """To be measured, where a dual is solved."""
    sums: SumOrder | None = None
    """How the scores enter sums that alone can be read, as an `Update`; None: the answer is a `Reply`."""

    def needed(self, scopes: tuple[ScopeVersion, ...]) -> tuple[ScopeVersion, ...]:
        """See `Body`."""
        return scopes

    def limited(self) -> Iterator[tuple[str, str, float]]:
        """See `Body`."""
        return self.settings.limited()
