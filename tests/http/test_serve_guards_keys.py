"""API keys: who is let in, under which name, and where keys come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dure.errors import UsageError
from dure.http.guards.keys import KeyRing, keys_of_environment, parse_keys
from dure.http.settings import ServerSettings
from tests.support.guarded_server import KEYS, Serving, raw, serving


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server with two keys."""
    with serving(
        tmp_path_factory.mktemp("locked") / "log", api_keys=KEYS, idle_timeout_s=1
    ) as server:
        yield server


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-alice-0123456789"},
        {"authorization": "bearer   sk-alice-0123456789"},
        {"x-api-key": "sk-alice-0123456789"},
        {"api-key": "sk-alice-0123456789"},
        {"authorization": "Bearer of bad news", "x-api-key": "sk-alice-0123456789"},
    ],
)
def test_a_good_key_lets_in_under_its_name(locked: Serving, headers: dict[str, str]) -> None:
    """Every way in which clients send a key works, and names the owner."""
    answer = httpx.post(f"{locked.url}/x", headers=headers)
    assert answer.status_code == 200
    assert answer.json()["owner"] == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Basic sk-alice-0123456789"},
        {"authorization": "sk-alice-0123456789"},
        {"authorization": "Bearer sk-alice-012345678"},
        {"authorization": "Bearer sk-alice-01234567890"},
        {"authorization": "Bearer alice:sk-alice-0123456789"},
        {"x-api-key": "wrong"},
        {"x-api-key": "\u00fc".encode("latin-1").decode("latin-1")},
    ],
)
def test_no_key_or_a_wrong_one_is_401(locked: Serving, headers: dict[str, str]) -> None:
    """Nothing but the whole key lets in, and the client is told not to try again."""
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = httpx.post(f"{locked.url}/x", headers=encoded)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_page_that_takes_a_key_needs_none(locked: Serving, path: str) -> None:
    """A browser opens it; what it asks for, and what is named alike, does need one."""
    assert httpx.get(f"{locked.url}{path}").status_code == 200
    for other in ("/openapi.json", "/metrics", "/docs/", "/docs/x", "//"):
        assert httpx.get(f"{locked.url}{other}").status_code == 401


def test_health_needs_no_key(locked: Serving) -> None:
    """A load balancer has no key; everything else, figures too, wants one."""
    assert httpx.get(f"{locked.url}/health").status_code == 200
    assert httpx.get(f"{locked.url}/v1/health").status_code == 200
    assert httpx.get(f"{locked.url}/metrics").status_code == 401
    assert httpx.get(f"{locked.url}/v1/models").status_code == 401


def test_errors_are_in_the_dialect_of_the_path(locked: Serving) -> None:
    """Anthropic's and Ollama's clients read their own envelope."""
    anthropic = httpx.post(f"{locked.url}/v1/messages").json()
    assert anthropic["type"] == "error"
    assert anthropic["error"]["type"] == "authentication_error"
    assert isinstance(httpx.post(f"{locked.url}/api/chat").json()["error"], str)


def test_a_key_is_revoked_without_a_restart(tmp_path: Path) -> None:
    """The key file is read again when it changes; a broken one revokes all of its keys."""
    file = tmp_path / "keys"

    def write(text: str) -> None:
        new = tmp_path / "new"
        new.write_text(text)
        new.chmod(0o600)
        new.rename(file)

    def status(key: str) -> int:
        return httpx.post(f"{server.url}/x", headers={"x-api-key": key}).status_code

    write("# ours\nalice: first-key\n\nbob:second-key\n")
    with serving(tmp_path / "log", api_key_file=file, api_keys=("eve:third-key",)) as server:
        assert [status(key) for key in ("first-key", "second-key", "third-key")] == [200] * 3
        write("bob:second-key\n")
        assert [status(key) for key in ("first-key", "second-key", "third-key")] == [401, 200, 200]
        file.unlink()
        assert [status(key) for key in ("second-key", "third-key")] == [401, 200]
        write("alice:first-key\n")
        assert status("first-key") == 200


def test_the_rest_of_a_refused_body_is_not_waited_for(locked: Serving) -> None:
    """A caller without a key, who never sends the body it announced, does not hold the connection."""
    data = b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc"
    assert raw(locked, data).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no API key"),
        ("# only\n\n", "holds no API key"),
        ("alice:\n", "key 1"),
        ("a b:key\n", "name of key 1"),
        ("alice:one\nalice:two\n", "two keys are named alice"),
        ("alice:on e\n", "key 1"),
        ("alice:one weight=0\n", "the weight of key 1"),
        ("alice:one weight=much\n", "the weight of key 1"),
        ("alice:one priority=urgent\n", "the priority of key 1 must be low, normal or high"),
        ("alice:one wieght=2\n", "key 1"),
    ],
)
def test_a_key_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With the place, and never with a key."""
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(UsageError, match=message):
        KeyRing(path=file)


def test_a_key_may_have_a_weight_and_a_priority(tmp_path: Path) -> None:
    """Behind it, in any order; a key without them is as before."""
    file = tmp_path / "keys"
    file.write_text(
        "a:one weight=2.5\nb:two  priority=low\tweight=3\nthree priority=high\nd:weight=4\n"
    )
    file.chmod(0o600)
    found = [KeyRing(path=file).find(key) for key in (b"one", b"two", b"three", b"weight=4")]
    assert [key and (key.name, key.weight, key.priority) for key in found] == [
        ("a", 2.5, "normal"),
        ("b", 3, "low"),
        ("key-3", 1, "high"),
        ("d", 1, "normal"),
    ]


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """The message is the cure."""
    file = tmp_path / "keys"
    file.write_text("alice:key\n")
    file.chmod(0o644)
    with pytest.raises(UsageError, match=f"chmod 600 {file}"):
        KeyRing(path=file)
    with pytest.raises(UsageError, match="No such file"):
        KeyRing(path=tmp_path / "none")


def test_keys_of_the_environment_are_several() -> None:
    """With commas between them, named or not."""
    given = keys_of_environment({"DURE_API_KEYS": "alice:one, two ,,bob:a:b"})
    ring = KeyRing(given)
    found = [ring.find(key) for key in (b"one", b"two", b"a:b", b"b")]
    assert [key and key.name for key in found] == ["alice", "key-2", "bob", None]


def test_keys_are_not_shown_by_settings() -> None:
    """A log of the settings tells no secret."""
    assert "secret" not in repr(ServerSettings(api_keys=("alice:secret-key",)))
    assert "secret" not in repr(parse_keys(["alice:secret-key"], "x"))
