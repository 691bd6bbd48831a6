"""Where the coordinator is, and whether the way there leads through a proxy."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from common.config.values import is_loopback

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
"""What gRPC reads, in its order; upper case does not count."""


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, `HOST:PORT`, and the environment variable that asks for it."""

    address: str
    variable: str


@dataclass(frozen=True)
class Target:
    """A coordinator's host and port; `str` is how messages call it."""

    host: str
    number: int
    proxy: Proxy | None = None

    @classmethod
    def of(cls, host: str, number: int, environment: Mapping[str, str]) -> Target:
        """The target with the proxy that the environment asks for; loopback is always direct."""
        return cls(host, number, None if is_loopback(host) else _proxy_for(host, environment))

    @property
    def address(self) -> str:
        """`host:port`, as people and gRPC write it."""
        return f"[{self.host}]:{self.number}" if ":" in self.host else f"{self.host}:{self.number}"

    def __str__(self) -> str:
        if self.proxy is None:
            return self.address
        return f"{self.address}, through the proxy {self.proxy.address} ({self.proxy.variable}),"

    def to_check(self, what: str) -> str:
        """What to check when the target cannot be reached, besides `what`."""
        if self.proxy is None:
            return what
        return f"the proxy (unset {self.proxy.variable} or add {self.host} to no_proxy to go without it), and {what}"


def _proxy_for(host: str, environment: Mapping[str, str]) -> Proxy | None:
    variable = next((name for name in _VARIABLES if environment.get(name)), None)
    if variable is None:
        return None
    exceptions = next((environment[name] for name in _EXCEPTIONS if environment.get(name)), "")
    if any(_covers(entry.strip(), host) for entry in exceptions.split(",")):
        return None
    try:
        url = urlsplit(environment[variable])
        if url.scheme != "http" or not url.hostname:  # gRPC knows no others, and goes without
            return None
        return Proxy(f"{url.hostname}:{url.port or 80}", variable)
    except ValueError:
        return None


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of no_proxy speaks of a host: `*`, a domain, an address or a network."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name, domain = host.lower().rstrip("."), entry.lower().lstrip("*").strip(".")
        return entry == "*" or (bool(domain) and (name == domain or name.endswith(f".{domain}")))
