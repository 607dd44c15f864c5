"""Pulling against a hub that breaks: after every fault the model comes whole, or the reason is told.

The hub speaks real HTTP on this machine; the files are real. What people see of it, and what
becomes of a process that is stopped, is in test_pull.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import httpx2
import numpy as np
import pytest

from dure.errors import DureError, ModelError, ResourceError, UsageError
from dure.model.store import Library, StoredModel, parse_name
from dure.model.store.download import Patience, retry_after
from dure.model.store.hub import Hub
from dure.model.store.pull import Pulled, pull
from dure.model.store.watching import SilentWatcher
from tests.support.hub_server import NEXT_COMMIT, Fault, HubServer, Repo

MODEL = (Path(__file__).parents[2] / "models" / "dure-demo.gguf").read_bytes()
SHA256 = hashlib.sha256(MODEL).hexdigest()
NAME = "hf:village/Goat-GGUF:Q4_0"
FILE = "village/Goat-GGUF/Goat-Q4_0.gguf"
MIDDLE = 3_000_000
AT_ONCE = {"Retry-After": "0"}
GOOD, NEW, OLD = "hf_good", "hf_new", "hf_old"


class Notes(SilentWatcher):
    """Keeps what a pull says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.said)


@dataclass
class Puller:
    """Pulls from the hub into a library of its own, without waiting long."""

    hub: HubServer
    directory: Path
    notes: Notes = field(default_factory=Notes)

    @property
    def library(self) -> Library:
        return Library(self.directory / "models")

    def __call__(
        self,
        name: str = NAME,
        *,
        token: str | None = None,
        tries: int = 4,
        timeout_s: float = 30,
        sha256: str | None = None,
        piece_bytes: int = 1 << 30,
        endpoint: str | None = None,
    ) -> Pulled:
        hub = Hub(endpoint or self.hub.url, token or False, self.directory / "hf")
        patience = Patience(tries, timeout_s, first_wait_s=0.01, piece_bytes=piece_bytes)
        return pull(parse_name(name), self.library, self.notes, patience, sha256, hub)

    def refusal(self, kind: type[DureError], name: str = NAME, **options: object) -> str:
        """The one line with which a pull must fail."""
        with pytest.raises(kind) as caught:
            self(name, **options)  # type: ignore[arg-type] # the test names them rightly
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def address(self, name: str = "goat.gguf", data: bytes = MODEL, etag: str = "") -> str:
        """A file at a plain address."""
        self.hub.plain[name] = data
        self.hub.etags[name] = etag
        return f"{self.hub.url}/plain/{name}"

    def ranges(self) -> list[str | None]:
        return [request.headers.get("range") for request in self.hub.downloads()]

    def left(self) -> list[str]:
        """What lies in the library, but for its locks."""
        root = self.directory / "models"
        files = [path for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts]
        return sorted(str(path.relative_to(root)) for path in files)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one repository of two kinds of one model."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer() as server:
        server.repos["village/Goat-GGUF"] = Repo(
            {"Goat-Q4_0.gguf": MODEL, "Goat-Q8_0.gguf": MODEL, "README.md": b"A goat."}
        )
        yield server


@pytest.fixture
def bring(hub: HubServer, tmp_path: Path) -> Puller:
    """Pulls from the hub."""
    return Puller(hub, tmp_path)


def content(pulled: Pulled) -> bytes:
    return pulled.model.path.read_bytes()


# ---------------------------------------------------------------- what comes


def test_a_pull_after_the_repository_has_changed_brings_the_new_file(
    bring: Puller, hub: HubServer
) -> None:
    """Another checksum at another commit replaces the file and its record."""
    assert content(bring()) == MODEL
    changed = MODEL[:-1] + bytes([MODEL[-1] ^ 1])
    hub.repos["village/Goat-GGUF"] = Repo({"Goat-Q4_0.gguf": changed}, commit=NEXT_COMMIT)
    pulled = bring()
    assert pulled.model.record is not None
    assert pulled.model.record.revision == NEXT_COMMIT
    assert content(pulled) == changed
    assert bring.left() == [FILE, f"{FILE}.json"]


