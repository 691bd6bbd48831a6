"""What the coordinator asks of a client, and what the two say to each other around it. Plain values, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from common.balance import PLAIN as PLAIN_BALANCE
from common.balance import LocalBalance
from common.capabilities import Capabilities
from common.parameters.scope import Scope
from common.procedures import PLAIN, LocalProcedure, OptimizerName
from common.statistics import TaskStatistics
from common.targets import TargetSums, TargetUnits
from common.tasks import Header, TaskDefinition


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
    capabilities: Capabilities = Capabilities()
    headers: tuple[tuple[str, Header], ...] = ()
    validation: tuple[tuple[str, int], ...] = ()
    targets: tuple[tuple[str, TargetSums], ...] = ()


@dataclass(frozen=True)
class ModelArchitecture:
    """Everything a client needs to build the model, except its values.

    `encoder_config` is the Hugging Face configuration as JSON; `encoding` is how pairs are read (`cross` or
    `siamese`); `max_length` is in tokens.
    """

    encoder_config: str
    encoding: str
    max_length: int
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


class OrderKind(StrEnum):
    """Train and return deltas, or only score the received model."""

    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True)
class TrainingSettings:
    """How to train locally; travels with the order, so that all clients do the same. `momentum` is that of sgd.

    `frozen` is what of the encoder stands still: nothing (empty), `all`, or embeddings and the lowest `<n>` layers.
    """

    local_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    eval_batch_size: int
    procedure: LocalProcedure = PLAIN
    balance: LocalBalance = PLAIN_BALANCE
    optimizer: OptimizerName = OptimizerName.ADAMW
    momentum: float = 0.0
    frozen: str = ""


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
class ScopePull:
    """A scope that is pulled with strength `mu` to its anchor: (mu/2) ||theta - anchor||^2 joins the loss.

    The anchor is a scope called `anchor/<scope>`, of the same layout, at a version of its own.
    """

    scope: str
    mu: float
    version: int

    @property
    def anchor(self) -> ScopeVersion:
        """What to fetch."""
        return ScopeVersion(Scope.parse(self.scope).anchor, self.version)


DENSE_FLOAT32 = "dense-float32"
ROWS_FLOAT32 = "rows-float32"
DENSE_BFLOAT16 = "dense-bfloat16"
ROWS_BFLOAT16 = "rows-bfloat16"


@dataclass(frozen=True)
class Order:
    """A unit of work. `version` is the published model it starts from; `seconds_left` counts down to its deadline.

    `encoding` is the codec that the update shall have; `values` are small scopes that need not be fetched. `tasks` are
    those that it is about, none for all that the client has. `pulls` come from a relation between members. Tasks in
    `apart` are scored and trained in the client's isolated model alone; nothing of them enters what it hands in.
    `units` are those of regression heads.
    """

    order_id: str
    kind: OrderKind
    round: int
    version: int
    scopes: tuple[ScopeVersion, ...]
    seed: int
    training: TrainingSettings
    seconds_left: float
    encoding: str = DENSE_FLOAT32
    values: tuple[ScopeValues, ...] = ()
    tasks: tuple[str, ...] = ()
    pulls: tuple[ScopePull, ...] = ()
    apart: tuple[str, ...] = ()
    units: tuple[tuple[str, TargetUnits], ...] = ()

    @property
    def needed(self) -> tuple[ScopeVersion, ...]:
        """All that must be received: the scopes, and the anchors of those that are pulled."""
        return self.scopes + tuple(pull.anchor for pull in self.pulls)


class Settlement(StrEnum):
    """What became of a client's last update: durable, still open (submit it again if asked), or void (roll back)."""

    NONE = "none"
    SETTLED = "settled"
    OPEN = "open"
    VOID = "void"


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
    settlement: Settlement
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
class WholeUpdate:
    """A small update, header and payload."""

    header: UpdateHeader
    payload: bytes


@dataclass(frozen=True)
class Receipt:
    """The update is folded in memory; it is settled only when its round is durable."""

    order_id: str
    digest: str


@dataclass(frozen=True)
class UploadStatus:
    """Where an update stands: bytes that arrived of an interrupted upload, or its settlement."""

    settlement: Settlement
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
