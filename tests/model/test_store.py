"""Names of models, what they mean, and the models on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.errors import ModelError, UsageError
from dure.model.store import HubName, Library, UrlName, parse_name, short_names
from dure.model.store.choosing import RemoteFile, choose, tag_of, variants_of
from dure.model.store.names import near_names
from tests.support.dure_process import Dure, as_json, error_line
from tests.support.hub_server import HubServer, Repo

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
NAME = "hf:village/Goat-GGUF:Q4_0"
FILE = "village/Goat-GGUF/Goat-Q4_0.gguf"


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:a/b", HubName("a/b")),
        ("hf:a/b:Q4_K_M", HubName("a/b", "Q4_K_M")),
        ("hf:a/b:dir/x.gguf", HubName("a/b", "dir/x.gguf")),
        ("hf:a/b@v1:Q8_0", HubName("a/b", "Q8_0", "v1")),
        ("a/b:Q8_0", HubName("a/b", "Q8_0")),
        ("hf.co/a/b:Q8_0", HubName("a/b", "Q8_0")),
        ("https://huggingface.co/a/b", HubName("a/b")),
        ("https://huggingface.co/a/b/resolve/main/x.gguf", HubName("a/b", "x.gguf")),
        ("https://huggingface.co/a/b/blob/v1/d/x.gguf", HubName("a/b", "d/x.gguf", "v1")),
        ("https://example.org/x.gguf?a=b", UrlName("https://example.org/x.gguf?a=b")),
        ("qwen3:4b", HubName("unsloth/Qwen3-4B-GGUF", "Q4_K_M")),
        ("Qwen3:4B", HubName("unsloth/Qwen3-4B-GGUF", "Q4_K_M")),
        ("qwen3:4b:Q8_0", HubName("unsloth/Qwen3-4B-GGUF", "Q8_0")),
    ],
)
def test_a_name_means_what_it_says(text: str, name: object) -> None:
    """Short names, hf: names with and without a choice, pages of the hub, addresses."""
    assert parse_name(text) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("qwen3:5b", ("qwen3:5b", "did you mean", "qwen3:4b")),
        ("qven3:4b", ("qven3:4b", "did you mean", "qwen3:4b")),
        ("qwen3", ("did you mean", "qwen3:8b")),
        ("completely-else", ("no model of this name", "dure ls")),
        ("", ("no model of this name",)),
        ("hf:one", ("hf:owner/repository",)),
        ("hf:../..", ("hf:owner/repository",)),
        ("hf:a/b:", ("hf:owner/repository",)),
        ("hf:a/b/c", ("hf:owner/repository",)),
        ("https://example.org/page", ("ends in .gguf",)),
        ("https://", ("no address",)),
        ("https://example.org:port/x.gguf", ("no address",)),
        ("https://huggingface.co/a/b/tree/main", ("hf:owner/repository",)),
    ],
)
def test_a_name_that_is_none_is_told_with_near_ones(text: str, words: Sequence[str]) -> None:
    """The line has what was written and what could be."""
    with pytest.raises(UsageError) as caught:
        parse_name(text)
    assert [word for word in words if word not in str(caught.value)] == []


def test_near_names_are_few_and_the_nearest() -> None:
    """Three at most, of the same family if there is one."""
    assert near_names("qwen3:5b")[:2] == ["qwen3:8b", "qwen3:4b"]
    assert near_names("qven3:4b")[0] == "qwen3:4b"
    assert len(near_names("qwen3")) == len(near_names("gemma")) == 3
    assert near_names("completely-else") == []


@given(st.text())
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    """Nothing else happens, whatever is typed; and a hub's name is read back from its own text."""
    for written in (text, f"hf:{text}", f"https://{text}"):
        try:
            name = parse_name(written)
        except UsageError:
            continue
        if isinstance(name, HubName):
            assert parse_name(str(name)) == name


def test_every_short_name_stands_for_a_repository_with_a_kind() -> None:
    """The table has no name that would have to be asked back about."""
    assert {"qwen3:0.6b", "qwen3:30b-a3b", "gpt-oss:20b", "gemma3:4b"} <= set(short_names())
    for full in short_names().values():
        name = parse_name(full)
        assert isinstance(name, HubName)
        assert tag_of(f"x-{name.wanted}.gguf") == name.wanted


