"""What the coordinator asks of a client, and what the two say to each other around it. Plain values, no tensors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import assert_never

from xxhash import xxh3_128_hexdigest

from common.capabilities import Capabilities
from common.inputs.header import Header
from common.methods.balance import PlainBalance
from common.methods.balances import LocalBalance
from common.methods.local_optimizers import AdamWOptimizer, LocalOptimizer
from common.methods.own_models import NoOwnModel, OwnModelRow
from common.methods.procedures import LocalProcedure, PlainProcedure, ProximalStep
from common.parameters.scope import Scope
from common.statistics import TaskStatistics
from common.targets import TargetSums, TargetUnits
from common.tasks import TaskDefinition


@dataclass(frozen=True)
class Session:
    """Who speaks. `token` is new with every `Join`, so that of two processes with one client id the later one wins."""

    run_id: str
    client_id: str
    token: str


@dataclass(frozen=True)
class JoinRequest:
    """A client introduces itself with the tasks it holds, as it understands them, and its training rows per task.

    `headers` say what the numbers of its rows are, for tasks over numbers; `validation` counts rows to score on;
    `targets` are of regressions alone.
    """

    client_id: str
    tasks: tuple[TaskDefinition, ...]
    examples: tuple[tuple[str, int], ...]
    capabilities: Capabilities = field(default_factory=Capabilities)
    headers: tuple[tuple[str, Header], ...] = ()
    validation: tuple[tuple[str, int], ...] = ()
    targets: tuple[tuple[str, TargetSums], ...] = ()


@dataclass(frozen=True)
class ModelArchitecture:
    """Everything a client needs to build the model, except its values."""

    encoder_config: str
    """The encoder's description, JSON; of a text encoder, its Hugging Face configuration."""
    pair_mode: str
    """How pairs are read: `cross`, as one sequence, or `siamese`, each text by itself."""
    max_length: int
    """In tokens."""
    tokenizer_digest: str
    tokenizer_bytes: int


@dataclass(frozen=True)
class Welcome:
    """The coordinator's answer to `Join`: what the federation is. `rules` are (match, scope) in order."""

    session: Session
    run_name: str
    architecture: ModelArchitecture
    tasks: tuple[TaskDefinition, ...]
    rules: tuple[tuple[str, str], ...]
    schema_digests: tuple[tuple[str, str], ...]
    poll_seconds: float
    heartbeat_seconds: float


@dataclass(frozen=True)
class TrainingSettings:
    """How to train locally; travels with the order, so that all clients do the same."""

    local_epochs: int
    batch_size: int
    learning_rate: float
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


@dataclass(frozen=True)
class ScopeVersion:
    """One scope at one version."""

    scope: str
    version: int


@dataclass(frozen=True)
class ScopeValues:
    """A small scope's float32 bytes, at the version that the order names."""

    scope: str
    data: bytes


@dataclass(frozen=True)
class ProximalTerm:
    """Adds (mu/2) ||theta - anchor||^2 to the loss of a scope.

    The anchor is a scope called `anchor/<scope>`, of the same layout, at a version of its own.
    """

    scope: str
    mu: float
    version: int

    @property
    def anchor(self) -> ScopeVersion:
        """What to fetch."""
        return ScopeVersion(Scope.parse(self.scope).anchor, self.version)


@dataclass(frozen=True)
class ControlShare:
    """The mean of clients' control variates of a scope is the scope `control/<scope>` divided by `clients`."""

    scope: str
    clients: int


DENSE_FLOAT32 = "dense-float32"
ROWS_FLOAT32 = "rows-float32"
DENSE_BFLOAT16 = "dense-bfloat16"
ROWS_BFLOAT16 = "rows-bfloat16"


@dataclass(frozen=True)
class Train:
    """Train the received scopes and hand in how they changed, as an `Update`."""

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


@dataclass(frozen=True)
class Evaluate:
    """Score the received model, and the client's own where it has or makes one; the answer is a `Reply`."""

    settings: TrainingSettings
    seed: int
    """Derived as in `Train`."""


Body = Train | Evaluate
"""What an order asks for."""


