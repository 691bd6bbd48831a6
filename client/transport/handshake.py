"""Why a coordinator's certificate was refused. gRPC only says that it was, so it is asked for once more and read."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime

from client.transport.target import Target
from common.certificates import certificates_in, lapse
from common.tls import TlsFiles, read_tls

LOOK_SECONDS = 3.0


async def certificate_lapse(target: Target, tls: TlsFiles) -> tuple[str, str] | None:
    """What is wrong with the dates of a certificate, and what to check; None where nothing is, or nobody answers."""
    now = datetime.now(UTC)
    authority = read_tls(tls).authority
    lapses = [lapse(der, now) for der in certificates_in(authority or b"")]
    if lapses and all(lapses):
        return f"the given CA certificate {lapses[0]}", "the CA file and the clock of this machine"
    # Past a proxy nobody may be asked: what the dates are is then not known here.
    shown = None if target.proxy else await asyncio.to_thread(_shown_certificate, target.host, target.number, tls)
    found = lapse(shown, now) if shown else None
    return (f"its certificate {found}", "the certificate and the clocks of both machines") if found else None


def _shown_certificate(host: str, number: int, tls: TlsFiles) -> bytes | None:
    """The certificate that a server shows, in DER, whether it is to be trusted or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent or believed here
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    try:
        with (
            socket.create_connection((host, number), LOOK_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            return connection.getpeercert(binary_form=True)
    except OSError:  # ssl.SSLError is one
        return None
