"""Who is who in a cluster: a private certificate authority, and the certificates that it gives.

Knows keys, certificates, what each is good for, and the TLS contexts made of them. Refuses to know
addresses, and what is said over TLS.

A node's certificate is good for answering only; the root's is good for asking too. So no node can command
another, whatever runs on it: TLS itself refuses.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dure.cluster.trust.clocks import CLOCKS_DIFFER
from dure.errors import ClusterError, UsageError
from dure.http.file_stamp import stamp_of
from dure.whole_file import write_together, write_whole

__all__ = [
    "ROOT_NAME",
    "Authority",
    "Credentials",
    "answering_context",
    "asking_context",
    "check_name",
    "fingerprint",
    "new_request",
    "shown_name",
]

ROOT_NAME = "dure-root"  # in its certificate
AUTHORITY_YEARS, LEAF_YEARS = 30, 10
_NO_CHECK_TIME = (
    0x200000  # X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h, which Python does not name
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ANSWERS, _ASKS = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def check_name(name: str) -> str:
    """Return a node's name. Raises UsageError if it is no host name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a node", "use small letters, digits and hyphens, as in pi-4"
        )
    return name


def shown_name(name: str) -> str:
    """Return a machine's name for a person, on the root: the root's is that of its host."""
    return f"{socket.gethostname()} (root)" if name == ROOT_NAME else name


def fingerprint(certificate_der: bytes) -> bytes:
    """Return the SHA-256 of a certificate: 32 bytes."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(certificate_der)
    return digest.finalize()


@dataclass(frozen=True)
class Credentials:
    """The files that prove who a machine is: a private key, its certificate, and the authority's."""

    directory: Path

    @property
    def key(self) -> Path:
        """The private key's file; nobody else may read it."""
        return self.directory / "key.pem"

    @property
    def certificate(self) -> Path:
        """The file of the machine's own certificate."""
        return self.directory / "certificate.pem"

    @property
    def authority(self) -> Path:
        """The file of the certificate of the cluster's authority."""
        return self.directory / "authority.pem"

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All three."""
        return self.key, self.certificate, self.authority

    @property
    def exist(self) -> bool:
        """Whether all three files exist."""
        return all(path.is_file() for path in self.files)

    @property
    def name(self) -> str:
        """The name in the certificate."""
        return _name_of(self.loaded.subject)

    @property
    def loaded(self) -> x509.Certificate:
        """The machine's own certificate."""
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    def write(self, key: bytes, certificate: bytes, authority: bytes) -> None:
        """Write all three (PEM). Raises OSError; all are as they were then."""
        contents = {self.key: key, self.certificate: certificate, self.authority: authority}
        write_together(contents, private=True)

    def request(self, name: str) -> bytes:
        """Return a request for a certificate of another name, for the same key (PEM). Raises OSError."""
        return _request(_private_key(self.key.read_bytes()), name)

    def renew(self, certificate: bytes) -> str:
        """Write another certificate (PEM) in place of the present one; return the name in it.

        Raises UsageError if it is not of this key and this authority, OSError.
        """
        own, authority = _private_key(self.key.read_bytes()), self.authority.read_bytes()
        try:
            loaded = x509.load_pem_x509_certificate(certificate)
            loaded.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
        except (ValueError, TypeError, InvalidSignature) as error:
            raise UsageError(f"this is no certificate of the cluster: {error}") from error
        if loaded.public_key() != own.public_key():
            raise UsageError("the certificate is for another key than this machine's")
        write_whole(self.certificate, certificate, private=True)
        return _name_of(loaded.subject)


