"""A configuration for people: as a file again, and with advice."""

from __future__ import annotations

from common.config.schema import Config
from common.config.values import is_loopback
from common.config.yaml_text import dump
from common.methods.local_optimizers import SGDOptimizer

_SMALL_SGD_RATE = 1e-3
_LARGE_ADAPTIVE_RATE = 0.1


def render(config: Config) -> str:
    """Every value in effect, as YAML that loads back to an equal configuration."""
    sections = config.model_dump(mode="json")
    sections["tasks"] = {
        name: section.model_dump(mode="json", exclude_none=True) for name, section in config.tasks.items()
    }
    return dump(sections)


def protection(config: Config) -> str:
    """What protects connections to the coordinator, in a few words."""
    tls = config.server.tls
    if tls.client_ca:
        return "mutual TLS; a client is whom its certificate names"
    return f"{'TLS' if tls.certificate else 'plain text'}; a client is whom it says"


def notes(config: Config) -> list[str]:
    """Advice on values that are valid but may not be meant, one `path: advice` line each."""
    checks = (_learning_rate, _local_epochs, _lease, _plain_text, _roster, _server_rate)
    return config.model.inputs.notes(config) + [note for check in checks if (note := check(config))]


def _roster(config: Config) -> str | None:
    if config.server.clients is None or config.server.tls.client_ca:
        return None
    return "server.clients: without server.tls.client_ca a client is whom it says, so that the list keeps nobody out"


def _learning_rate(config: Config) -> str | None:
    rate = config.training.learning_rate
    if not isinstance(config.training.optimizer, SGDOptimizer) or rate >= _SMALL_SGD_RATE:
        return None
    advice = f"{rate:g} is small for sgd, whose steps are as small as the gradients; start near 0.1"
    return f"training.learning_rate: {advice}"


def _local_epochs(config: Config) -> str | None:
    if config.training.local_epochs:
        return None
    return "training.local_epochs: 0 trains nothing; clients only score the model and return zero deltas"


def _lease(config: Config) -> str | None:
    federation = config.federation
    if federation.lease_seconds < federation.round_timeout_seconds:
        return None
    return (
        f"federation.lease_seconds: {federation.lease_seconds:g} is not below round_timeout_seconds"
        f" {federation.round_timeout_seconds:g}; a lost client is only noticed when its round has ended"
    )


def _server_rate(config: Config) -> str | None:
    rate = config.federation.server_learning_rate
    optimizer = config.aggregation.optimizer
    if not optimizer.is_adaptive or rate < _LARGE_ADAPTIVE_RATE:
        return None
    advice = f"{rate:g} is large for {optimizer.name}, whose steps do not shrink with the updates"
    return f"federation.server_learning_rate: {advice}; start near aggregation.optimizer.tau"


def _plain_text(config: Config) -> str | None:
    if not config.server.insecure or is_loopback(config.server.host):
        return None
    return f"server.insecure: everyone on the way to '{config.server.host}' can read and change the models"
