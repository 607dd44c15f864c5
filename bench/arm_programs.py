"""Cross-compiles a program around dure's kernels for quantized weights, and one around llama.cpp's.

Knows: which sources have the inner loops of both, and the flags that both builds have. Refuses to know what
is counted. Nothing of llama.cpp lies here: its sources are in a folder that the caller names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from arm_sequence import Core, output, program
from measure import BenchError

HERE = Path(__file__).parent
BOTH = ("-O3", "-DNDEBUG", "-ffunction-sections", "-fdata-sections")
OURS = ("-std=c11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
"""As CMakeLists.txt has them for the files that may fuse a multiplication and an addition."""
LINK = ("-static", "-Wl,--gc-sections")
LLAMA_KERNELS = ("arch/arm/quants.c", "arch/arm/repack.cpp", "quants.c")
_NOT_OF_WEIGHTS = ("attention", "float_product")


@dataclass(frozen=True, slots=True)
class Sources:
    """Folders: of dure (with native/ and CMakeLists.txt), and of llama.cpp (with ggml/)."""

    dure: Path
    llama: Path

    def __post_init__(self) -> None:
        for folder, needed in ((self.dure, "CMakeLists.txt"), (self.llama, "ggml/include/ggml.h")):
            if not (folder / needed).is_file():
                raise BenchError(f"{folder} has no {needed}: name the folder of the sources")

    @property
    def kernels(self) -> list[Path]:
        """Return dure's sources of products with quantized weights: those that CMakeLists.txt fuses."""
        text = (self.dure / "CMakeLists.txt").read_text()
        found = re.search(r"set\(DURE_FUSED\s([^)]*)\)", text)
        if found is None:
            raise BenchError(f"{self.dure}/CMakeLists.txt does not set DURE_FUSED: this bench reads it")
        paths = [self.dure / name for name in found[1].split()]
        return [path for path in paths if not path.name.startswith(_NOT_OF_WEIGHTS)]


def build_ours(sources: Sources, core: Core, folder: Path) -> Path:
    """Compile dure's kernels for a core; return the program. Raises BenchError."""
    includes = [f"-I{sources.dure}/native", f"-I{sources.llama}/ggml/include", f"-I{HERE}"]
    files = [*sources.kernels, HERE / "arm_ours.c"]
    return _linked("arm_ours", files, [*OURS, *includes], [], core, folder)


def build_llama(sources: Sources, core: Core, folder: Path) -> Path:
    """Compile llama.cpp's kernels for a core; return the program. Raises BenchError."""
    ggml = sources.llama / "ggml"
    places = ("include", "src", "src/ggml-cpu")
    includes = [*(f"-I{ggml}/{place}" for place in places), f"-I{HERE}"]
    files = [*(ggml / "src/ggml-cpu" / name for name in LLAMA_KERNELS), HERE / "arm_llama.c"]
    # What the kernels never call is not there.
    more = ["-Wl,--unresolved-symbols=ignore-all"]
    return _linked("arm_llama", files, includes, more, core, folder)


def _linked(
    name: str, files: Iterable[Path], flags: list[str], link: list[str], core: Core, folder: Path
) -> Path:
    own = folder / f"{name}-{core.name}"
    own.mkdir(parents=True)

    def compiled(numbered: tuple[int, Path]) -> str:
        number, file = numbered
        is_cpp = file.suffix == ".cpp"
        compiler = program("aarch64-linux-gnu-g++" if is_cpp else "aarch64-linux-gnu-gcc")
        standard = ["-std=gnu++17"] if is_cpp else ["-std=gnu11"]
        to = own / f"{number}-{file.stem}.o"
        output([compiler, *BOTH, *core.flags, *standard, *flags, "-c", str(file), "-o", str(to)])
        return str(to)

    with ThreadPoolExecutor(2) as threads:
        objects = list(threads.map(compiled, enumerate(files)))
    built = own / name
    output([program("aarch64-linux-gnu-gcc"), *LINK, *link, *objects, "-lm", "-o", str(built)])
    return built
