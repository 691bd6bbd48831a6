"""An authority that signs certificates, and requests for them. ECDSA on P-256: every TLS library takes it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from common.certificates import CLIENT_URI
from common.errors import ConfigError, foreign_errors

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

AUTHORITY_VALID = timedelta(days=5 * 365)
VALID = timedelta(days=90)
_NAME_CHARS = 64
"""Of a common name, at most. Source: RFC 5280, appendix A.1."""
_EARLIER = timedelta(minutes=5)
"""Clocks differ."""


@dataclass(frozen=True)
class Pair:
    """A private key and a certificate of it, both PEM."""

    key: bytes
    certificate: bytes


@dataclass(frozen=True)
class SigningRequest:
    """What a site asks a certificate for: its client id, and its public key, which it has proved to have."""

    client_id: str
    public_key: EllipticCurvePublicKey

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key, by which two people compare it."""
        from cryptography.hazmat.primitives.hashes import SHA256, Hash
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        content = Hash(SHA256())
        content.update(self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        return content.finalize().hex()


def require_package() -> None:
    """Check that the package is there which keys are made with.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import cryptography.x509  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("keys need the package 'cryptography'; run pip install 'fedmtl[secure]'") from None


@dataclass(frozen=True)
class Authority:
    """Who vouches for the coordinator and for the clients of one federation."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str, now: datetime) -> Authority:
        """A new one."""
        from cryptography import x509

        key = _new_key()
        usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        own = _name(name[:_NAME_CHARS])
        builder = _builder(own, own, key.public_key(), now, AUTHORITY_VALID, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(_signed(builder.add_extension(x509.KeyUsage(**usage), critical=True), key), key)

    @classmethod
    def read(cls, pair: Pair) -> Authority:
        """An authority that was written.

        Raises:
            ConfigError: the bytes are no certificate and its key.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        wrong = ConfigError("--out: ca.pem and ca.key are not an authority's certificate and key; name another folder")
        with foreign_errors(lambda _: wrong):
            certificate, key = x509.load_pem_x509_certificate(pair.certificate), load_pem_private_key(pair.key, None)
        if not isinstance(key, EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise wrong
        return cls(certificate, key)

    @property
    def pair(self) -> Pair:
        """What is written."""
        return Pair(_key_pem(self.key), _pem(self.certificate))

    def coordinator(self, hosts: Sequence[str], now: datetime) -> Pair:
        """A key and a certificate of the coordinator, for these names and addresses."""
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = _new_key()
        names = [_host(host) for host in hosts]
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return Pair(_key_pem(key), self._issue("coordinator", names, key.public_key(), usage, now))

    def client(self, client_id: str, now: datetime) -> Pair:
        """A key and a certificate of a client."""
        key = _new_key()
        return Pair(_key_pem(key), self.sign(SigningRequest(client_id, key.public_key()), now))

    def sign(self, request: SigningRequest, now: datetime) -> bytes:
        """A certificate of a client, PEM. Of the request it takes the id and the key, and nothing else."""
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        names = [x509.UniformResourceIdentifier(CLIENT_URI + request.client_id)]
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        return self._issue(request.client_id, names, request.public_key, usage, now)

    def _issue(
        self,
        subject: str,
        names: Sequence[x509.GeneralName],
        public_key: EllipticCurvePublicKey,
        purpose: x509.ObjectIdentifier,
        now: datetime,
    ) -> bytes:
        from cryptography import x509

        usage = dict.fromkeys(_USAGES, False) | {"digital_signature": True}
        issuer = self.certificate.subject
        builder = _builder(_name(subject), issuer, public_key, now, VALID, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return _pem(_signed(builder.add_extension(x509.SubjectAlternativeName(names), critical=False), self.key))


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def ask(client_id: str) -> tuple[bytes, bytes, SigningRequest]:
    """A new private key and a request for a certificate of it, both PEM, and the request as it is read."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    key = _new_key()
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(client_id)).sign(key, SHA256())
    return _key_pem(key), request.public_bytes(Encoding.PEM), SigningRequest(client_id, key.public_key())


def read_request(pem: bytes) -> SigningRequest:
    """The request in a PEM file: its client is the common name of its subject.

    Raises:
        ConfigError: it is none, has another sort of key, or whoever made it has not the key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.x509.oid import NameOID

    with foreign_errors(lambda _: ConfigError("--sign: no request for a certificate; name the client.csr of a site")):
        found = x509.load_pem_x509_csr(pem)
        names, key = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME), found.public_key()
        own = found.is_signature_valid
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigError("--sign: the request is of another key than ECDSA on P-256; make one with --mode enrol")
    if not own:
        raise ConfigError("--sign: the request is not signed with its own key; make a new one with --mode enrol")
    if len(names) != 1:
        raise ConfigError(f"--sign: the request has {len(names)} common names; make one with --mode enrol")
    return SigningRequest(str(names[0].value), key)


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    return generate_private_key(SECP256R1())


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: EllipticCurvePublicKey,
    now: datetime,
    valid: timedelta,
    issuer_key: EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    from cryptography import x509

    builder = x509.CertificateBuilder(serial_number=x509.random_serial_number(), public_key=public_key)
    builder = builder.subject_name(subject).issuer_name(issuer)
    builder = builder.not_valid_before(now - _EARLIER).not_valid_after(now + valid)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives.hashes import SHA256

    return builder.sign(key, SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
