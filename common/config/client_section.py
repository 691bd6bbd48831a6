"""The section `client`: where a client calls, what it keeps and computes on, and what may be asked of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.values import Address, Count, Location, Seconds, Section, Trains


class ClientTLSSection(Section):
    """PEM files of a client: the authority it trusts, and its own certificate if one is asked for."""

    ca: Location | None = None
    certificate: Location | None = None
    key: Location | None = None


class LimitsSection(Section):
    """What a coordinator may ask of this client at most; more is refused before anything is done.

    `parameters` are those that the client holds, `tokenizer_mb` in 10^6 bytes, the last three are per order.
    """

    parameters: Annotated[int, Field(ge=1, le=2**53 - 1)] = 1_000_000_000
    tokens: Count = 8192
    tokenizer_mb: Annotated[float, Field(gt=0, le=1e6)] = 256.0
    epochs: Count = 1000
    batch_size: Count = 100_000
    hours: Annotated[float, Field(gt=0, le=365 * 24)] = 720.0


class ClientSection(Section):
    """Which coordinator a client calls, where it keeps its state and what it computes on."""

    server: Address = "127.0.0.1:50051"
    state_dir: Location = ".fedmtl"
    trains: Trains = "all"
    layers: Count | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 1
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    compact_vocabulary: bool = True
    limits: LimitsSection = LimitsSection.model_construct()
    tls: ClientTLSSection = ClientTLSSection.model_construct()
    insecure: bool = False
    connect_timeout_seconds: Seconds = 600.0

    @property
    def server_host(self) -> str:
        """The host part of `server`, without the brackets of an IPv6 address."""
        return self.server.rpartition(":")[0].strip("[]")
