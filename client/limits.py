"""What this client lets a coordinator ask of it at most; more is refused before anything is done."""

from __future__ import annotations

from dataclasses import dataclass

from common.bodies import Body, Evaluate, RowNoise, Train
from common.errors import ConfigError, WireError
from common.models.packed_tokenizer import tokenizer_digest
from common.orders import ModelArchitecture, Order, Session, Welcome
from common.ports import CoordinatorPort
from common.secure.terms import SumTerms
from common.stages import Keys, Stage


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
    epsilon: float | None = None
    """What the coordinator publishes may say so much of this client at most; None: also without noise."""
    delta: float = 1e-3
    """With a chance of at most so much that it says more."""
    least_noise: float = 0.0
    """Noise multiplier of each release."""
    least_clients: int = 1
    """In each sum that is published under noise."""
    row_noise: RowNoise | None = None
    """How well orders must hide this client's single rows at least: its own section `privacy`; None: not at all."""
    keeps_scores: bool = False
    """Whether losses and scores stay here, whatever orders say."""
    sums: SumTerms | None = None
    """How sums must hide this client's answers at least: its own section `secure_aggregation`; None: not at all."""

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
        if self.sums is not None and (problem := _unlike(self.sums, order.body)) is not None:
            raise ConfigError(
                f"secure_aggregation: {what} of the coordinator {problem}, and this client hands in sums alone; use "
                "one section secure_aggregation on both sides"
            )
        self._check("hours", what, "hours until its deadline", order.seconds_left / 3600)
        for limit, field, value in order.body.limited():
            self._check(limit, what, field, value)
        if self.row_noise is not None and (problem := self._shows(order)) is not None:
            raise ConfigError(
                f"privacy.noise: {what} of the coordinator {problem}, and this client hides its single rows; use one "
                "section privacy on both sides"
            )
        if isinstance(order.body, Train):
            self._check_noise(what, order.body)

    def _shows(self, order: Order) -> str | None:
        """What an order would show of single rows, or None."""
        body, wanted = order.body, self.row_noise
        assert wanted is not None
        if isinstance(body, Stage):  # it is about masks, and nothing of a row is in its answer
            return None
        if not isinstance(body, Train | Evaluate):
            return f"asks for {body.activity} without noise"
        found = body.settings.row_noise
        if not body.settings.keeps_scores:
            if self.keeps_scores:
                return "asks for scores" if found is not None and found.scores_noise else "asks for exact scores"
            if (wanted.scores_noise or 0.0) > ((found.scores_noise or 0.0) if found is not None else 0.0):
                return f"asks for scores with less noise than {wanted.scores_noise:g} rows"
        if found is None:
            return "asks for training without noise" if isinstance(body, Train) else None
        if found.delta > wanted.delta:
            return f"has a delta of {found.delta:g}, above {wanted.delta:g}"
        if wanted.epsilon is not None and (found.epsilon is None or found.epsilon > wanted.epsilon):
            return f"does not end at an epsilon of {wanted.epsilon:g}"
        least = wanted.noise_multiplier
        if least is not None and (found.noise_multiplier or 0.0) < least:
            return f"has less noise than {least:g} times the clip"
        return None

    def _check_noise(self, what: str, body: Train) -> None:
        promise = body.noise
        if self.epsilon is None and not self.least_noise and self.least_clients == 1:
            return
        is_clipped = body.sums is None or body.sums.clip is not None
        if promise is None or not is_clipped:
            limit = "epsilon" if self.epsilon is not None else "least_noise" if self.least_noise else "least_clients"
            lacks, remedy = "noise" if promise is None else "a clip", "remove the limit if that is meant"
            raise ConfigError(f"client.limits.{limit}: {what} of the coordinator comes without {lacks}; {remedy}")
        if self.epsilon is not None:
            self._check("epsilon", what, "epsilon", promise.epsilon)
            self._check("delta", what, "delta", promise.delta)
        for limit, value in (("least_noise", promise.noise_multiplier), ("least_clients", promise.clients)):
            least: float = getattr(self, limit)
            if value < least:
                field = "noise multiplier" if limit == "least_noise" else "clients in a sum"
                raise ConfigError(
                    f"client.limits.{limit}: {what} of the coordinator has {value:g} {field}, and this client asks for "
                    f"{least:g}; lower it if that is meant"
                )

    def _check(self, limit: str, what: str, field: str, value: float) -> None:
        most: float = getattr(self, limit)
        if value > most:
            raise ConfigError(
                f"client.limits.{limit}: {what} of the coordinator has {value:g} {field}, and this client allows "
                f"{most:g}; raise the limit if that is meant"
            )


def _unlike(wanted: SumTerms, body: Body) -> str | None:
    """How an order falls short of these terms, or None."""
    if isinstance(body, Keys):
        found = body.terms
    elif isinstance(body, Stage):
        return None  # of a session whose terms were checked with its keys
    elif isinstance(body, Train | Evaluate) and body.sums is not None:
        found = body.sums.terms
    else:
        return f"asks for {body.activity} outside of sums"
    if wanted.masks and not found.masks:
        return "asks for sums without masks"
    if found.min_clients < wanted.min_clients:
        return f"has min_clients: {found.min_clients}, below {wanted.min_clients}"
    for field in ("largest_change", "largest_weight", "corrupt", "dropouts", "pinned"):
        theirs, own = getattr(found, field), getattr(wanted, field)
        if theirs != own:
            return f"has {field}: {str(theirs).lower()}, not {str(own).lower()}"
    return None


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