# ---------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("path", "tag"),
    [
        ("Qwen3-0.6B-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-2-7b.Q4_0.gguf", "Q4_0"),
        ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "Q4_K_M"),
        ("Q8_0/Big-Q8_0-00001-of-00003.gguf", "Q8_0"),
        ("BF16/big-00001-of-00002.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Qwen3-0.6B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("x-IQ4_NL.gguf", "IQ4_NL"),
        ("x-F16.gguf", "F16"),
        ("model.gguf", ""),
        ("Qwen3-4B.gguf", ""),
    ],
)
def test_the_quantization_is_read_off_the_file_name(path: str, tag: str) -> None:
    """As people who publish models write it."""
    assert tag_of(path) == tag


def files(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path, 1_000_000_000) for path in paths]


def test_parts_make_one_model_and_what_is_no_model_makes_none() -> None:
    """Projectors and importance matrices are left out, and a split model with a part missing."""
    found = variants_of(
        files(
            "x-Q8_0-00002-of-00002.gguf",
            "x-Q8_0-00001-of-00002.gguf",
            "x-Q4_0-00001-of-00002.gguf",
            "mmproj-x-F16.gguf",
            "imatrix.gguf",
            "README.md",
        )
    )
    (variant,) = found
    assert (variant.tag, variant.size_bytes) == ("Q8_0", 2_000_000_000)
    assert variant.files[0].path == "x-Q8_0-00001-of-00002.gguf"


@pytest.mark.parametrize(
    ("paths", "wanted", "chosen"),
    [
        (("x-Q8_0.gguf", "x-Q4_K_M.gguf", "x-Q4_0.gguf"), None, "x-Q4_K_M.gguf"),
        (("x-Q8_0.gguf", "x-Q4_0.gguf"), None, "x-Q4_0.gguf"),
        (("x-Q2_K.gguf", "x-Q8_0.gguf"), None, "x-Q8_0.gguf"),
        (("anything.gguf",), None, "anything.gguf"),
        (("x-Q8_0.gguf", "x-Q4_0.gguf"), "q8_0", "x-Q8_0.gguf"),
        (("x-Q8_0.gguf", "d/x-Q4_0.gguf"), "x-Q4_0.gguf", "d/x-Q4_0.gguf"),
    ],
)
def test_the_kind_that_is_meant_is_chosen(
    paths: tuple[str, ...], wanted: str | None, chosen: str
) -> None:
    """By name in any case, by file, or the one that most people want."""
    assert choose("x", files(*paths), wanted).files[0].path == chosen


@pytest.mark.parametrize(
    ("paths", "wanted", "words"),
    [
        (("x-Q8_0.gguf",), "Q4_0", ("no Q4_0", ":Q8_0 (1.0 GB)")),
        (("x-IQ1_S.gguf", "x-IQ2_S.gguf"), None, ("many kinds", ":IQ1_S", ":IQ2_S")),
        (("a-Q8_0.gguf", "b-Q8_0.gguf"), "Q8_0", ("several", ":a-Q8_0.gguf", ":b-Q8_0.gguf")),
    ],
)
def test_a_choice_that_cannot_be_made_lists_what_there_is(
    paths: tuple[str, ...], wanted: str | None, words: tuple[str, ...]
) -> None:
    """Every kind with its size, or every file."""
    with pytest.raises(UsageError) as caught:
        choose("x", files(*paths), wanted)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_repository_without_a_model_is_an_error_of_the_model() -> None:
    """There is nothing to choose from."""
    with pytest.raises(ModelError, match="no GGUF"):
        choose("x", files("model.safetensors"), None)


