"""Parts of tuning on a pod that need no pod: what travels, what is fetched there, how dure comes there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dure.cluster.add.package import Package
from dure.errors import ResourceError, UsageError
from dure.tune.loop.folder import BASE_CONTENT, check_same
from dure.tune.pod.code import digest, find_script, install_script, pod_facts, requirement
from dure.tune.pod.fetching import fetched
from dure.tune.pod.gathering import luggage_of
from dure.tune.pod.job import PodJob, settings_from
from dure.tune.settings import StateFormat, TuneMethod, TuneSettings
from tests.support.hub_server import HubServer, Repo
from tests.support.tiny_models import chats, write_lines

FOLDER = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"read me"}


@pytest.fixture
def settings(tmp_path: Path) -> TuneSettings:
    base = tmp_path / "Qwen"
    base.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "old.bin", ".hidden"):
        (base / name).write_text(name)
    data = write_lines(tmp_path / "chats.jsonl", *chats(3))
    return TuneSettings(base=base, data=(str(data),), state=StateFormat.EIGHT_BIT)


def test_a_base_travels_with_what_tuning_reads_of_it(settings: TuneSettings) -> None:
    """Not in other formats; of a new model's base the weights stay here."""
    luggage = luggage_of(settings, base_is_here=True)
    assert sorted(luggage.files) == [
        "given/base/Qwen/config.json",
        "given/base/Qwen/model.safetensors",
        "given/base/Qwen/tokenizer.json",
        "given/data/0/chats.jsonl",
    ]
    assert luggage.names["given/base/Qwen"] == str(settings.base)
    assert luggage.settings.data == ("given/data/0/chats.jsonl",)
    scratch = replace(settings, method=TuneMethod.SCRATCH, config=settings.base / "config.json")
    files = luggage_of(scratch, base_is_here=True).files
    assert "given/config/config.json" in files
    assert "given/base/Qwen/model.safetensors" not in files


def test_settings_come_back_from_what_is_written(settings: TuneSettings) -> None:
    assert settings_from(settings.plain()) == settings


def test_a_base_that_the_pod_fetched_is_known_by_its_content_at_home() -> None:
    """A run goes on with the folder of the same model; of files that lie here the name counts too."""
    there = {"BASE": "hf:me/tiny", BASE_CONTENT: "1", "--lr": 1.0}
    check_same(there, {**there, "BASE": "tiny"}, "out")
    with pytest.raises(UsageError, match="begun with BASE hf:me/tiny"):
        check_same(there, {**there, "BASE": "tiny", BASE_CONTENT: "2"}, "out")
    with pytest.raises(UsageError, match="begun with BASE tiny"):
        check_same({**there, "BASE": "tiny"}, {**there, "BASE": "other"}, "out")


def test_a_folder_of_the_hub_is_fetched_once_with_the_token_that_was_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, run = tmp_path / "state", tmp_path / "dure-tune" / "run"
    state.mkdir()
    run.mkdir(parents=True)
    monkeypatch.setenv("DURE_POD_STATE", str(state))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(run)
    told: list[str] = []
    with HubServer() as hub:
        hub.repos["me/tiny"] = Repo(FOLDER, gated=True)
        job = PodJob(
            attempt="1", settings={}, names={}, identity={}, hub_base="hf:me/tiny", hub=hub.url
        )
        with pytest.raises((UsageError, ResourceError)):
            fetched(job, told.append)
        told.clear()
        (state / "hf-token").write_text("hf_good")
        path = fetched(job, told.append)
        assert path.name == "tiny"
        assert sorted(one.name for one in path.iterdir()) == ["config.json", "model.safetensors"]
        n_requests = len(hub.requests)
        assert fetched(job, told.append) == path
        assert len(hub.requests) == n_requests + 1, "the list alone"
    assert told == ["hf:me/tiny is fetched from the hub: 9 B"]


def test_a_python_with_this_very_code_is_used_as_it_is(tmp_path: Path) -> None:
    """Of other code it is not: then dure is installed, with what pip noted of the one here."""
    programs = tmp_path / "bin"
    programs.mkdir()
    wrapper = programs / "python3"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "DURE_POD_VOLUME": str(tmp_path)}
    script = find_script("/workspace")
    for text, python in ((script, "python3"), (script.replace(digest(), "another"), "")):
        done = subprocess.run(
            ["sh", "-c", text], env=environment, capture_output=True, text=True, check=True
        )
        facts = pod_facts(done.stdout)
        assert facts.python == python
        assert facts.base == f"{tmp_path}/dure-tune"


def test_what_dure_is_installed_from_brings_what_tuning_needs(tmp_path: Path) -> None:
    wheel = tmp_path / "dure-0.1.0-py3-none-any.whl"
    wheel.touch()
    assert requirement(Package(words="dure==0.1.0")) == "'dure[tune]==0.1.0'"
    assert requirement(Package(path=wheel)) == f'"$base"/brought/{wheel.name}"[tune]"'
    assert requirement(Package(path=tmp_path)) == '"$base"/brought/dure"[tune]"'
    script = install_script(Package(words="dure==0.1.0"), "/workspace")
    subprocess.run(["sh", "-n", "-c", script], check=True)
    assert "--system-site-packages" in script, "so that the image's torch is used"
