"""The system's ssh: that it is here, and which secrets of ours it never inherits.

Refuses to know hosts and keys.
"""

from __future__ import annotations

import os
import shutil

from dure.errors import ResourceError

__all__ = ["SECRETS", "ssh_environment", "ssh_is_here"]

SECRETS = (
    "RUNPOD_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
    "DURE_API_KEYS",
)
"""Variables that programs started for another machine have no use for: ssh may be set to send them."""


def ssh_is_here(*programs: str) -> None:
    """Raise ResourceError if a program of ssh, or one that copies by it, is missing."""
    for program in programs or ("ssh",):
        if shutil.which(program) is None:
            package = "openssh-client" if program.startswith("ssh") else program
            raise ResourceError(
                f"{program} is not here", f"install it with `sudo apt install {package}`"
            )


def ssh_environment() -> dict[str, str]:
    """Return this process's variables without secrets."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}