# ---------------------------------------------------------------- on this machine


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub with the demo model in it."""
    with HubServer() as server:
        server.repos["village/Goat-GGUF"] = Repo({"Goat-Q4_0.gguf": DEMO.read_bytes()})
        yield server


@pytest.fixture
def dure(tmp_path: Path, hub: HubServer) -> Iterator[Dure]:
    """The program, with a models directory of its own."""
    program = Dure(tmp_path / "cache")
    program.environment |= {
        "DURE_MODELS": str(tmp_path / "models"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "NO_PROXY": "127.0.0.1",
    }
    yield program
    assert program.left_behind() == []


def place(tmp_path: Path, name: str) -> Path:
    """Put the demo model into the models directory by hand."""
    path = tmp_path / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(DEMO, path)
    return path


def test_an_empty_machine_says_how_to_get_a_model(dure: Dure) -> None:
    """`ls` prints nothing as data and the next command as help."""
    done = dure("ls")
    assert (done.returncode, done.stdout) == (0, "")
    assert "dure pull qwen3:0.6b" in done.stderr
    assert as_json(dure("ls", "--json")) == []


def test_ls_shows_what_was_pulled_and_what_was_put_there(dure: Dure, tmp_path: Path) -> None:
    """Name, size, quantization, parameters, context, and when; as a table and as data."""
    place(tmp_path, "mine/goat.gguf")
    assert dure("pull", NAME).returncode == 0
    rows = {row["name"]: row for row in as_json(dure("ls", "--json"))}
    assert set(rows) == {NAME, "mine/goat.gguf"}
    assert rows[NAME]["quantization"] == "Q4_0"
    assert rows[NAME]["context_length"] == rows["mine/goat.gguf"]["context_length"] == 2048
    assert rows[NAME]["size_bytes"] == DEMO.stat().st_size
    assert rows[NAME]["parameters"] == rows["mine/goat.gguf"]["parameters"] > 1_000_000
    lines = dure("ls").stdout.splitlines()
    assert lines[0].split() == ["name", "size", "quantization", "parameters", "context", "pulled"]
    assert "7.4 MB" in lines[1]
    assert "put there by hand" in lines[2]


def test_what_was_put_there_is_found_with_and_without_its_ending(tmp_path: Path) -> None:
    """So is what `dure import` puts there."""
    placed = [place(tmp_path, "goat-F16.gguf"), place(tmp_path, "mine/goat.gguf")]
    library = Library(tmp_path / "models")
    for text, path in zip(("goat-F16", "mine/goat"), placed, strict=True):
        for name in (text, f"{text}.gguf"):
            model = library.find(name)
            assert model is not None
            assert model.path == path


def test_a_damaged_model_is_listed_as_one(dure: Dure, tmp_path: Path) -> None:
    """One bad file does not keep the others from being listed."""
    place(tmp_path, "a.gguf").write_bytes(b"GGUF")
    place(tmp_path, "b.gguf")
    out = dure("ls").stdout.splitlines()
    assert "damaged" in out[1]
    assert "put there by hand" in out[2]


@pytest.mark.parametrize(
    "text", [NAME, "village/Goat-GGUF:q4_0", "hf:village/Goat-GGUF", "hf:village/goat-gguf"]
)
def test_a_pulled_model_answers_to_all_its_names(tmp_path: Path, text: str) -> None:
    """With and without hf:, in any case, and by its repository alone."""
    path = place(tmp_path, FILE)
    record = {"name": NAME, "source": "s", "files": [{"path": FILE}], "pulled_at": "2026-01-01"}
    path.with_name(f"{path.name}.json").write_text(json.dumps(record))
    found = Library(tmp_path / "models").find(text)
    assert found is not None
    assert found.path == path
    assert Library(tmp_path / "models").find("hf:village/Goat-GGUF:Q8_0") is None


def test_every_command_takes_a_models_name_for_its_file(dure: Dure) -> None:
    """show, cut and bench name the file that was found."""
    assert dure("pull", NAME).returncode == 0
    assert as_json(dure("show", NAME, "--json"))["files"][0].endswith(FILE)
    shards = as_json(dure("cut", NAME, "--ranks", 2, "--dry-run", "--json"))["shards"]
    assert shards[0]["path"].startswith("shards/Goat-Q4_0-rank0of2")


def test_a_path_comes_before_a_name(dure: Dure, tmp_path: Path) -> None:
    """A file that is there is taken, whatever it is called."""
    path = tmp_path / "qwen3:4b"
    shutil.copy(DEMO, path)
    assert as_json(dure("show", path, "--json"))["files"] == [str(path)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", NAME, "hi"), (NAME, f"`dure pull {NAME}`", "--pull")),
        (("chat", NAME), (NAME, f"`dure pull {NAME}`", "--pull")),
        (("show", NAME, "--here"), (NAME, f"`dure pull {NAME}`")),
        (("bench", "qwen3:4b"), ("qwen3:4b", "`dure pull qwen3:4b`")),
        (("run", "qwen3:5b", "hi"), ("qwen3:5b", "did you mean", "no file of this name")),
    ],
)
def test_a_model_that_is_missing_is_told_with_the_command_that_brings_it(
    dure: Dure, hub: HubServer, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Off a terminal nothing is pulled unasked."""
    done = dure(*arguments)
    line = error_line(done.stderr)
    assert [word for word in words if word not in line] == [], line
    assert done.returncode == 2
    assert hub.requests == []


