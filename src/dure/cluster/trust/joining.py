"""How a machine joins a cluster: it shows a code, and gets a certificate.

Knows which root a machine believes: one whose certificate is the authority that the code names. The other
end is `dure.cluster.root.join_server`. Refuses to know how machines find each other.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from dure.cluster.trust.connection import NodeConnection
from dure.cluster.trust.identity import ROOT_NAME, Credentials, fingerprint, new_request
from dure.cluster.trust.invitation import Code
from dure.errors import ClusterError
from dure.whole_file import write_whole

__all__ = [
    "JOIN_PATH",
    "JOIN_PORT",
    "NODE_PORT",
    "JoinAnswer",
    "JoinRequest",
    "NodeFile",
    "is_root",
    "join",
    "listens",
]

JOIN_PORT, NODE_PORT = 7473, 7474
JOIN_PATH = "/join"


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine sends that wants to join. request: for a certificate (PEM). port: of its agent."""

    secret: Annotated[str, msgspec.Meta(max_length=64)]
    name: Annotated[str, msgspec.Meta(max_length=63)]
    request: Annotated[str, msgspec.Meta(max_length=8192)]
    port: int


class JoinAnswer(msgspec.Struct, frozen=True):
    """What it gets: its own certificate and the authority's (PEM), and the cluster's name."""

    certificate: str
    authority: str
    cluster: str


class NodeFile(msgspec.Struct):
    """What a node stores of the cluster it belongs to: `node.json` in its directory."""

    name: str
    cluster: str
    port: int

    @classmethod
    def read(cls, directory: Path) -> NodeFile:
        """Read the file. Raises ClusterError if this machine belongs to no cluster."""
        path = directory / "node.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            raise ClusterError(
                "this machine has not joined a cluster",
                "`dure cluster invite` on the root shows a code for `dure join CODE`",
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise ClusterError(
                f"{path} cannot be read ({error})", "join again, with --force"
            ) from error

    def write(self, directory: Path) -> None:
        """Write the file."""
        write_whole(directory / "node.json", msgspec.json.encode(self))


def join(directory: Path, code: Code, address: tuple[str, int], name: str, port: int) -> NodeFile:
    """Join the cluster that `code` names at `address`, and store that in `directory`.

    Raises ClusterError if another cluster answers there, or the code is refused.
    """
    key, request = new_request(name)
    answer = _asked(code, address, JoinRequest(code.secret, name, request.decode(), port))
    own, authority = _certificates(answer, code)
    Credentials(directory).write(key, own, authority)
    node = NodeFile(name, answer.cluster, port)
    node.write(directory)
    return node


def listens(port: int) -> bool:
    """Return whether something listens on this port of this machine, as an agent does."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_root(code: Code, address: tuple[str, int]) -> bool:
    """Return whether the code's root answers at this address; nothing is sent there."""
    try:
        with _connected(code, address) as connection:
            connection.prove()
    except ClusterError:
        return False
    return True


def _asked(code: Code, address: tuple[str, int], request: JoinRequest) -> JoinAnswer:
    """Send the request, if whoever answers at `address` proves to be the code's authority."""
    with _connected(code, address) as connection:
        return connection.ask("POST", JOIN_PATH, JoinAnswer, request)


def _connected(code: Code, address: tuple[str, int]) -> NodeConnection:
    """Return a connection that refuses whoever is not the code's authority."""

    def check(certificate: bytes) -> None:
        if not code.names(fingerprint(certificate)):
            raise ClusterError(
                f"another cluster than the code's answers at {address[0]}:{address[1]}",
                "look whether the code is this root's, and say --root HOST",
            )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the code says whom to believe, not a chain
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    silent = "run `dure cluster invite` on the root, and keep it running"
    return NodeConnection(address, context, ROOT_NAME, check=check, if_silent=silent)


def _certificates(answer: JoinAnswer, code: Code) -> tuple[bytes, bytes]:
    """Return the machine's own certificate and the authority's, which must be the code's (PEM)."""
    own, authority = answer.certificate.encode(), answer.authority.encode()
    try:
        loaded = x509.load_pem_x509_certificate(authority)
        x509.load_pem_x509_certificate(own)
    except ValueError as error:
        raise ClusterError(
            f"the root answered something else than a certificate: {error}"
        ) from error
    if not code.names(fingerprint(loaded.public_bytes(serialization.Encoding.DER))):
        raise ClusterError(
            "the root answered with another authority than the code's", "do not join"
        )
    return own, authority
