"""How a machine joins: it shows a code, and gets a certificate. Both ends of that one question.

Knows the root's door, which is open only while somebody is invited, and whom a node believes: one whose
certificate is the authority that the code names. Refuses to know how machines find each other.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, StringConstraints

from dure.cluster.https import ask
from dure.cluster.identity import Credentials, fingerprint, new_request
from dure.cluster.invitation import Code, RefusedError
from dure.cluster.membership import ROOT_NAME, Cluster
from dure.errors import ClusterError, DureError

__all__ = ["JOIN_PORT", "NODE_PORT", "NodeFile", "door_app", "door_context", "join"]

JOIN_PORT, NODE_PORT = 7473, 7474


class _Wish(BaseModel):
    """What a machine says that wants to join. port: of its agent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    secret: Annotated[str, StringConstraints(max_length=64)]
    name: Annotated[str, StringConstraints(max_length=63)]
    request: Annotated[str, StringConstraints(max_length=8192)]
    port: int


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


# ---------------------------------------------------------------- the root's door


def door_context(cluster: Cluster) -> ssl.SSLContext:
    """TLS for the door: its certificate is the authority itself, which the code names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*cluster.authority.files)
    return context


def door_app(cluster: Cluster, joined: Callable[[str], None]) -> FastAPI:
    """Lets in who shows a good code. joined: is told of each by name."""
    app = FastAPI(title="dure join", docs_url=None, redoc_url=None)

    @app.post("/join")
    def join_(wish: _Wish, request: Request) -> dict[str, str]:
        """Give a machine its certificate."""
        host = request.client.host if request.client else ""
        try:
            if not 0 < wish.port < 1 << 16:
                raise RefusedError(f"port {wish.port} is no port")
            certificate = cluster.join(
                wish.secret, wish.name, wish.request.encode(), host, wish.port
            )
        except DureError as error:
            cluster.events.add("refused", host=host, name=wish.name, reason=str(error))
            raise HTTPException(403, str(error)) from None
        joined(wish.name)
        return {
            "certificate": certificate.decode(),
            "authority": cluster.authority.pem.decode(),
            "cluster": cluster.name,
        }

    return app


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
