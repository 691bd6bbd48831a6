"""What goes with masked sums and what does not: every contradiction at once, each with its remedy."""

from __future__ import annotations

from math import ceil

from common.bodies import DENSE_FLOAT32
from common.config.schema import Config
from common.config.secure_section import SecureAggregationSection
from common.errors import ConfigError
from common.parameters.scope import target_of
from common.secure.ring import fraction_bits
from common.secure.streams import require_package

MOST_CLIENTS = 10_000
"""A run never meets more in one sum."""
LEAST_BITS = 8
"""Behind the point, among as many clients as are known of: with fewer, rounding shows."""
_WITHOUT_MASKS = ("enabled", "min_clients", "masks", "largest_change", "largest_weight")


def problems(config: Config) -> list[str]:
    """What contradicts sums, or is not read without them."""
    section = config.secure_aggregation
    if not section.enabled:
        return _unread(section, ("enabled",), "is not read without it; write secure_aggregation.enabled: true")
    found = []
    if not section.masks:
        found += _unread(section, _WITHOUT_MASKS, "is not read without masks; write secure_aggregation.masks: true")
    elif not section.pinned and section.members is not None:
        found.append("secure_aggregation.members: is not read without pinned; write identities: pinned, or remove it")
    known = max(section.min_clients, config.federation.min_clients)
    found += _too_large(config, MOST_CLIENTS, 0) or _too_large(config, known, LEAST_BITS)
    contradictions = _of_section(config) | _not_with_sums(config)
    return found + [f"{line} (secure_aggregation)" for line, holds in contradictions.items() if holds]


def enough(config: Config) -> list[str]:
    """Whether a round asks as many clients as a sum needs; what a client's own file says of that is not read."""
    section, federation = config.secure_aggregation, config.federation
    needed = ceil(section.min_clients / federation.client_fraction)
    if not section.enabled or federation.min_clients >= needed:
        return []
    return [
        f"federation.min_clients: {federation.min_clients} may ask fewer than the {section.min_clients} clients that a "
        f"sum needs; write federation.min_clients: {needed} (secure_aggregation)"
    ]


def simulation(config: Config) -> list[str]:
    """What contradicts sums once it is known how many clients there are."""
    section, clients, found = config.secure_aggregation, config.simulation.client_count, list[str]()
    if section.pinned:
        found.append(
            "secure_aggregation.identities: pinned needs keys that clients had before, and simulated ones have none; "
            "write none"
        )
    if not section.enabled or config.data.source == "given":
        return found
    if clients < section.min_clients:
        found.append(
            f"secure_aggregation.min_clients: {section.min_clients}, but {clients} clients are simulated; write "
            f"{clients}, or simulate more"
        )
    return found + _too_large(config, clients, LEAST_BITS)


def package(config: Config) -> list[str]:
    """What a process lacks that masks, or opens masked sums."""
    try:
        if config.secure_aggregation.masked:
            require_package()
    except ConfigError as error:
        return [str(error)]
    return []


def _unread(section: SecureAggregationSection, read: tuple[str, ...], why: str) -> list[str]:
    return [
        f"secure_aggregation.{key}: {why}, or remove it"
        for key in type(section).model_fields
        if key not in read and getattr(section, key) != getattr(type(section)(), key)
    ]


def _too_large(config: Config, clients: int, least: int) -> list[str]:
    """Weights and changes of which so many clients' sum does not fit, or leaves too few bits behind the point."""
    section, heaviest, change = config.secure_aggregation, config.heaviest(), config.largest_change()
    if _fits(clients, heaviest, change, least):
        return []
    each = heaviest // section.largest_weight  # 0 where every client weighs 1
    most = int((2**31 - 1) / (clients * each * change * 2**least)) if each else 0
    while most > 0 and not _fits(clients, most * each, change, least):
        most -= 1
    what = f"{section.largest_weight} rows" + (f" times task weights up to {each}" if each > 1 else "")
    lacks = f"leave fewer than {least} of 32 bits behind the point" if least else "do not fit into 32 bits"
    return [
        f"secure_aggregation.{'largest_weight' if most else 'largest_change'}: {what}, with changes up to "
        f"{section.largest_change:g}, {lacks} among {clients} clients; write "
        + (f"{most} or less" if most else "a smaller one, or simpler tasks.*.weight")
    ]


def _fits(clients: int, weight: int, largest_change: float, least: int) -> bool:
    try:
        return fraction_bits(clients, weight, largest_change) >= least
    except ValueError:
        return False


def _of_section(config: Config) -> dict[str, bool]:
    """What its keys demand of each other."""
    section = config.secure_aggregation
    return {
        "secure_aggregation.min_clients: a sum of one client hides nothing; write 2 or more": (
            section.masks and section.min_clients < 2
        ),
        "secure_aggregation.members: missing, so that nobody's key is known; write the file with a line `client_id "
        "public key` per client, or identities: none": section.pinned and section.members is None,
    }


def _not_with_sums(config: Config) -> dict[str, bool]:
    """Where nothing but sums can be read, nothing goes by single clients."""
    aggregation, federation, training = config.aggregation, config.federation, config.training
    copies = any(target.is_member for rule in config.sharing_plan().rules if (target := target_of(rule.scope)))
    return {
        "privacy.sampling: poisson asks clients in secret, but members of a sum hear who else is in it; write all": (
            config.privacy.of_coordinator and config.privacy.sampling == "poisson"
        ),
        "privacy.clip_quantile: counts how many updates are within the clip, and nobody sees their lengths; write null "
        "and a clip": config.privacy.of_coordinator and config.privacy.clip_quantile is not None,
        "sharing.members: a copy of one client enters no sum; write tasks": (
            copies and config.sharing.members == "clients"
        ),
        "relation: compares losses of single clients; write another one": (
            config.relation is not None and config.relation.probes is not None
        ),
        "guard: compares scores of single clients; remove it": config.guard.enabled,
        "aggregation.robust: looks at single updates; remove it": aggregation.robust is not None,
        "aggregation.norm_bound: the coordinator measures no single update; remove it, and write a smaller "
        "secure_aggregation.largest_change": aggregation.norm_bound is not None,
        "aggregation.mean_over: a client would tell which parameters its tasks read; write all": (
            aggregation.among_readers
        ),
        "aggregation.max_examples: medians are of single clients' rows; write a number": (
            aggregation.most_medians is not None
        ),
        f"federation.update_encoding: {federation.update_encoding}, but sums have an encoding of their own; write "
        f"{DENSE_FLOAT32}": federation.update_encoding != DENSE_FLOAT32,
        "federation.task_choice: examples goes by single clients' rows; write rotate": (
            federation.task_choice == "examples"
        ),
        f"training.procedure: {training.procedure.name} hands in more than a change of the model; write plain, fedprox "
        "or fedrep": training.procedure.has_controls or training.procedure.is_dual,
        "data.statistics: federation takes sums of columns from single clients; write site": (
            config.data.statistics == "federation"
        ),
        "simulation.executor: ray keeps no keys from stage to stage; write thread": (
            config.simulation.executor == "ray"
        ),
    } | {
        f"tasks.{name}.class_weights: balanced ones are made of single clients' counts of labels; write numbers, or "
        "none": task.class_weights == "balanced"
        for name, task in config.tasks.items()
    }