def test_run_pulls_what_is_missing_where_it_is_told_to(dure: Dure, tmp_path: Path) -> None:
    """`--pull` needs no question; the answer follows."""
    done = dure("run", NAME, "Hello!", "--pull", "-n", 4, "--temp", 0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != ""
    assert (tmp_path / "models" / FILE).exists()


def test_run_asks_on_a_terminal_before_it_pulls(dure: Dure, hub: HubServer) -> None:
    """No is no; yes brings the model and the answer."""
    with dure.terminal("run", NAME, "Hello!", "-n", 4) as terminal:
        terminal.read_until("Pull it?")
        terminal.type("n\n")
        assert "dure pull" in terminal.read_all()
    assert hub.requests == []
    with dure.terminal("run", NAME, "Hello!", "-n", 4) as terminal:
        terminal.read_until("Pull it?")
        terminal.type("y\n")
        terminal.read_all()
        assert terminal.process.wait(60) == 0
    assert len(hub.downloads()) == 1


def test_rm_deletes_a_model_with_its_record_its_folders_and_its_shards(
    dure: Dure, tmp_path: Path
) -> None:
    """Another model and its shards of the same file name stay."""
    other = place(tmp_path, "other/Goat-Q4_0.gguf")
    other.write_bytes(DEMO.read_bytes() + b"\0" * 32)
    assert dure("pull", NAME).returncode == 0
    for model in (NAME, "other/Goat-Q4_0.gguf"):
        options = ("--ranks", 2, "--out", tmp_path / "cache" / "shards")
        assert dure("cut", model, *options).returncode == 0
    assert len(list((tmp_path / "cache" / "shards").glob("*.gguf"))) == 4
    (removed,) = as_json(dure("rm", NAME, "--yes", "--json"))
    assert (removed["name"], len(removed["shards"])) == (NAME, 2)
    assert len(list((tmp_path / "cache" / "shards").glob("*.gguf"))) == 2
    assert not (tmp_path / "models" / "village").exists()
    assert other.exists()


def test_rm_asks_on_a_terminal_and_needs_a_yes_elsewhere(dure: Dure, tmp_path: Path) -> None:
    """Nothing is deleted without one."""
    path = place(tmp_path, "goat.gguf")
    done = dure("rm", "goat.gguf")
    assert "say --yes" in error_line(done.stderr)
    with dure.terminal("rm", "goat.gguf") as terminal:
        assert "7.4 MB" in terminal.read_until("?")
        terminal.type("n\n")
        terminal.read_all()
    assert path.exists()
    with dure.terminal("rm", "goat.gguf") as terminal:
        terminal.read_until("?")
        terminal.type("y\n")
        assert "deleted goat.gguf" in terminal.read_all()
    assert not path.exists()


def test_rm_of_several_deletes_nothing_where_one_is_unknown(dure: Dure, tmp_path: Path) -> None:
    """All names are looked up before the first file is touched."""
    path = place(tmp_path, "goat.gguf")
    done = dure("rm", "goat.gguf", "nothing", "--yes")
    assert "nothing is not among the models" in error_line(done.stderr)
    assert done.returncode == 2
    assert path.exists()
