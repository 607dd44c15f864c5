"""An HTTPS connection to one machine of the cluster: one question, one answer, both typed.

Knows TLS sockets, JSON, and what each way to fail means for a user. Refuses to know what is asked (see
`dure.cluster.node_api` and `joining`), and who may ask.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from cryptography import x509

from dure.cluster.trust.clocks import ClockError, apart, check_dates
from dure.errors import ClusterError, ErrorRecord

__all__ = ["ErrorAnswer", "NodeConnection", "RequestRefusedError", "UnreachableError"]

T = TypeVar("T")
ANSWER_S = 10.0
_NOT_NOW = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
_OTHER_WORDS_CURE = "install the same version on all machines"


class UnreachableError(ClusterError):
    """Nobody answers at an address, or the connection broke: it may be better in a moment."""


class RequestRefusedError(ClusterError):
    """A machine refuses what it is asked for.

    kind, reason: the class and the problem of its own error; "" if it sent none.
    """

    def __init__(self, problem: str, cure: str = "", *, kind: str = "", reason: str = "") -> None:
        super().__init__(problem, cure, kind=kind, reason=reason)
        self.kind, self.reason = kind, reason


class ErrorAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine answers to a question that it refuses. detail: the error's text."""

    detail: str
    error: ErrorRecord | None = None


class _NamedHttpsConnection(http.client.HTTPSConnection):
    """Connects to an address, but wants a certificate of a name: nodes have names, not addresses."""

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext, name: str, timeout_s: float
    ) -> None:
        super().__init__(host, port, context=context, timeout=timeout_s)
        self._tls, self._name = context, name

    def connect(self) -> None:
        """Connect, and have TLS check the certificate."""
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise


class NodeConnection:
    """Ask one machine, over a connection that is kept between questions. Not thread-safe; `close` it.

    name: whom its certificate must name, if the context checks that. check: gets the certificate (DER)
    before anything is sent. if_silent: the cure if nothing listens there.
    """

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        name: str,
        *,
        timeout_s: float = ANSWER_S,
        check: Callable[[bytes], None] = lambda _: None,
        if_silent: str = "start `dure node` on it",
    ) -> None:
        self._connection = _NamedHttpsConnection(*address, context, name, timeout_s)
        self._check, self._if_silent, self._name = check, if_silent, name
        self._address = address
        self._place = f"{name} at {address[0]}:{address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next question opens it again."""
        self._connection.close()

    def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: msgspec.Struct | bytes | None = None,
        **headers: str,
    ) -> T:
        """Send a question and return its answer. body: bytes go as they are, a record as JSON.

        Raises UnreachableError if the connection is the problem (the next question opens a new one),
        RequestRefusedError if the machine refuses, ClusterError if it is not the machine it should be or
        answers nonsense, and whatever the check raises.
        """
        try:
            status, text = self._exchange(method, path, body, headers)
            return self._decoded(status, text, answer)
        except BaseException:
            self._connection.close()
            raise

    def prove(self) -> None:
        """Connect, and have whoever answers prove who it is. Raises as `ask` does."""
        try:
            with self._explaining():
                self._connect()
        except BaseException:
            self._connection.close()
            raise

    def _connect(self) -> None:
        if self._connection.sock is None:
            self._connection.connect()
            self._check(_peer_certificate(self._connection.sock))

    def _exchange(
        self, method: str, path: str, body: msgspec.Struct | bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        with self._explaining():
            self._connect()
            data = msgspec.json.encode(body) if isinstance(body, msgspec.Struct) else body
            self._connection.request(method, path, data, {"content-type": kind, **headers})
            response = self._connection.getresponse()
            return response.status, response.read()

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say what a failure in the block means for a user."""
        place = self._place
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _NOT_NOW:
                self._check_dates()
            raise ClusterError(
                f"{place} is not who it should be ({error.verify_message})",
                "join it again, and look at who has that address",
            ) from error
        except ssl.SSLEOFError as error:
            raise UnreachableError(f"{place} does not answer", "the line broke") from error
        except ssl.SSLError as error:
            raise ClusterError(
                f"{place} does not let this machine in ({error.reason or error})",
                "was it removed, or is it another cluster's?",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _check_dates(self) -> None:
        """Raise ClockError if the certificate there is not valid now. The authority made it."""
        with contextlib.suppress(OSError, ValueError):  # it has gone
            certificate = x509.load_der_x509_certificate(_certificate_at(self._address))
            check_dates(certificate, f"{self._name}'s", datetime.now(UTC))

    def _unreachable(self, error: OSError | http.client.HTTPException) -> UnreachableError:
        silent = f"{self._place} does not answer"
        if isinstance(error, TimeoutError):
            return UnreachableError(
                f"{silent}: no answer in time", "is it on, and on this network?"
            )
        if isinstance(error, ConnectionRefusedError):
            return UnreachableError(f"{silent}: nothing listens there", self._if_silent)
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
        return UnreachableError(f"{silent}: {reason}")

    def _decoded(self, status: int, text: bytes, answer: type[T]) -> T:
        if status != 200:
            raise self._refused(status, text)
        try:
            return msgspec.json.decode(text, type=answer)
        except msgspec.MsgspecError as error:
            raise ClusterError(
                f"{self._name} answers in another dure's words ({error})", _OTHER_WORDS_CURE
            ) from error

    def _refused(self, status: int, text: bytes) -> ClusterError:
        refuses = f"{self._place} refuses"
        try:
            answer = msgspec.json.decode(text, type=ErrorAnswer)
        except msgspec.MsgspecError:
            return RequestRefusedError(f"{refuses}: HTTP status {status}")
        if (error := answer.error) is None:
            return RequestRefusedError(f"{refuses}: {answer.detail}")
        if error.kind == ClockError.__name__:
            return apart(self._place, error.facts["now"])
        return RequestRefusedError(
            f"{refuses}: {error.problem}", error.cure, kind=error.kind, reason=error.problem
        )


def _certificate_at(address: tuple[str, int]) -> bytes:
    """Return the certificate (DER) of whoever answers there; nothing is said to them. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(address, ANSWER_S) as plain,
        context.wrap_socket(plain) as tls,
    ):
        return _peer_certificate(tls)


def _peer_certificate(sock: socket.socket | None) -> bytes:
    """Return the certificate (DER) at the other end of a TLS socket."""
    assert isinstance(sock, ssl.SSLSocket), "connected"
    return sock.getpeercert(binary_form=True) or b""
