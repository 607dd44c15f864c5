"""Makes certificates that are valid at another time than now."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from dure.cluster.trust.identity import Authority, Credentials

__all__ = ["dated"]


def dated(
    authority: Authority, own: Credentials, directory: Path, first_day: float, last_day: float
) -> Credentials:
    """The same credentials, whose certificate is valid between two days, counted from today."""
    now = datetime.datetime.now(datetime.UTC)
    certificate = own.loaded
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(certificate.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=first_day))
        .not_valid_after(now + datetime.timedelta(days=last_day))
    )
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    signed = builder.sign(authority._key, hashes.SHA256())
    made = Credentials(directory)
    directory.mkdir(exist_ok=True)
    pem = signed.public_bytes(serialization.Encoding.PEM)
    made.write(own.key.read_bytes(), pem, own.authority.read_bytes())
    return made
