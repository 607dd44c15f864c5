"""`dure.open`: finds a model, starts it here, over ranks or on the cluster, and hands it to a program.

Knows the options of a start by their names in Python. Refuses to know what is asked of the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from dure.chat.reading import TextTools
from dure.cluster.job_identity import LIBRARY, JobIdentity
from dure.deploy.adapters import load_adapter
from dure.deploy.options import RunOptions, adapter_file
from dure.deploy.options import gpu_layers as parsed_layers
from dure.engine.wire import Wire
from dure.errors import DureError, UsageError
from dure.generate.file_sampling import file_sampling
from dure.generate.loop import EngineLoop
from dure.generate.request import Sampling
from dure.generate.speculative.proposer import Draft
from dure.isolation import Isolation
from dure.library.adapters import RunningAdapters
from dure.library.model import Model
from dure.library.reporting import LogReporter, LogWatcher
from dure.library.running import proposer, running_deployment
from dure.library.shared_loop import SharedLoop
from dure.library.tokens import ModelParts
from dure.library.wording import IN_OPEN, in_python
from dure.model.gguf import open_gguf
from dure.model.store import Library, located
from dure.model.vocabulary import Vocabulary

__all__ = ["open_model"]


def open_model(
    model: str | os.PathLike[str],
    *,
    ranks: int | None = None,
    cluster: bool = False,
    ctx: int | None = None,
    parallel: int = 1,
    threads: int | None = None,
    shares: Sequence[float] | None = None,
    nodes: Sequence[str] | Literal["all"] | None = None,
    share_node: bool = False,
    interface: str | None = None,
    sync: Literal["q8", "f32"] = "q8",
    draft: str | os.PathLike[str] = "lookup",
    mlock: bool = False,
    pin: bool = False,
    pull: bool = False,
    lora: Sequence[str | os.PathLike[str]] = (),
    gpu_layers: int | Literal["auto"] = "auto",
) -> Model:
    """Start a model, and return it when it is ready. Use it as a context manager, or `close` it.

    model: a GGUF file, or a name as `dure run` takes it. ranks: cut it over so many ranks on this machine.
    cluster: cut it over the cluster's machines; nodes: exactly these, or "all". ctx: tokens of a prompt and
    its answer; None: 4,096, or less if the model was trained for less. parallel: answers at once, each with
    its own context. threads, shares, share_node, interface, sync, draft, mlock, pin, gpu_layers: as the
    options of `dure run`. pull: download a model that is not on this machine. lora: adapters, each a file,
    or a file and a scale as in "style.gguf:0.5"; `load_adapter` loads more while it runs.
    Raises a DureError that says what prevents it, and the cure.
    """
    with ExitStack() as stack, _naming_arguments():
        path = _found(os.fspath(model), pull=pull)
        options = RunOptions(
            ranks=ranks,
            shares=None if shares is None else ",".join(map(str, shares)),
            threads=threads,
            ctx=ctx,
            n_sequences=parallel,
            wire=Wire(sync),
            cluster=cluster,
            job=JobIdentity.new(LIBRARY, path.stem),
            share_node=share_node,
            nodes=nodes if nodes is None or isinstance(nodes, str) else ",".join(nodes),
            interface=interface,
            lock_memory=mlock,
            pin=pin,
            lora=tuple(adapter_file(os.fspath(file)) for file in lora),
            gpu_layers=parsed_layers(str(gpu_layers)),
        )
        wanted = os.fspath(draft)
        named = wanted if wanted in set(Draft) else str(_found(wanted, pull=pull).absolute())
        parts = _started(path, options, named, stack)
        return Model(parts, stack.pop_all())


def _started(path: Path, options: RunOptions, draft: str, stack: ExitStack) -> ModelParts:
    reporter = LogReporter()
    with open_gguf(path) as header:
        vocabulary = Vocabulary(header)
        stack.callback(vocabulary.close)
        sampling = Sampling(**file_sampling(header))  # type: ignore[arg-type]  # its fields are numbers
    texts: Isolation[TextTools] = stack.enter_context(
        Isolation.of_module("dure.library.reader", str(path.absolute()))
    )  # loads while the model does
    gguf, deployment = stack.enter_context(running_deployment(path, options, reporter))
    executor = deployment.executor
    drafts = stack.enter_context(proposer(draft, gguf, vocabulary, options, executor, reporter))
    loop = SharedLoop(EngineLoop(executor, vocabulary, proposer=drafts))
    adapters = RunningAdapters(
        loop,
        lambda file: load_adapter(gguf, deployment, file),
        [file.scale for file in options.lora],
    )
    return ModelParts(
        path, gguf.architecture, executor.info, loop, vocabulary, texts, sampling, adapters
    )


def _found(text: str, *, pull: bool) -> Path:
    """Return a model's file. Raises UsageError if it is not here and must not be pulled."""
    library = Library()
    name = located(text, library)
    if isinstance(name, Path):
        return name
    if not pull:
        raise UsageError(
            f"{text} is not on this machine", f"run `dure pull {text}`, or open it with pull=True"
        )
    from dure.model.store.pull import pull as pull_model

    return pull_model(name, library, LogWatcher()).model.path


@contextmanager
def _naming_arguments() -> Iterator[None]:
    try:
        yield
    except DureError as error:
        in_python(error, IN_OPEN)
        raise
