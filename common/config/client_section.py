"""The section `client`: where a client calls, what it keeps and computes on, and what may be asked of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.values import Address, Count, Location, Seconds, Section, Trains


class ClientTLSSection(Section):
    """PEM files of a client: the authority it trusts, and its own certificate if one is asked for."""

    ca: Location | None = None
    """PEM file of the authority that signed the coordinator's certificate"""
    certificate: Location | None = None
    """PEM file of this client's own certificate; together with key"""
    key: Location | None = None
    """PEM file"""


class LimitsSection(Section):
    """What a coordinator may ask of this client at most; more is refused before anything is done.

    `parameters` are those that the client holds, `tokenizer_mb` in 10^6 bytes, the last three are per order.
    """

    parameters: Annotated[int, Field(ge=1, le=2**53 - 1)] = 1_000_000_000
    """of the part of the model that this client holds"""
    tokens: Count = 8192
    """of a text: model.max_length"""
    tokenizer_mb: Annotated[float, Field(gt=0, le=1e6)] = 256.0
    """megabytes of tokenizer"""
    epochs: Count = 1000
    """of an order, of each kind: local, head, finetune"""
    batch_size: Count = 100_000
    """rows of a batch, in training and in scoring"""
    hours: Annotated[float, Field(gt=0, le=365 * 24)] = 720.0
    """until the deadline of an order"""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """what is published under noise of the coordinator may say so much of this client; null: also without noise"""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """chance that epsilon does not cover"""
    least_noise: Annotated[float, Field(ge=0)] = 0.0
    """noise multiplier of the coordinator, not less"""
    least_clients: Count = 1
    """in each sum that is published under noise, not fewer"""


class ClientSection(Section):
    """Which coordinator a client calls, where it keeps its state and what it computes on."""

    server: Address = "127.0.0.1:50051"
    """HOST:PORT of the coordinator; other than loopback needs tls.ca or insecure"""
    state_dir: Location = ".fedmtl"
    """folder of private parameters and of the update not yet committed"""
    trains: Trains = "all"
    """all | head | top_<n>: heads and the top n layers; the rest stays as received"""
    layers: Count | None = None
    """hold only the first n layers of the encoder; null: all"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto (cuda if there is one) | cpu | cuda"""
    threads: Count = 1
    """CPU threads; 1 is best when several clients share a machine"""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """of products: float32 (same bits on every run) | bfloat16 | auto (the faster)"""
    compact_vocabulary: bool = True
    """train the embeddings of this client's tokens only; same result, sooner"""
    work: Annotated[float, Field(ge=0, le=1)] = 1.0
    """procedure sdca: how much of its passes this client does, 0 to 1"""
    least_work: Annotated[float, Field(ge=0, le=1)] | None = None
    """drawn for each order from here to work; null: always work"""
    work_seconds: Seconds | None = None
    """of an order of that procedure at most; what is done then counts. null: no limit"""
    limits: LimitsSection = LimitsSection.model_construct()
    """what a coordinator may ask of this client at most; more is refused"""
    tls: ClientTLSSection = ClientTLSSection.model_construct()
    """what it trusts, and how it proves who it is"""
    insecure: bool = False
    """true: connect without encryption in a network that you trust"""
    connect_timeout_seconds: Seconds = 600.0
    """how long to try before giving up on the coordinator"""

    def work_range(self) -> tuple[float, float, float | None]:
        """From where to where the share of work is drawn, and the seconds that it may take."""
        return self.work if self.least_work is None else self.least_work, self.work, self.work_seconds

    @property
    def server_host(self) -> str:
        """The host part of `server`, without the brackets of an IPv6 address."""
        return self.server.rpartition(":")[0].strip("[]")