@dataclass(frozen=True)
class Order:
    """A unit of work: the envelope, and what to do in `body`."""

    order_id: str
    round: int
    version: int
    """The published model that the order starts from."""
    scopes: tuple[ScopeVersion, ...]
    seconds_left: float
    """Until the deadline."""
    body: Body
    tasks: tuple[str, ...] = ()
    """What the order is about; none for all tasks that the client has."""
    units: tuple[tuple[str, TargetUnits], ...] = ()
    """Of regression heads, by task."""
    inline: tuple[ScopeValues, ...] = ()
    """Values of small scopes, which need not be fetched."""

    @property
    def needed(self) -> tuple[ScopeVersion, ...]:
        """All that must be received: the scopes, and the anchors of proximal terms."""
        match self.body:
            case Train(proximal_terms=terms):
                return self.scopes + tuple(term.anchor for term in terms)
            case Evaluate():
                return self.scopes
            case _:
                assert_never(self.body)


class UpdateState(StrEnum):
    """What became of a client's last update: durable, open (submit it again if asked), or discarded (roll back)."""

    NONE = "none"
    COMMITTED = "committed"
    OPEN = "open"
    DISCARDED = "discarded"


class PollKind(StrEnum):
    """What a poll may answer."""

    ORDER = "order"
    WAIT = "wait"
    FINISHED = "finished"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(frozen=True)
class PollReply:
    """The answer to a poll. `waiting_for` is shown to the person at the client; `order` is set for kind ORDER."""

    kind: PollKind
    update_state: UpdateState
    waiting_for: str = ""
    order: Order | None = None


@dataclass(frozen=True)
class ScopePayload:
    """One scope's part of an update's payload: the delta's layout, the version it starts from and its size."""

    scope: str
    base_version: int
    schema_digest: str
    nbytes: int


@dataclass(frozen=True)
class TaskResult:
    """One task's share of an update.

    `examples` is the integer weight (rows that the update was trained on); `validation` scores the *received* model
    before training; `train_loss` is the mean loss during local training and None where nothing was trained; `personal`
    scores the client's own model on the same rows, where it has one.
    """

    task: str
    examples: int
    train_loss: float | None
    validation: TaskStatistics | None
    personal: TaskStatistics | None = None


@dataclass(frozen=True)
class UpdateHeader:
    """Says everything about an update before its first byte arrives.

    `digest` is xxh3-128 over the whole payload; `offset` is where this upload continues an interrupted one.
    """

    order_id: str
    codec: str
    scopes: tuple[ScopePayload, ...]
    digest: str
    results: tuple[TaskResult, ...]
    seconds: float
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the whole payload."""
        return sum(scope.nbytes for scope in self.scopes)


@dataclass(frozen=True)
class Update:
    """The answer to `Train`: a header and the payload that it describes."""

    header: UpdateHeader
    payload: bytes | memoryview

    @property
    def order_id(self) -> str:
        """What it answers."""
        return self.header.order_id

    @property
    def seconds(self) -> float:
        """Spent on the order."""
        return self.header.seconds

    @property
    def nbytes(self) -> int:
        """Bytes of the whole payload."""
        return self.header.nbytes

    @property
    def whole(self) -> bool:
        """Whether the payload is here, so that it can be handed in."""
        return len(self.payload) == self.header.nbytes


@dataclass(frozen=True)
class Reply:
    """The small answer to `Evaluate`: results without a payload."""

    order_id: str
    results: tuple[TaskResult, ...]
    seconds: float

    @property
    def nbytes(self) -> int:
        """There is no payload."""
        return 0

    @property
    def digest(self) -> str:
        """Of the results: the same answer again has the same digest."""
        return xxh3_128_hexdigest(json.dumps([asdict(result) for result in self.results]).encode())


Answer = Update | Reply
"""What a client makes of an order."""


@dataclass(frozen=True)
class Receipt:
    """The answer is taken in memory; it is committed only when its round is durable."""

    order_id: str
    digest: str


@dataclass(frozen=True)
class UploadStatus:
    """Where an update stands: bytes that arrived of an interrupted upload, or its update_state."""

    update_state: UpdateState
    received: int


@dataclass(frozen=True)
class Progress:
    """What a client is doing, for heartbeats."""

    order_id: str
    phase: str
    fraction: float


@dataclass(frozen=True)
class MemberStatus:
    """One client as the coordinator sees it."""

    client_id: str
    tasks: tuple[str, ...]
    present: bool
    doing: str


@dataclass(frozen=True)
class FederationStatus:
    """The answer to an operator's question: who is there, which round, what it waits for.

    `members` are a page of all `member_count` by client id; `more` says that others follow.
    """

    run_name: str
    run_id: str
    phase: str
    round: int
    num_rounds: int
    waiting_for: str
    members: tuple[MemberStatus, ...] = field(default=())
    member_count: int = 0
    more: bool = False
