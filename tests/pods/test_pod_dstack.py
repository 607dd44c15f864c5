"""What `dure pod export --dstack` writes: every key, as dstack 0.22.5's parser was seen to take it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dure.pods.dstack import as_yaml, dstack_configuration
from dure.pods.launch import Order
from dure.pods.templates import template_of
from tests.support.pod_accounts import Renting, renting

SERVICE = """\
type: "service"
name: "try"
image: "ghcr.io/ggml-org/llama.cpp:server-cuda"
env:
  - "HF_TOKEN"
  - "LLAMA_CACHE=/workspace/models"
commands:
  - "PATH=/app:$PATH exec llama-server -hf a/b:Q4_K_M --host 127.0.0.1 --port 8080 -ngl 999"
port: 8080
model: "a/b:Q4_K_M"
backends:
  - "runpod"
spot_policy: "on-demand"
max_price: 0.706439
max_duration: "28800s"
resources:
  gpu:
    count: 1
    memory: "24GB.."
  disk: "120GB.."
"""
WORKBENCH = """\
type: "dev-environment"
name: "dure-7"
image: "runpod/pytorch:2.8.0-py3.11-cuda12.8.1-cudnn-devel-ubuntu22.04"
ide: "vscode"
inactivity_duration: "1200s"
backends:
  - "runpod"
spot_policy: "on-demand"
max_price: 0.706439
max_duration: "28800s"
resources:
  gpu:
    count: 1
    memory: "24GB.."
  disk: "120GB.."
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Renting]:
    with renting(tmp_path) as home:
        yield home


def exported(home: Renting, order: Order) -> str:
    entry = home.up(order)
    pod = home.provider.pod(entry.pod_id)
    assert pod is not None
    return as_yaml(dstack_configuration(entry, pod, order.offer.memory))


def test_a_server_is_a_service(home: Renting) -> None:
    """With its image, its model, and a token that is named and not written."""
    served = replace(
        template_of("serve", model="a/b:Q4_K_M", volume="/workspace"), awaits_token=True
    )
    assert exported(home, replace(home.order(), template=served)) == SERVICE


def test_vllm_names_its_model_too(home: Renting) -> None:
    """It is the word after `serve`."""
    served = template_of("serve", model="a/b", engine="vllm", volume="/workspace")
    told = exported(home, replace(home.order(), template=served))
    assert 'model: "a/b"' in told
    assert '"HF_HOME=/workspace/hf"' in told


def test_a_workbench_is_a_development_environment(home: Renting) -> None:
    """It has no port; a name that dstack does not take gets a prefix."""
    assert exported(home, home.order("7", idle_s=1200)) == WORKBENCH
