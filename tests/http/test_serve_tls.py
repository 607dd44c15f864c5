"""HTTPS: what a client sees, and what is wrong with certificates."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
import trustme

from dure.errors import UsageError
from dure.http.guards.tls import Tls
from tests.support.guarded_server import serving

AUTHORITY = trustme.CA()


def write_certificate(directory: Path, name: str = "server") -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    issued = AUTHORITY.issue_cert("localhost", "127.0.0.1")
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return cert, key


def trusting() -> ssl.SSLContext:
    """A client that knows our authority."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def test_a_client_that_trusts_the_certificate_is_answered(tmp_path: Path) -> None:
    """HTTPS works, streams too; plain HTTP at the same port is not answered."""
    cert, key = write_certificate(tmp_path)
    with serving(tmp_path / "log", tls_cert=cert, tls_key=key) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert httpx.get(f"{server.url}/x", verify=trusting()).status_code == 200
        streamed = httpx.get(f"{server.url}/stream?3", verify=trusting())
        assert streamed.text.splitlines()[-2] == "data: [DONE]"
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{server.port}/x")


def test_tls_older_than_1_2_is_refused(tmp_path: Path) -> None:
    """OpenSSL keeps it."""
    cert, key = write_certificate(tmp_path)
    assert Tls(cert, key).context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_renewed_certificate_is_taken_over(tmp_path: Path) -> None:
    """New connections get the new one; a pair that does not fit together changes nothing."""
    cert, key = write_certificate(tmp_path)
    other_cert, other_key = write_certificate(tmp_path, "other")
    tls = Tls(cert, key)
    assert not tls.refresh()
    other_cert.rename(cert)
    with pytest.raises(UsageError, match="is not the key of"):
        tls.refresh()
    other_key.rename(key)
    assert tls.refresh()


@pytest.mark.parametrize("damage", ["missing", "no PEM", "swapped", "strangers", "encrypted"])
def test_files_that_are_no_certificate_are_told_in_one_line(tmp_path: Path, damage: str) -> None:
    """Every error names the file and the cure."""
    cert, key = write_certificate(tmp_path)
    if damage == "missing":
        cert.unlink()
    elif damage == "no PEM":
        key.write_bytes(b"\x30\x82 not text")
    elif damage == "swapped":
        cert, key = key, cert
    elif damage == "strangers":
        key = write_certificate(tmp_path, "other")[1]
    else:
        plain = key.rename(tmp_path / "plain.key")
        args = ("openssl", "pkey", "-in", plain, "-aes256", "-passout", "pass:x", "-out", key)
        subprocess.run(args, check=True, capture_output=True)
    with pytest.raises(UsageError) as error:
        Tls(cert, key)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
