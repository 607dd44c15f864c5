"""Writes the predictions for ARM into docs/benchmarks.md, from what bench/arm.py printed.

python bench/arm_page.py a72.json a76.json i8mm.json
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from measure import BenchError, main

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_PART = re.compile(r"(?<=<!-- predictions -->\n).*?(?=<!-- end of predictions -->)", re.DOTALL)


def table(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return a row for each type and work, with a column for each core. Raises BenchError."""
    cells: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    cores: list[str] = []
    settings: dict[str, str] = {}
    for document in documents:
        settings |= document["settings"]
        for one in document["comparisons"]:
            core, kind, work = one["quantity"].partition(",")[0].split()
            if core not in cores:
                cores.append(core)
            if one["unit"] == "cycles/weight":
                cells[kind, work][core] = _cell(one)
            else:
                cells[kind, work][core] += f"; {one['ratio']:.2f}"
    if not cells:
        raise BenchError("these files have no comparisons: give what `bench/arm.py --json` printed")
    head = ["type", "", *cores]
    rows = [[*key, *(found.get(core, "") for core in cores)] for key, found in cells.items()]
    lines = [head, ["---"] * len(head), *rows]
    told = "; ".join(f"{name} {value}" for name, value in settings.items())
    return "\n".join([told, "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def _cell(one: Mapping[str, Any]) -> str:
    own, other = (one["contenders"][name]["median"] for name in ("dure", "llama.cpp"))
    if "llama.cpp's own" in one["quantity"]:
        return f"{other:.4f}, llama.cpp's own: 1"
    return f"{own:.4f} / {other:.4f} = {one['ratio']:.2f}{'' if one['met'] else ', missed'}"


def run() -> int:
    """Write the table; return 0."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("files", type=Path, nargs="+", help="what `bench/arm.py --json` printed")
    files = options.parse_args().files
    text = table([json.loads(file.read_text()) for file in files])
    PAGE.write_text(_PART.sub(lambda _: text, PAGE.read_text()))
    return 0


if __name__ == "__main__":
    main(run)