def test_a_new_commit_with_the_same_file_brings_nothing(bring: Puller, hub: HubServer) -> None:
    """Somebody mended the README: the checksum decides."""
    assert bring().fresh
    hub.repos["village/Goat-GGUF"].commit = NEXT_COMMIT
    assert not bring().fresh
    assert len(hub.downloads()) == 1


def test_a_revision_lies_beside_the_newest(bring: Puller, hub: HubServer) -> None:
    """A pinned commit and the main branch do not overwrite each other."""
    commit = hub.repos["village/Goat-GGUF"].commit
    pinned = bring(f"hf:village/Goat-GGUF@{commit}:Q4_0")
    newest = bring()
    assert pinned.model.path != newest.model.path
    assert content(pinned) == content(newest) == MODEL
    found = bring.library.find(f"hf:village/Goat-GGUF@{commit}")
    assert found is not None
    assert found.path == pinned.model.path


def test_all_parts_of_a_split_model_come_and_open_as_one(bring: Puller, hub: HubServer) -> None:
    """`…-00001-of-00003.gguf` and its others, asked for by the quantization or by one part."""
    parts = split_model(bring.directory)
    hub.repos["village/Ox"] = Repo({f"Q8_0/{name}": data for name, data in parts.items()})
    pulled = bring("hf:village/Ox:Q8_0")
    assert [path.name for path in pulled.model.paths] == sorted(parts)
    assert [path.read_bytes() for path in pulled.model.paths] == [parts[n] for n in sorted(parts)]
    assert not bring(f"hf:village/Ox:Q8_0/{sorted(parts)[1]}").fresh
    (model,) = bring.library.models()
    assert (model.name, len(model.paths)) == ("hf:village/Ox:Q8_0", 3)


def test_a_split_pull_that_broke_off_keeps_its_whole_parts(bring: Puller, hub: HubServer) -> None:
    """Only the parts that are missing are asked for again."""
    parts = split_model(bring.directory)
    hub.repos["village/Ox"] = Repo(dict(parts))
    hub.faults.extend([Fault(), Fault(status=503, headers=AT_ONCE)])
    assert "503" in bring.refusal(ResourceError, "hf:village/Ox", tries=1)
    n_before = len(hub.downloads())
    assert bring("hf:village/Ox").fresh
    assert len(hub.downloads()) - n_before == 2


