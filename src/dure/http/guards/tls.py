"""Reads a certificate and its key, and names in one line what is wrong with them."""

from __future__ import annotations

import ssl
from pathlib import Path

from dure.errors import UsageError
from dure.http.file_stamp import stamp_of

__all__ = ["Tls"]


class Tls:
    """A server's TLS, version 1.2 or newer. `refresh` reads renewed files."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises UsageError if a file is missing, is no PEM, or the two do not belong together."""
        self._cert, self._key = cert, key
        self._stamp = stamp_of(cert, key)
        self.context = _context(cert, key)

    def refresh(self) -> bool:
        """Use the files as they are now for new connections; return whether they have changed.

        Raises UsageError if they do not fit together; the old ones stay in use.
        """
        stamp = stamp_of(self._cert, self._key)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        _context(self._cert, self._key)  # a pair that is only half written spoils nothing
        _load(self.context, self._cert, self._key)
        return True


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, cert, key)
    return context


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    for path, what in ((cert, "certificate"), (key, "key of the certificate")):
        try:
            if b"-----BEGIN" not in path.read_bytes():
                raise UsageError(f"{path}: the {what} is no PEM file", "convert it with openssl")
        except OSError as error:
            raise UsageError(f"{path}: cannot read the {what}: {error.strerror}") from None

    def no_password() -> str:
        raise UsageError(f"{key} is encrypted", f"decrypt it with `openssl pkey -in {key}`")

    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        raise _refusal(error, cert, key) from None


def _refusal(error: ssl.SSLError, cert: Path, key: Path) -> UsageError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return UsageError(
            f"{key} is not the key of {cert}", "name the two files that were made together"
        )
    return UsageError(
        f"{cert} and {key} cannot be used for TLS ({error.reason or 'damaged'})", "make them anew"
    )
