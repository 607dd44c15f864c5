"""Cross-compiles a program around dure's kernels for quantized weights, and one around llama.cpp's.

Knows: which sources have the inner loops of both, and the flags that both builds have. Refuses to know what
is counted. Nothing of llama.cpp lies here: its sources are in a folder that the caller names.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from arm_sequence import Core, output, program
from measure import BenchError, progress

HERE = Path(__file__).parent
BOTH = ("-O3", "-DNDEBUG", "-ffunction-sections", "-fdata-sections")
OURS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
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
            raise BenchError(
                f"{self.dure}/CMakeLists.txt does not set DURE_FUSED: this bench reads it"
            )
        paths = [self.dure / name for name in found[1].split()]
        return [path for path in paths if not path.name.startswith(_NOT_OF_WEIGHTS)]


def build_ours(sources: Sources, core: Core, folder: Path) -> Path:
    """Compile dure's kernels for a core, unless it is done; return the program. Raises BenchError."""
    includes = [f"-I{sources.dure}/native", f"-I{sources.llama}/ggml/include", f"-I{HERE}"]
    files = [*sources.kernels, HERE / "arm_ours.c"]
    headers = [*(sources.dure / "native").glob("*.h"), *HERE.glob("arm_*.h")]
    return _Program("arm_ours", files, headers, (*OURS, *includes), ()).built(core, folder)


def build_llama(sources: Sources, core: Core, folder: Path) -> Path:
    """Compile llama.cpp's kernels for a core, unless it is done; return the program. Raises BenchError."""
    ggml = sources.llama / "ggml"
    cpu = ggml / "src/ggml-cpu"
    includes = [f"-I{ggml}/{place}" for place in ("include", "src", "src/ggml-cpu")]
    files = [*(cpu / name for name in LLAMA_KERNELS), HERE / "arm_llama.c"]
    headers = [*cpu.glob("*.h"), *(ggml / "src").glob("*.h"), *HERE.glob("arm_*.h")]
    # What the kernels never call is not there.
    link = ("-Wl,--unresolved-symbols=ignore-all",)
    return _Program("arm_llama", files, headers, (*includes, f"-I{HERE}"), link).built(core, folder)


@dataclass(frozen=True, slots=True)
class _Program:
    """A program to compile. headers: those that decide what becomes of it."""

    name: str
    files: list[Path]
    headers: list[Path]
    flags: tuple[str, ...]
    link: tuple[str, ...]

    def built(self, core: Core, folder: Path) -> Path:
        """Return it, compiled into a folder whose name tells what of."""
        own = folder / f"{self.name}-{core.name}-{self._fingerprint(core)}"
        done = own / self.name
        if done.exists():
            return done
        progress(f"{core.name}: compiling {self.name}")
        own.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            objects = list(threads.map(partial(self._compiled, core, own), self.files))
        unfinished = own / f"{self.name}.{os.getpid()}"
        gcc = program("aarch64-linux-gnu-gcc")
        output([gcc, *LINK, *self.link, *objects, "-lm", "-o", str(unfinished)])
        unfinished.rename(done)
        return done

    def _fingerprint(self, core: Core) -> str:
        found = hashlib.sha256(repr((BOTH, core.flags, self.flags, self.link)).encode())
        for path in sorted([*self.files, *self.headers]):
            found.update(path.read_bytes())
        return found.hexdigest()[:16]

    def _compiled(self, core: Core, folder: Path, file: Path) -> str:
        is_cpp = file.suffix == ".cpp"
        compiler = program("aarch64-linux-gnu-g++" if is_cpp else "aarch64-linux-gnu-gcc")
        standard = "-std=gnu++17" if is_cpp else "-std=gnu11"
        flags = [*BOTH, *core.flags, standard, *self.flags]
        to = folder / f"{self.files.index(file)}-{file.stem}.o"
        output([compiler, *flags, "-c", str(file), "-o", str(to)])
        return str(to)
