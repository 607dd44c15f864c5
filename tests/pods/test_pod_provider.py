"""RunPod's API as dure speaks it: what is repeated, what is not, what each answer means, and the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.errors import UsageError
from dure.pods.emulator.faults import ALWAYS, Fault
from dure.pods.keys import AccountKey, account_key
from dure.pods.money import Money
from dure.pods.provider import LostAnswerError, NetworkVolume, PodError, PodStatus
from dure.pods.runpod import RunPod, endpoint
from dure.pods.runpod_values import pod_of
from tests.support.pod_accounts import Renting, renting


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Renting]:
    with renting(tmp_path) as home:
        yield home


def test_too_many_requests_wait_as_long_as_they_are_told(home: Renting) -> None:
    """`Retry-After` is obeyed, for a creation too, as nothing was made."""
    home.account.faults.set({Fault.TOO_MANY: 3})
    home.provider.pods()
    assert home.waited == [1.0, 1.0, 1.0]
    home.account.faults.set({Fault.TOO_MANY: 1})
    home.up()
    assert len(home.account.pods) == 1


def test_it_does_not_wait_for_ever(home: Renting) -> None:
    """The fifth refusal is told."""
    home.account.faults.set({Fault.TOO_MANY: ALWAYS})
    with pytest.raises(PodError, match="too many requests") as caught:
        home.provider.pods()
    assert caught.value.status == 429


def test_a_reading_is_repeated_and_a_change_is_not(home: Renting) -> None:
    """A broken provider may have made the pod."""
    home.account.faults.set({Fault.BROKEN: 2})
    assert home.provider.pods() == []
    home.account.faults.set({Fault.BROKEN: 1})
    order = home.order()
    home.account.faults.set({Fault.BROKEN: 1})
    with pytest.raises(LostAnswerError, match="may have been done"):
        home.provider.create(order.spec("dure-x-000000", "ssh-ed25519 AAAA", home.server.url))
    assert home.server.requests.count("POST /v2/pods") == 1


def test_nobody_there_means_that_nothing_was_asked_for() -> None:
    """A refused connection is no lost answer."""
    nobody = RunPod(AccountKey("some-secret", "a test"), "http://127.0.0.1:9", lambda _s: None)
    with pytest.raises(PodError, match="nothing was asked for") as caught:
        nobody.terminate("abc")
    assert not isinstance(caught.value, LostAnswerError)
    nobody.close()


def test_no_error_has_the_key(home: Renting) -> None:
    """Not even if the provider repeats it."""
    secret = "rpa_secret-that-is-repeated"  # noqa: S105  # of this test alone
    stranger = RunPod(AccountKey(secret, "a test"), home.server.url, home.wait)
    with pytest.raises(PodError, match="the key is not accepted") as caught:
        stranger.pods()
    assert secret not in f"{caught.value} {caught.value!r} {AccountKey(secret, 'here')!r}"
    stranger.close()


def test_a_listing_that_is_none_is_not_an_empty_one() -> None:
    """A pod that cannot be read is an error: it may cost money."""
    with pytest.raises(PodError, match="cannot be read"):
        pod_of({"id": "a", "name": "b", "status": "RUNNING"})
    odd = pod_of({"id": "a", "name": "b", "status": "HIBERNATING", "cost": 0.5})
    assert odd.status is PodStatus.UNKNOWN
    assert not odd.status.is_over
    assert odd.hourly == Money.of("0.5")


def test_an_id_cannot_be_a_path(home: Renting) -> None:
    """Nothing that a provider tells leads to another request than was meant."""
    with pytest.raises(PodError, match="no id of a pod"):
        home.provider.terminate("../network-volumes/abc")


def test_the_key_is_sent_over_tls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base URL without it may be this machine."""
    monkeypatch.setenv("RUNPOD_API_BASE_URL", "https://api.example/v2/")
    assert endpoint() == "https://api.example"
    monkeypatch.setenv("RUNPOD_API_BASE_URL", "http://127.0.0.1:8000")
    assert endpoint() == "http://127.0.0.1:8000"
    for url in ("http://api.example", "http://127.0.0.1.example", "ftp://127.0.0.1"):
        monkeypatch.setenv("RUNPOD_API_BASE_URL", url)
        with pytest.raises(UsageError, match="use https://"):
            endpoint()


def test_the_key_is_found_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment counts before a file of one's own, and that before the provider's."""
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    monkeypatch.delenv("DURE_POD_KEY_FILE", raising=False)
    with pytest.raises(UsageError, match="there is no key"):
        account_key(tmp_path)
    theirs = tmp_path / ".runpod" / "config.toml"
    theirs.parent.mkdir()
    theirs.write_text('[default]\napi_key = "key-of-theirs"\n')
    theirs.chmod(0o600)
    assert account_key(tmp_path).secret == "key-of-theirs"  # noqa: S105
    own = tmp_path / "key"
    own.write_text("key-of-a-file\n")
    own.chmod(0o600)
    monkeypatch.setenv("DURE_POD_KEY_FILE", str(own))
    assert account_key(tmp_path).secret == "key-of-a-file"  # noqa: S105
    own.chmod(0o640)
    with pytest.raises(UsageError, match="can be read by other users"):
        account_key(tmp_path)
    monkeypatch.setenv("RUNPOD_API_KEY", "key-of-the-environment")
    assert account_key(tmp_path).secret == "key-of-the-environment"  # noqa: S105


def test_a_pods_own_key_is_good_for_that_pod_alone(home: Renting) -> None:
    """As the provider's are: another pod is forbidden."""
    one, other = home.up(home.order("one")), home.up(home.order("other"))
    scoped = RunPod(AccountKey(home.pod(one).key, "a pod"), home.server.url, home.wait)
    with pytest.raises(PodError) as caught:
        scoped.terminate(other.pod_id)
    assert caught.value.status == 403
    scoped.terminate(one.pod_id)
    assert [pod.name for pod in home.account.billing()] == [other.label]
    scoped.close()


def test_network_volumes_are_listed(home: Renting) -> None:
    """They cost money with and without a pod."""
    volume = {"id": "nv1", "name": "models", "size": 100, "dataCenter": "EMU-1", "type": "x"}
    home.account.volumes.by_id["nv1"] = volume
    assert home.provider.network_volumes() == [NetworkVolume("nv1", "models", 100, "EMU-1", "x")]


def test_a_log_goes_on_where_it_was(home: Renting) -> None:
    """Each line has an id, from which the next reading goes on."""
    entry = home.up()
    assert list(home.provider.logs(entry.pod_id)) == [("1", "the container has started")]
    assert list(home.provider.logs(entry.pod_id, after="1")) == []
