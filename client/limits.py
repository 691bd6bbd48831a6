"""What this client lets a coordinator ask of it at most; more is refused before anything is done."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import ConfigError, WireError
from common.models.packed_tokenizer import tokenizer_digest
from common.orders import ModelArchitecture, Order, Session, Welcome
from common.ports import CoordinatorPort


@dataclass(frozen=True)
class Limits:
    """The section `client.limits` of a configuration.

    `parameters` are those of the model that the client holds, `tokens` the longest text, `tokenizer_mb` in 10^6 bytes,
    `epochs` those of one order, `batch_size` its rows per batch, `hours` the time until its deadline.
    """

    parameters: int = 1_000_000_000
    tokens: int = 8192
    tokenizer_mb: float = 256.0
    epochs: int = 1000
    batch_size: int = 100_000
    hours: float = 720.0

    def check_welcome(self, welcome: Welcome) -> None:
        """Check what a coordinator describes.

        Raises:
            ConfigError: it is more than this client allows.
        """
        architecture = welcome.architecture
        self._check("tokens", "the model", "max_length", architecture.max_length)
        self._check("tokenizer_mb", "the model", "megabytes of tokenizer", architecture.tokenizer_bytes / 1e6)

    def check_parameters(self, count: int) -> None:
        """Check the size of the model, before memory is taken for it.

        Raises:
            ConfigError: it is more than this client allows.
        """
        self._check("parameters", "the model", "parameters", count)

    def check_candidates(self, count: int) -> None:
        """Check the size of the model and of all candidates of an order, which are held together.

        Raises:
            ConfigError: it is more than this client allows.
        """
        self._check("parameters", "the model, with what an order asks to compare,", "parameters", count)

    def check_order(self, order: Order) -> None:
        """Check what an order asks for.

        Raises:
            ConfigError: it is more than this client allows.
        """
        what = f"order {order.order_id}"
        self._check("hours", what, "hours until its deadline", order.seconds_left / 3600)
        for limit, field, value in order.body.limited():
            self._check(limit, what, field, value)

    def _check(self, limit: str, what: str, field: str, value: float) -> None:
        most: float = getattr(self, limit)
        if value > most:
            raise ConfigError(
                f"client.limits.{limit}: {what} of the coordinator has {value:g} {field}, and this client allows "
                f"{most:g}; raise the limit if that is meant"
            )


async def fetch_tokenizer(port: CoordinatorPort, session: Session, architecture: ModelArchitecture) -> bytes:
    """The packed tokenizer that the coordinator described.

    Raises:
        WireError: it is another one.
    """
    size, arrived = architecture.tokenizer_bytes, bytearray()
    async for chunk in port.fetch_tokenizer(session, 0):
        if len(arrived) + len(chunk) > size:
            raise WireError(f"tokenizer: more than the {size} bytes that the coordinator announced")
        arrived += chunk
    data = bytes(arrived)
    if len(data) != size or tokenizer_digest(data) != architecture.tokenizer_digest:
        raise WireError(
            f"tokenizer: the {len(data)} bytes that arrived are not the {size} with digest "
            f"{architecture.tokenizer_digest[:12]} that the coordinator announced"
        )
    return data
