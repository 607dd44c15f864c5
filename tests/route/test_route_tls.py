"""Upstreams behind TLS: whose certificate is believed, and what a refused one says."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trustme

from tests.support.dure_server import GREEDY, Home
from tests.support.routing import Routing, routing, upstream
from tests.support.scripted_upstream import WHOLE, scripted

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
WAIT_S = 60.0  # detects a hang; nothing is measured with it


def ca_file(directory: Path) -> Path:
    """The certificate of the authority, in a file."""
    file = directory / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(file))
    return file


def files(directory: Path, certificate: trustme.LeafCert) -> tuple[object, ...]:
    """The options of a server that shows this certificate."""
    directory.mkdir(exist_ok=True)
    cert, key = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(b"".join(one.bytes() for one in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    return "--tls-cert", cert, "--tls-key", key


def context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """What a scripted upstream shows."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(found)
    return found


def ask(router: Routing, **more: Any) -> httpx.Response:
    body = {**GREEDY, "max_tokens": 4, **more}
    return httpx.post(f"{router.url}/v1/chat/completions", json=body, timeout=WAIT_S)


def connections(router: Routing, port: int) -> set[int]:
    """Its own ports of the connections that it has to an upstream."""
    found = psutil.Process(router.process.pid).net_connections("tcp")
    return {one.laddr.port for one in found if one.raddr and one.raddr.port == port}


def test_a_server_behind_tls_is_asked_and_asked_again_after_its_restart(tmp_path: Path) -> None:
    """Connections are kept; a new certificate of the same authority is believed."""
    home, ca = Home(tmp_path), ca_file(tmp_path)
    first = files(tmp_path / "first", AUTHORITY.issue_cert("127.0.0.1"))
    second = files(tmp_path / "second", AUTHORITY.issue_cert("127.0.0.1"))
    with home.serving(*first) as server:
        assert server.url.startswith("https://")
        port = int(server.url.rpartition(":")[2])
        rules = upstream("one", server.url, ca_file=str(ca), measure=False)
        with routing(tmp_path / "router", rules) as router:
            used = set[int]()
            for _ in range(20):
                assert ask(router).status_code == 200
                used |= connections(router, port)
            assert len(used) < 10, "of the watcher, too"
            assert ask(router, stream=True).content.endswith(b"data: [DONE]\n\n")
            server.process.kill()
            server.process.wait()
            assert ask(router).status_code == 503
            with home.serving(*second, "--port", port):
                until_up(router)
                assert ask(router).status_code == 200


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (STRANGER.issue_cert("127.0.0.1"), "certificate; name its authority in ca-file"),
        (AUTHORITY.issue_cert("127.0.0.1", not_after=YESTERDAY), "certificate has expired"),
        (AUTHORITY.issue_cert("desk.local"), "IP address mismatch"),
    ],
    ids=["stranger", "expired", "other-name"],
)
def test_a_certificate_that_is_not_good_is_refused(
    tmp_path: Path, certificate: trustme.LeafCert, why: str
) -> None:
    """Nothing is sent, and the reason is told to the client, in the log, and by explain."""
    with scripted(tls=context(certificate)) as one:
        rules = upstream("one", one.url, ca_file=str(ca_file(tmp_path)), models=["small"])
        with routing(tmp_path, rules) as router:
            answer = ask(router)
            assert (answer.status_code, answer.headers["x-route-reason"]) == (503, "down")
            told = answer.json()["error"]["message"]
            assert "one its certificate is refused: " in told
            assert why in told
            router.stop()
            assert [why in line.facts["one"].why for line in router.log()] == [True]
        assert one.requests == []
        explained = Home(tmp_path).dure(
            "route", "explain", "Hello", "--rules", tmp_path / "rules.toml"
        )
        assert why in explained.stdout + explained.stderr


def test_a_certificate_for_a_name_is_good_for_that_name(tmp_path: Path) -> None:
    """The name that the rules have, whatever its address."""
    certificate = AUTHORITY.issue_cert("localhost")
    with scripted(tls=context(certificate)) as one:
        url = one.url.replace("127.0.0.1", "localhost")
        rules = upstream("one", url, ca_file=str(ca_file(tmp_path)), kind="house")
        with routing(tmp_path, rules) as router:
            assert ask(router).content == WHOLE


def until_up(router: Routing) -> None:
    """Wait until the router has found its upstream."""
    give_up = time.monotonic() + WAIT_S
    while httpx.get(f"{router.url}/health").status_code != 200:
        assert time.monotonic() < give_up, "it is never found"
        time.sleep(0.05)
