"""How a machine joins: it shows a code, and gets a certificate. `door` is the other end.

Knows whom a node believes: one whose certificate is the authority that the code names.
Refuses to know how machines find each other.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from dure.cluster.root.membership import ROOT_NAME
from dure.cluster.trust.https import ask
from dure.cluster.trust.identity import Credentials, fingerprint, new_request
from dure.cluster.trust.invitation import Code
from dure.errors import ClusterError

__all__ = ["JOIN_PORT", "NODE_PORT", "NodeFile", "join"]

JOIN_PORT, NODE_PORT = 7473, 7474


class NodeFile(msgspec.Struct):
    """What a node remembers of the cluster it belongs to: `node.json` in its directory."""

    name: str
    cluster: str
    port: int

    @classmethod
    def read(cls, directory: Path) -> NodeFile:
        """Raises ClusterError where this machine belongs to no cluster."""
        path = directory / "node.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            raise ClusterError(
                "this machine has not joined a cluster: `dure cluster invite` on the root shows a code "
                "for `dure join CODE`"
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise ClusterError(
                f"{path} cannot be read ({error}): join again, with --force"
            ) from error


# ---------------------------------------------------------------- the machine that joins


def join(directory: Path, code: Code, address: tuple[str, int], name: str, port: int) -> NodeFile:
    """Join the cluster that `code` names at `address`, and remember it in `directory`.

    Raises ClusterError where somebody else answers there, or the code is refused.
    """
    key, request = new_request(name)

    def is_the_codes(certificate: bytes) -> None:
        if not code.names(fingerprint(certificate)):
            raise ClusterError(
                f"another cluster than the code's answers at {address[0]}:{address[1]}: look whether "
                "the code is this root's, and say --root HOST"
            )

    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the code says whom to believe, not a chain
    stranger.minimum_version = ssl.TLSVersion.TLSv1_3
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    wish = {"secret": code.secret, "name": name, "request": request.decode(), "port": port}
    answer = ask(
        address,
        stranger,
        ROOT_NAME,
        "POST",
        "/join",
        wish,
        check=is_the_codes,
        if_silent="run `dure cluster invite` on the root, and keep it running",
    )
    certificate, authority = _believed(answer, code)
    Credentials(directory).write(key, certificate, authority)
    node = NodeFile(name, str(answer.get("cluster", "")), port)
    (directory / "node.json").write_bytes(msgspec.json.encode(node))
    return node


def _believed(answer: Any, code: Code) -> tuple[bytes, bytes]:
    """The certificates in an answer (PEM): one's own, and the authority's, which must be the code's."""
    try:
        own, authority = answer["certificate"].encode(), answer["authority"].encode()
        loaded = x509.load_pem_x509_certificate(authority)
        x509.load_pem_x509_certificate(own)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ClusterError(
            f"the root answered something else than a certificate: {error}"
        ) from error
    if not code.names(fingerprint(loaded.public_bytes(serialization.Encoding.DER))):
        raise ClusterError("the root answered with another authority than the code's: do not join")
    return own, authority
