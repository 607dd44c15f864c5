"""What a pod is rented for: an image, what runs in it, and how its guard is told its limits.

The image's own entry is replaced by a script that starts the guard first (`start.sh`). Servers listen
inside the pod alone, and are reached through ssh. Refuses to know prices.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from dure.errors import UsageError
from dure.pods.ledger import PodLimits

__all__ = [
    "CACHES",
    "MAX_S",
    "PUBLIC_PORT",
    "TEMPLATES",
    "Template",
    "environment_of",
    "start_args",
    "template_of",
]

TEMPLATES = ("serve", "workbench")
ENGINES = ("llama.cpp", "vllm")
PUBLIC_PORT = 8100
MAX_S = "DURE_MAX_S"
"""The variable that limits a run; it is renewed when a stopped pod is started."""
CACHES = ("HF_HOME", "LLAMA_CACHE")
"""The variables that say where models are kept."""
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class Template:
    """An image and what runs in it. run: for a shell. port: of its server, 0 for none.

    awaits_token: it runs only when a token of Hugging Face was handed to the pod, over ssh.
    public_port: of the front that lets in who has the key (`front`), 0 for none.
    """

    name: str
    image: str
    run: str
    port: int
    env: Mapping[str, str]
    awaits_token: bool = False
    public_port: int = 0


def template_of(
    name: str, *, model: str = "", engine: str = "llama.cpp", image: str = "", volume: str
) -> Template:
    """Return a template. model: of Hugging Face. volume: the path kept by a stop. Raises UsageError."""
    if name == "workbench":
        if model:
            raise UsageError(
                "a workbench serves no model", "leave out --model, or use the template serve"
            )
        bench = image or "runpod/pytorch:2.8.0-py3.11-cuda12.8.1-cudnn-devel-ubuntu22.04"
        return Template(name, bench, "/start.sh", 0, {})
    if name != "serve" or engine not in ENGINES:
        raise UsageError(
            f"there is no template {name} with {engine}",
            f"templates: {', '.join(TEMPLATES)}; engines: {', '.join(ENGINES)}",
        )
    if not _MODEL.fullmatch(model):
        raise UsageError(
            f"--model {model}", "name one of Hugging Face, as in Qwen/Qwen3-32B-GGUF:Q4_K_M"
        )
    if engine == "vllm":
        run = ["vllm", "serve", model, "--host", "127.0.0.1", "--port", "8000"]
        return Template(
            name,
            image or "vllm/vllm-openai:latest",
            shlex.join(run),
            8000,
            {"HF_HOME": f"{volume}/hf"},
        )
    run = [
        "llama-server",
        "-hf",
        model,
        "--host",
        "127.0.0.1",
        "--port",
        "8080",
        "-ngl",
        "999",
    ]
    return Template(
        name,
        image or "ghcr.io/ggml-org/llama.cpp:server-cuda",
        f"PATH=/app:$PATH exec {shlex.join(run)}",
        8080,
        {"LLAMA_CACHE": f"{volume}/models"},
    )


def environment_of(
    template: Template, limits: PodLimits, runs_s: int, heartbeat_s: int, public_key: str, api: str
) -> dict[str, str]:
    """Return a pod's variables: what it runs, and the limits of the guard in it; no secret."""
    return {
        **template.env,
        "PUBLIC_KEY": public_key,
        "DURE_RUN": template.run,
        MAX_S: str(runs_s),
        "DURE_IDLE_S": str(limits.idle_s),
        "DURE_HEARTBEAT_S": str(heartbeat_s),
        "DURE_POD_API": api,
        **({"DURE_AWAITS_TOKEN": "1"} if template.awaits_token else {}),
        **_public(template),
    }


def _public(template: Template) -> dict[str, str]:
    if not template.public_port:
        return {}
    ports = {"DURE_PUBLIC_PORT": template.public_port, "DURE_SERVER_PORT": template.port}
    return {name: str(port) for name, port in ports.items()}


def start_args(*, is_public: bool = False) -> str:
    """Return what replaces an image's entry, in RunPod's form of JSON."""
    script = (files("dure.pods") / "start.sh").read_text()
    if is_public:
        front = (files("dure.pods") / "front.py").read_text()
        script = f"front_program={shlex.quote(front)}\n{script}"
    return json.dumps({"entrypoint": ["/bin/sh", "-c"], "cmd": [script]})
