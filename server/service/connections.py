"""How many connections a server takes, so that its journal and its models can always be opened."""

from __future__ import annotations

import resource
import socket

from common.errors import ConfigError

RESERVED_FILES = 96
"""Open files of the coordinator itself: journal, models, log, threads, libraries. It was seen to use 40."""
MOST_FILES = 1 << 16
"""Where the system sets no limit worth the name."""
MOST_CONNECTIONS = 4096
"""Each takes memory, too."""
HANDSHAKE_SECONDS = 20.0
"""A connection that has not said hello by then is closed; over a bad link that takes a few seconds."""
IDLE_SECONDS = 300.0
"""A connection without a call for so long is closed; clients open another one without noticing."""


def raise_file_limit() -> int:
    """Let this process open as many files as the system allows it, and give that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def connection_limit(asked: int | None, files: int) -> int:
    """How many connections fit beside what the coordinator itself opens; `asked` is the configured number.

    Raises:
        ConfigError: more are asked for than `files` open files leave room for.
    """
    room = files - RESERVED_FILES
    if room < 1 or (asked or 0) > room:
        needed = RESERVED_FILES + (asked or RESERVED_FILES)
        raise ConfigError(
            f"server.max_connections: {asked or 'null'} does not fit the limit of {files} open files; "
            f"raise that to {needed} or more (ulimit -n)" + (f", or ask for at most {room}" if room > 0 else "")
        )
    return asked or min(room, MOST_CONNECTIONS)


def connection_options(host: str, most: int) -> tuple[tuple[str, int], ...]:
    """Options of a server on `host`. gRPC counts for each address: a name with several shares them out."""
    try:
        addresses = len({address for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError:  # the server itself will say so
        addresses = 1
    return (
        ("grpc.max_allowed_incoming_connections", max(most // addresses, 1)),
        ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_SECONDS * 1000)),
        ("grpc.max_connection_idle_ms", round(IDLE_SECONDS * 1000)),
    )