def new_request(name: str) -> tuple[bytes, bytes]:
    """Make a private key and a request for its certificate, both PEM. The key never leaves the machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _key_pem(key), _request(key, name)


def _request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(check_name(name)))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "of the kind that dure makes"
    return key


class Authority:
    """The cluster's certificate authority: its key and certificate lie in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._key_file = directory / "authority.key.pem"
        self._certificate_file = directory / "authority.pem"
        try:
            key = serialization.load_pem_private_key(self._key_file.read_bytes(), None)
            self.certificate = x509.load_pem_x509_certificate(self._certificate_file.read_bytes())
        except FileNotFoundError:
            raise ClusterError(
                f"{directory} holds no cluster", "`dure cluster init` makes one"
            ) from None
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"the keys of the cluster in {directory} cannot be read ({error})",
                "bring them back from a copy, or begin anew with `dure cluster init` in another "
                "directory (DURE_CLUSTER_DIR)",
            ) from error
        assert isinstance(key, ec.EllipticCurvePrivateKey), "we made it"
        self._key = key

    @classmethod
    def create(cls, directory: Path, name: str) -> Authority:
        """Make an authority. Raises OSError."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"dure cluster {name}")
        certificate = (
            _builder(subject, subject, key.public_key(), AUTHORITY_YEARS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(directory / "authority.key.pem", _key_pem(key), private=True)
        (directory / "authority.pem").write_bytes(_pem(certificate))
        return cls(directory)

    @property
    def pem(self) -> bytes:
        """The authority's own certificate (PEM)."""
        return _pem(self.certificate)

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of its certificate, which a code names, so that a node knows whom it joins."""
        return fingerprint(self.certificate.public_bytes(serialization.Encoding.DER))

    @property
    def files(self) -> tuple[Path, Path]:
        """Its certificate and key, for the one server that a stranger may talk to: the join server."""
        return self._certificate_file, self._key_file

    def sign(self, request: bytes, name: str, *, asks: bool = False) -> tuple[bytes, int]:
        """Make a certificate for the key in a request (PEM), and return it with its serial number.

        asks: it may command nodes. Raises UsageError if the request is none.
        """
        try:
            parsed = x509.load_pem_x509_csr(request)
            if not parsed.is_signature_valid:
                raise InvalidSignature("its signature is wrong")
            key = parsed.public_key()
        except (ValueError, TypeError, InvalidSignature) as error:
            raise UsageError(f"this is no request for a certificate: {error}") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise UsageError("the request's key is not of the kind that dure makes")
        uses = [_ANSWERS, _ASKS] if asks else [_ANSWERS]
        certificate = (
            _builder(_subject(check_name(name)), self.certificate.subject, key, LEAF_YEARS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate), certificate.serial_number

    def revocations(self, serials: Iterable[int]) -> bytes:
        """Return the signed list of revoked certificates (PEM), valid as long as the authority has been:
        a list that was made while the clock was ahead must not be unknown once it is right.
        """
        now = _now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(self.certificate.not_valid_before_utc)
            .next_update(now + datetime.timedelta(days=365 * AUTHORITY_YEARS))
        )
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(now - CLOCKS_DIFFER)
                .build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# ---------------------------------------------------------------- TLS


def answering_context(own: Credentials) -> ssl.SSLContext:
    """Return the TLS context of a node's server: it lets in whom this cluster's authority lets ask.

    At any time: `NodeServer` refuses whoever's certificate is not valid now, in words that say why.
    If the machine joins again meanwhile, new connections use what it got then.
    """
    newest = _answering_context(own)
    stamp = stamp_of(*own.files)

    def use_newest(
        connection: ssl.SSLSocket | ssl.SSLObject, _name: str, _context: ssl.SSLContext
    ) -> None:
        nonlocal newest, stamp
        if (now := stamp_of(*own.files)) != stamp:
            with contextlib.suppress(OSError):  # half written: the next connection tries again
                newest, stamp = _answering_context(own), now
        connection.context = newest

    context = _answering_context(own)
    context.sni_callback = use_newest
    return context


def _answering_context(own: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(own.certificate, own.key)
    context.load_verify_locations(own.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def asking_context(own: Credentials, revocations: Path) -> ssl.SSLContext:
    """Return the TLS context of the root: it believes nodes of its authority, each by its name.

    revocations: the file of the authority's list; a node on it is not believed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(own.certificate, own.key)
    context.load_verify_locations(own.authority)
    context.load_verify_locations(revocations)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    return context


# ---------------------------------------------------------------- certificates


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, years: int
) -> x509.CertificateBuilder:
    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + datetime.timedelta(days=365 * years))
    )


def _usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name_of(subject: x509.Name) -> str:
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
