"""The addresses that a server tells: those that others can use."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from dure.http.binding import bound
from dure.http.settings import ServerSettings


def own_addresses() -> set[str]:
    """The addresses of this machine that are not for itself alone."""
    found = [one for addresses in psutil.net_if_addrs().values() for one in addresses]
    inet = [one.address for one in found if one.family == socket.AF_INET]
    return {one for one in inet if not ipaddress.ip_address(one).is_loopback}


def test_a_wildcard_is_told_as_addresses_of_this_machines_links() -> None:
    settings = ServerSettings(host="0.0.0.0", port=0)  # noqa: S104
    with bound(settings) as binding:
        assert binding.url == f"http://127.0.0.1:{binding.port}"
        hosts = {url.removeprefix("http://").rpartition(":")[0] for url in binding.urls}
        assert hosts
        assert hosts <= (own_addresses() or {"127.0.0.1"})
        for host in hosts:
            socket.create_connection((host, binding.port)).close()


def test_an_address_is_told_as_it_is() -> None:
    with bound(ServerSettings(host="127.0.0.1", port=0)) as binding:
        assert binding.urls == (binding.url,) == (f"http://127.0.0.1:{binding.port}",)
