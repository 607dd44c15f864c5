"""Errors in the words of a program: a command's `--ctx` is an argument of `dure.open` there.

Refuses to know what went wrong.
"""

from __future__ import annotations

import re

from dure.errors import DureError

__all__ = ["IN_OPEN", "in_python"]

IN_OPEN = "{}"
_LATER = "dure.open({}=...)"


def in_python(error: DureError, form: str = _LATER) -> DureError:
    """Name arguments in an error for a command's options, and return it.

    form: of an argument; IN_OPEN if the call is `dure.open` itself. A command that the text quotes keeps
    its options.
    """
    error.problem, error.cure = _in_python(error.problem, form), _in_python(error.cure, form)
    error.args = error.problem, error.cure
    return error


def _in_python(text: str, form: str) -> str:
    parts = text.split("`")
    parts[::2] = [
        re.sub(r"--([a-z][a-z-]*)", lambda match: form.format(match[1].replace("-", "_")), part)
        for part in parts[::2]
    ]
    return "`".join(parts)
