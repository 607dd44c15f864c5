"""The rules as a user writes them, and what is said about mistakes: line, key, cure."""

from __future__ import annotations

import pytest

from dure.errors import UsageError
from dure.route.rules_file import parse_rules
from dure.route.starting import magic_packet

GOOD = """
[route]
worth-usd-per-s = 0.01
private_keys = ["anna"]

[route.serve]
port = 8080

[route.upstreams.board]
url = "http://192.168.1.20:8080"
wake = "d8:3a:dd:01:02:03"
start-s = 40

[route.upstreams.pod]
url = "https://pod.example.com/proxy"
kind = "pod"
usd-per-hour = 0.34
"""


def test_rules_are_read_in_their_order() -> None:
    """With `_` or `-` in keys; options of a command beside them are not the rules' business."""
    rules = parse_rules(GOOD, "rules.toml")
    assert [one.name for one in rules.upstreams] == ["board", "pod"]
    assert rules.worth_usd_per_s == 0.01
    assert (rules.is_private("anna"), rules.is_private("ben")) == (True, False)
    assert [one.in_house for one in rules.upstreams] == [True, False]
    assert [one.is_free for one in rules.upstreams] == [True, False]


@pytest.mark.parametrize(
    ("text", "problem", "cure"),
    [
        ("", "names no upstream", "[route.upstreams.NAME]"),
        ("[route]\nupstreams = 3", "names no upstream", "[route.upstreams.NAME]"),
        ("[route", "rules.toml: ", "TOML"),
        ("[route.upstreams.a]\nkind = 'pod'", "line 1: [route.upstreams.a] has no url", "url = "),
        ("[route.upstreams.a]\nurl = 'http://a'\nusd-per-hours = 1", "line 3", "usd-per-hour"),
        ("[route.upstreams.a]\nurl = 'http://a'\ncontext = 'big'", "is 'big'", "a whole number"),
        ("[route.upstreams.a]\nurl = 'http://a'\ntools = 1", "line 3", "true or false"),
        ("[route.upstreams.a]\nurl = 'http://a'\nkind = 'home'", "line 3", "house, pod, cloud"),
        ("[route.upstreams.a]\nurl = 'desk'", "'desk' is no address", "http://HOST:PORT"),
        ("[route.upstreams.a]\nurl = 'http://a:11434/v1/'", "ends with /v1", "leave /v1 out"),
        ("[route.upstreams.a]\nurl = 'http://u:p@desk'", "more than an address", "key-file"),
        ("[route.upstreams.a]\nurl = 'https://api.example.com'", "outside your house", "kind"),
        ("[route.upstreams.a]\nurl = 'http://8.8.8.8'", "outside your house", "kind"),
        ("[route.upstreams.a]\nurl = 'http://a'\nwake = 'abc'", "no MAC address", "d8:3a"),
        (
            "[route.upstreams.a]\nurl = 'http://a'\nwake = 'd8:3a:dd:01:02:03'",
            "needs start-s",
            "start-s = 40",
        ),
        ("[route.upstreams.a]\nurl = 'http://a'\nusd-per-hour = -1", "is -1", "above 0"),
        ("[route]\ndaily-usd = 0\n[route.upstreams.a]\nurl = 'http://a'", "line 2", "above 0"),
        ("[route.upstreams.a]\npod = 'q'\nurl = 'http://a'", "line 3", "the tunnel"),
        ("[route.upstreams.a]\npod = 'q'\nkind = 'house'", "line 3", "leave kind out"),
        ("[route.upstreams.a]\npod = 'q'\nwake = 'd8:3a:dd:01:02:03'\nstart-s = 9", "wake", "wake"),
        ("[route.upstreams.a]\npod = '../q'", "no name of a pod", "dure pod ls"),
        ("[route.upstreams.'a b']\nurl = 'http://a'", "is no upstream", "NAME"),
    ],
)
def test_a_mistake_is_named_with_its_cure(text: str, problem: str, cure: str) -> None:
    """The line and the key, as far as there are any."""
    with pytest.raises(UsageError) as raised:
        parse_rules(text, "rules.toml")
    assert problem in raised.value.problem
    assert cure in raised.value.cure


def test_a_secret_in_an_address_is_not_repeated() -> None:
    """An error is shown on a screen and kept in logs."""
    with pytest.raises(UsageError) as raised:
        parse_rules("[route.upstreams.a]\nurl = 'http://user:hush@desk'", "rules.toml")
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["http://desk:8080", "http://pi.local", "http://10.0.0.3", "http://[::1]:80", "unix:/run/s"],
)
def test_an_address_of_the_house_needs_no_kind(url: str) -> None:
    """Names without a dot, names of home networks, private addresses and sockets."""
    (one,) = parse_rules(f"[route.upstreams.a]\nurl = '{url}'", "rules.toml").upstreams
    assert one.in_house


def test_the_magic_packet_is_six_bytes_of_ones_and_the_address_sixteen_times() -> None:
    """As network cards expect it."""
    packet = magic_packet("d8:3a:dd:01:02:03")
    assert packet == b"\xff" * 6 + bytes.fromhex("d83add010203") * 16