def split_model(directory: Path) -> dict[str, bytes]:
    """A model in three parts, as the `gguf` package splits one."""
    folder = directory / "split"
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "ox.gguf", "llama", split_max_tensors=1)
    for number in range(3):
        writer.add_tensor(f"blk.{number}.w", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_address_of_one_part_brings_all_of_them(bring: Puller) -> None:
    """A split model at a plain server is whole or not at all; no part's checksum is asked for."""
    parts = split_model(bring.directory)
    urls = [bring.address(name, data) for name, data in parts.items()]
    pulled = bring(urls[-1])
    assert [path.name for path in pulled.model.paths] == sorted(parts)
    line = bring.refusal(UsageError, urls[0], sha256=SHA256)
    assert "one of 3 parts" in line


def test_a_page_of_the_hub_is_a_name_too(bring: Puller) -> None:
    """The address that a browser shows for a file names that file."""
    page = "https://huggingface.co/village/Goat-GGUF/blob/main/Goat-Q4_0.gguf"
    assert content(bring(page)) == MODEL


def test_a_model_at_an_address_comes_with_its_checksum_noted(bring: Puller) -> None:
    """A plain file server needs no hub; a given SHA-256 is held against what comes."""
    pulled = bring(bring.address("a/goat.gguf"), sha256=SHA256)
    assert content(pulled) == MODEL
    assert str(pulled.model.path).endswith("/plain/a/goat.gguf")
    assert pulled.model.record is not None
    assert pulled.model.record.files[0].sha256 == SHA256
    line = bring.refusal(ModelError, bring.address("b/goat.gguf"), sha256="0" * 64)
    assert "twice" in line
    assert "0" * 64 in line


def test_an_address_with_a_password_is_not_written_down(bring: Puller, hub: HubServer) -> None:
    """The record and the notes name the address without password and query."""
    url = bring.address().replace("http://", "http://me:secret@") + "?key=secret"
    pulled = bring(url)
    assert "secret" not in f"{pulled.model}{bring.notes.said}"
    assert hub.downloads()[0].headers["authorization"].startswith("Basic ")


# ---------------------------------------------------------------- bad lines


def test_a_line_that_drops_in_the_middle_is_taken_up_there(bring: Puller, hub: HubServer) -> None:
    """Every new request asks only for what is still missing."""
    hub.faults.extend([Fault(after=2_000_000)] * 3)
    assert content(bring()) == MODEL
    assert bring.ranges() == [None, *(f"bytes={2_000_000 * i}-" for i in (1, 2, 3))]
    assert "again in" in bring.notes


def test_drops_with_new_bytes_in_between_are_never_too_many(bring: Puller, hub: HubServer) -> None:
    """Only tries in a row without a byte count."""
    hub.faults.extend([Fault(after=700_000)] * 9)
    assert content(bring(tries=2)) == MODEL


def test_a_very_large_file_is_asked_for_in_pieces(bring: Puller) -> None:
    """No answer is longer than what content networks send at once; the pieces make the whole."""
    assert content(bring(piece_bytes=3_000_000)) == MODEL
    assert bring.ranges() == ["bytes=0-2999999", "bytes=3000000-5999999", "bytes=6000000-"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_overloaded_server_is_asked_again_after_the_time_it_names(
    bring: Puller, hub: HubServer, status: int
) -> None:
    """Listing and download alike."""
    hub.api_faults.append(Fault(status=status, headers=AT_ONCE))
    hub.faults.append(Fault(status=status, headers=AT_ONCE))
    assert content(bring()) == MODEL
    assert [line for line in bring.notes.said if f"{status}: again in 0 s" in line] != []
    assert len(bring.notes.said) == 2


@pytest.mark.parametrize("when", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    bring: Puller, hub: HubServer, when: str
) -> None:
    """A long Retry-After, in seconds or as a date, is told instead."""
    hub.faults.append(Fault(status=429, headers={"Retry-After": when}))
    line = bring.refusal(ResourceError)
    assert "429" in line
    assert "try again then" in line


def test_a_server_that_stays_away_is_given_up_and_the_beginning_is_kept(
    bring: Puller, hub: HubServer
) -> None:
    """After so many tries without a new byte the error says how to go on, and the next pull does."""
    hub.faults.append(Fault(after=MIDDLE))
    hub.faults.extend([Fault(status=503, headers=AT_ONCE)] * 2)
    line = bring.refusal(ResourceError, tries=2)
    assert "503, 2 times" in line
    assert "goes on from 3.0 MB" in line
    hub.faults.clear()
    assert content(bring()) == MODEL
    assert bring.ranges()[-1] == f"bytes={MIDDLE}-"


def test_a_line_on_which_nothing_comes_is_taken_for_lost(bring: Puller, hub: HubServer) -> None:
    """The time-out bounds the silence; then the download goes on with a new connection."""
    hub.faults.append(Fault(after=MIDDLE, hold=True))
    assert content(bring(timeout_s=1)) == MODEL
    assert "nothing comes" in bring.notes


def test_wrong_bytes_are_deleted_told_and_fetched_once_more(bring: Puller, hub: HubServer) -> None:
    """The checksum of the hub's listing decides."""
    hub.faults.append(Fault(spoil=True))
    assert content(bring()) == MODEL
    assert "wrong checksum" in bring.notes


def test_bytes_that_are_wrong_twice_are_not_kept(bring: Puller, hub: HubServer) -> None:
    """No file and no part of it stays; the error says whose fault it may be."""
    hub.faults.extend([Fault(spoil=True)] * 2)
    line = bring.refusal(ModelError)
    assert "twice" in line
    assert SHA256 in line
    assert bring.left() == [f"{FILE}.pull.json"]


def test_a_part_that_was_spoilt_on_the_disk_is_found_out(bring: Puller, hub: HubServer) -> None:
    """What an earlier pull has left is read again: a flipped bit there costs one more download."""
    hub.faults.append(Fault(after=MIDDLE))
    bring.refusal(ResourceError, tries=1)
    part = bring.directory / "models" / f"{FILE}.part"
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert content(bring()) == MODEL
    assert "wrong checksum" in bring.notes


def test_a_server_that_cannot_go_on_in_the_middle_sends_it_all_again(
    bring: Puller, hub: HubServer
) -> None:
    """200 instead of 206 is not appended."""
    hub.faults.extend([Fault(after=MIDDLE), Fault(ignore_range=True)])
    assert content(bring()) == MODEL
    assert "from the beginning" in bring.notes


def test_a_server_that_never_comes_to_the_end_is_given_up(bring: Puller, hub: HubServer) -> None:
    """Beginning again and again is bounded too."""
    hub.faults.extend([Fault(after=MIDDLE), Fault(ignore_range=True)] * 20)
    assert "4 times in a row" in bring.refusal(ResourceError, tries=4)


def test_a_file_at_an_address_that_changes_between_two_tries_begins_anew(
    bring: Puller, hub: HubServer
) -> None:
    """If-Range with the ETag of the beginning: the two halves are never of two files."""
    url = bring.address(etag='"one"')
    hub.faults.append(Fault(after=MIDDLE))
    bring.refusal(ResourceError, url, tries=1)
    changed = MODEL[:-1] + bytes([MODEL[-1] ^ 1])
    bring.address(data=changed, etag='"two"')
    assert content(bring(url)) == changed
    assert hub.downloads()[1].headers["if-range"] == '"one"'
    assert "changed on the server" in bring.notes


def test_a_file_at_an_address_that_is_still_the_same_goes_on(bring: Puller, hub: HubServer) -> None:
    """The ETag that a stopped pull has noted lets the next one use its beginning."""
    url = bring.address(etag='"one"')
    hub.faults.append(Fault(after=MIDDLE))
    bring.refusal(ResourceError, url, tries=1)
    assert content(bring(url)) == MODEL
    assert bring.ranges() == [None, f"bytes={MIDDLE}-"]


def test_the_beginning_of_a_file_without_etag_or_checksum_is_not_trusted(
    bring: Puller, hub: HubServer
) -> None:
    """Where nothing tells that it is the same file, a pull begins anew."""
    url = bring.address()
    hub.faults.append(Fault(after=MIDDLE))
    bring.refusal(ResourceError, url, tries=1)
    assert content(bring(url)) == MODEL
    assert bring.ranges() == [None, None]


def test_a_body_without_its_length_is_taken_to_its_end(bring: Puller, hub: HubServer) -> None:
    """A server that tells no size has said all when it closes the connection."""
    hub.faults.append(Fault(headers={"Content-Length": "", "Connection": "close"}))
    assert content(bring(bring.address())) == MODEL


def test_an_answer_that_is_no_hubs_is_told(bring: Puller, hub: HubServer) -> None:
    """HF_ENDPOINT may point anywhere."""
    hub.api_faults.append(Fault(status=200))
    assert "check HF_ENDPOINT" in bring.refusal(ResourceError)


# ---------------------------------------------------------------- refusals


def test_a_gated_repository_is_told_with_its_page_and_the_token(
    bring: Puller, hub: HubServer
) -> None:
    """Without a token: accept and set one; with one that has not accepted: accept; then it comes."""
    hub.repos["village/Goat-GGUF"].gated = True
    hub.tokens.add(NEW)
    page = f"{hub.url}/village/Goat-GGUF"
    line = bring.refusal(ResourceError)
    assert f"accept its terms at {page}, then set HF_TOKEN" in line
    line = bring.refusal(ResourceError, token=NEW)
    assert f"accept its terms at {page} with the account of your HF_TOKEN" in line
    assert content(bring(token=GOOD)) == MODEL


def test_the_token_goes_to_the_hub_only(bring: Puller, hub: HubServer) -> None:
    """The content network of another origin never sees it, nor does a plain address."""
    bring(token=GOOD)
    bring(bring.address(), token=GOOD)
    carried = [request for request in hub.requests if "authorization" in request.headers]
    assert {request.to for request in carried} == {"hub"}
    assert [request for request in hub.downloads() if request in carried] == []
    assert len(hub.downloads()) == 2


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("hf:village/Sheep-GGUF", None, ("Sheep", "check the name", "set HF_TOKEN")),
        ("hf:village/Sheep-GGUF", GOOD, ("check the name", "your HF_TOKEN")),
        ("hf:village/Goat-GGUF@v9:Q4_0", None, ("no revision v9",)),
        ("hf:village/Goat-GGUF:Q5_K_M", None, ("no Q5_K_M", ":Q4_0 (", ":Q8_0 (")),
        ("hf:village/Goat-GGUF:Goat-Q2.gguf", None, ("no Goat-Q2.gguf", ":Q4_0")),
        ("hf:village/..Goat", None, ("hf:owner/repository",)),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    bring: Puller, name: str, token: str | None, words: tuple[str, ...]
) -> None:
    """A repository, a revision, a quantization, a file."""
    line = bring.refusal(UsageError, name, token=token)
    assert [word for word in words if word not in line] == []


def test_a_token_that_the_hub_refuses_is_told(bring: Puller) -> None:
    """An expired token fails even for public models: the cure is to unset it."""
    line = bring.refusal(ResourceError, token=OLD)
    assert "set HF_TOKEN to a valid one" in line
    assert "unset it" in line
    assert OLD not in line


def test_a_repository_without_gguf_says_so(bring: Puller, hub: HubServer) -> None:
    """Weights in another format are no model for us."""
    hub.repos["village/Goat"] = Repo({"model.safetensors": b"x", "mmproj-F16.gguf": b"x"})
    assert "with GGUF in its name" in bring.refusal(ModelError, "hf:village/Goat")


def test_a_file_that_is_no_model_is_not_kept(bring: Puller) -> None:
    """A web page where a model should be: what it is, and nothing stays."""
    url = bring.address(data=b"<!DOCTYPE html><html>log in first</html>")
    line = bring.refusal(ModelError, url)
    assert "is no model" in line
    assert "web page" in line
    assert bring.left() == []


def test_what_is_right_but_cannot_be_read_is_kept(bring: Puller, hub: HubServer) -> None:
    """The checksum is the repository's: a newer dure may read it, and it is not downloaded again."""
    hub.repos["village/New"] = Repo({"new.gguf": b"GGUF" + b"\t\0\0\0" + bytes(16)})
    for _ in range(2):
        line = bring.refusal(ModelError, "hf:village/New")
        assert "cannot read it" in line
        assert "version 9" in line
    assert len(hub.downloads()) == 1


def test_an_address_that_leads_in_a_circle_or_nowhere_is_told(
    bring: Puller, hub: HubServer
) -> None:
    """Redirects without end, and a redirect to what no client speaks."""
    url = bring.address()
    hub.faults.extend([Fault(status=302, headers={"Location": url})] * 40)
    assert "leads nowhere" in bring.refusal(ResourceError, url)
    hub.faults.clear()
    hub.faults.append(Fault(status=302, headers={"Location": "gopher://x/goat.gguf"}))
    assert "leads nowhere" in bring.refusal(ResourceError, url)
    assert "no address" in bring.refusal(UsageError, "hf:a/b", endpoint="nonsense")


def test_an_address_that_is_not_there_is_told(bring: Puller, hub: HubServer) -> None:
    """404 is final: it is not asked again."""
    line = bring.refusal(ResourceError, f"{hub.url}/plain/nothing.gguf")
    assert "nothing.gguf is not there: check the address" in line
    assert len(hub.downloads()) == 1


def test_a_path_in_a_listing_does_not_leave_the_models_directory(
    bring: Puller, hub: HubServer
) -> None:
    """A hostile repository cannot write elsewhere."""
    hub.repos["village/Wolf"] = Repo({"../../../../wolf-Q4_0.gguf": MODEL})
    assert "no path that dure writes to" in bring.refusal(UsageError, "hf:village/Wolf")
    assert list(bring.directory.rglob("wolf*")) == []


# ---------------------------------------------------------------- the hub's cache


def cached(bring: Puller, data: bytes) -> Path:
    """The demo model's place in the hub's cache, with these bytes in it."""
    blob = bring.directory / "hf" / "models--village--Goat-GGUF" / "blobs" / SHA256
    blob.parent.mkdir(parents=True)
    blob.write_bytes(data)
    return blob


def test_a_file_in_the_hubs_cache_is_shared_and_not_downloaded(
    bring: Puller, hub: HubServer
) -> None:
    """The same bytes under two names; deleting ours leaves the cache's."""
    blob = cached(bring, MODEL)
    pulled = bring()
    assert pulled.model.path.samefile(blob)
    assert pulled.reused_bytes == len(MODEL)
    assert hub.downloads() == []
    bring.library.remove(pulled.model)
    assert blob.read_bytes() == MODEL


def test_a_damaged_file_in_the_hubs_cache_is_not_used(bring: Puller, hub: HubServer) -> None:
    """Its checksum is computed before it is believed."""
    cached(bring, MODEL[:-1] + b"\0")
    pulled = bring()
    assert "damaged" in bring.notes
    assert content(pulled) == MODEL
    assert pulled.reused_bytes == 0
    assert len(hub.downloads()) == 1


# ---------------------------------------------------------------- records


def test_the_record_says_all_that_is_needed_to_bring_it_again(bring: Puller) -> None:
    """Name, address, commit, checksum, size, time and the facts of the header, as plain JSON."""
    path = bring().model.path
    record = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert record["name"] == NAME
    assert record["revision"] == "a" * 40
    assert record["files"][0] == {
        "path": FILE,
        "size_bytes": len(MODEL),
        "sha256": SHA256,
        "etag": None,
    }
    assert record["facts"]["architecture"] == "qwen3"
    assert record["pulled_at"].endswith("+00:00")


def test_a_record_that_was_spoilt_leaves_a_model_put_there_by_hand(bring: Puller) -> None:
    """The file itself can still be used, by its path below the directory."""
    path = bring().model.path
    path.with_name(f"{path.name}.json").write_text("{")
    (model,) = bring.library.models()
    assert (model.name, model.record) == (FILE, None)
    assert isinstance(bring.library.find(FILE), StoredModel)


@pytest.mark.parametrize(
    ("retry", "date", "seconds"),
    [
        ("7", "", 7.0),
        ("Wed, 02 Jan 1980 03:05:00 GMT", "Wed, 02 Jan 1980 03:04:00 GMT", 60.0),
        ("Wed, 02 Jan 1980 03:04:00 GMT", "Wed, 02 Jan 1980 03:05:00 GMT", 0.0),
        ("soon", "", None),
    ],
)
def test_a_pause_that_a_server_asks_for_is_counted_by_its_own_clock(
    retry: str, date: str, seconds: float | None
) -> None:
    """A date to wait for is compared with the date of the answer, not with this machine's clock."""
    answer = httpx2.Response(429, headers={"retry-after": retry, "date": date})
    assert retry_after(answer) == seconds
