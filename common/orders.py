"""What the coordinator asks of a client, and what the two say to each other around it. Plain values, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from xxhash import xxh3_128_hexdigest

from common.bodies import Body, ScopeVersion
from common.capabilities import Capabilities
from common.inputs.header import Header
from common.standardising import InputScale, InputSums
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
    `targets` are of tasks that tell sums, `inputs` of all tasks where the federation's rows are standardised together.
    """

    client_id: str
    tasks: tuple[TaskDefinition, ...]
    examples: tuple[tuple[str, int], ...]
    capabilities: Capabilities = field(default_factory=Capabilities)
    headers: tuple[tuple[str, Header], ...] = ()
    validation: tuple[tuple[str, int], ...] = ()
    targets: tuple[tuple[str, TargetSums], ...] = ()
    inputs: tuple[tuple[str, InputSums], ...] = ()


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
    exact_heads: bool = False
    """Whether heads are float64, of linear models whose dual is solved."""


@dataclass(frozen=True)
class Description:
    """What a federation trains: what reads its rows, and its tasks."""

    architecture: ModelArchitecture
    tasks: tuple[TaskDefinition, ...]


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
class ScopeValues:
    """A small scope's float32 bytes, at the version that the order names."""

    scope: str
    data: bytes


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
    """Of heads and losses, by task."""
    inline: tuple[ScopeValues, ...] = ()
    """Values of small scopes, which need not be fetched."""
    scales: tuple[tuple[str, InputScale], ...] = ()
    """By which numbers in rows are standardised, by task."""

    @property
    def needed(self) -> tuple[ScopeVersion, ...]:
        """All that must be received."""
        return self.body.needed(self.scopes)


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
class DualSums:
    """Sums over a client's training rows of a task, each times its weight: what a certificate is made of."""

    loss: float
    """Of the received model."""
    value: float
    """Minus the conjugate losses of the dual variables, as they are after the order."""
    lengths: float
    """Of the rows."""
    squares: float
    """Of these lengths."""
    visits: int = 0
    """Of coordinates."""
    theta: float = 1.0
    """How much of the local problem is left, at most: 0 where it is solved, 1 where nothing was done."""


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
    dual: DualSums | None = None
    """Where the order has a problem of this task."""


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
    def head(self) -> UpdateHeader:
        """All but the payload."""
        return self.header

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
class ReplyContent:
    """What answers a body beside results; each such body has a subclass of its own."""


@dataclass(frozen=True)
class Reply:
    """A small answer: results, as of `Evaluate`, or what else a body asks for, and no payload."""

    order_id: str
    results: tuple[TaskResult, ...]
    seconds: float
    content: ReplyContent | None = None

    scopes: ClassVar[tuple[ScopePayload, ...]] = ()
    payload: ClassVar[bytes] = b""

    @property
    def head(self) -> Reply:
        """All of it."""
        return self

    @property
    def nbytes(self) -> int:
        """There is no payload."""
        return 0

    @property
    def digest(self) -> str:
        """Of results and content: the same answer again has the same digest."""
        return xxh3_128_hexdigest(repr((self.results, self.content)).encode())


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
class ClientStatus:
    """One client as the coordinator sees it."""

    client_id: str
    tasks: tuple[str, ...]
    present: bool
    activity: str


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
    clients: tuple[ClientStatus, ...] = field(default=())
    client_count: int = 0
    more: bool = False
