"""Scopes at versions in messages, and those of them that are candidates."""

from __future__ import annotations

from collections.abc import Sequence

from common.bodies import ScopeVersion
from common.errors import WireError
from common.parameters.scope import Scope, is_candidate
from common.wire import checks, limits
from common.wire.gen import federation_pb2 as pb


def pack_scope(value: ScopeVersion) -> pb.ScopeVersion:
    """Value to message."""
    return pb.ScopeVersion(scope=value.scope, version=value.version)


def unpack_scope(message: pb.ScopeVersion) -> ScopeVersion:
    """Message to value."""
    return ScopeVersion(checks.scope_name(message.scope), checks.count(message.version, "version"))


def unpack_candidate(messages: Sequence[pb.ScopeVersion], field: str) -> tuple[ScopeVersion, ...]:
    """Candidates, one for a scope at most."""
    found = tuple(map(unpack_scope, checks.items(messages, field, limits.MAX_SCOPES)))
    for wanted in found:
        if not is_candidate(wanted.scope):
            raise WireError(f"{field}: {wanted.scope[:80]!r} is no candidate")
    checks.distinct((Scope.parse(wanted.scope).base for wanted in found), field)
    return found
