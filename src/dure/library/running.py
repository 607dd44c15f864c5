"""Runs a model in this process while a block runs, for a command as for a program.

Knows which parts a running model has, and that none outlives the block.
Refuses to know what is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dure.deploy.deployment import Deployment
from dure.deploy.options import RunOptions
from dure.deploy.reporter import Reporter
from dure.deploy.start import start_model
from dure.engine.executor import Executor, FullExecutor
from dure.generate.speculative.proposer import Proposer
from dure.model.gguf import GgufFile, open_gguf
from dure.model.vocabulary import Vocabulary
from dure.places import cluster_directory
from dure.worker.proposing import start_proposer

__all__ = ["cluster_job", "proposer", "running_deployment", "running_model"]


@contextmanager
def cluster_job(options: RunOptions) -> Iterator[None]:
    """Register this process with the cluster, if it uses one, until the block ends."""
    if not options.cluster:
        yield
        return
    from dure.cluster.root.job_registry import JobRegistry
    from dure.cluster.root.membership import Cluster

    with JobRegistry(Cluster(cluster_directory()).directory, options.job).registered():
        yield


@contextmanager
def running_deployment(
    model: Path, options: RunOptions, reporter: Reporter
) -> Iterator[tuple[GgufFile, Deployment]]:
    """Run a model until the block ends, by an error too."""
    with open_gguf(model) as gguf, cluster_job(options):
        deployment = start_model(gguf, options, reporter)
        try:
            yield gguf, deployment
        finally:
            deployment.executor.close()


@contextmanager
def running_model(
    model: Path, options: RunOptions, reporter: Reporter
) -> Iterator[tuple[GgufFile, FullExecutor]]:
    """Run a model, as `running_deployment`, for its executor alone."""
    with running_deployment(model, options, reporter) as (gguf, deployment):
        yield gguf, deployment.executor


@contextmanager
def proposer(
    draft: str,
    gguf: GgufFile,
    vocabulary: Vocabulary,
    options: RunOptions,
    executor: Executor,
    reporter: Reporter,
) -> Iterator[Proposer | None]:
    """Make the proposer of draft tokens that --draft names, until the block ends."""
    made = start_proposer(draft, gguf, vocabulary, options, executor.info.n_ctx, reporter)
    try:
        yield made
    finally:
        if made is not None:
            made.close()
