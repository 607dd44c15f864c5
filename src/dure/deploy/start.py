"""Starts a model as the user asked for it: on this machine or on the cluster.

The entry point of this package: from a model's file and options to a running executor.
"""

from __future__ import annotations

from pathlib import Path

from dure.deploy.adapters import load_adapter
from dure.deploy.deployment import Deployment
from dure.deploy.gpu import check_gpu
from dure.deploy.local import check_local, start_local
from dure.deploy.options import RestartReason, RunOptions, check_sequences, parse_shares
from dure.deploy.reporter import Reporter, SilentReporter
from dure.deploy.threads import tell_of_threads, tune_threads
from dure.errors import UsageError
from dure.model.gguf import GgufFile
from dure.places import cache_directory
from dure.plan.memory import check_ctx, whole_memory

__all__ = ["check_start", "start_model"]


def start_model(
    model: GgufFile,
    options: RunOptions,
    reporter: Reporter | None = None,
    restart: RestartReason | None = None,
) -> Deployment:
    """Start a model. Raises a DureError that names what does not fit, and the cure.

    restart: why the previous engine ended; its answers wait, so nothing is measured.
    """
    reporter = reporter or SilentReporter()
    deployment = _started(model, options, reporter, restart)
    executor = deployment.executor
    try:
        for file in options.lora:
            load_adapter(model, deployment, Path(file.path))
        if options.threads is None and max(executor.info.threads) > 1 and not deployment.is_shared:
            key = f"{model.fingerprint[:16]}-{deployment.cut_name}"
            known = cache_directory() / "threads.json"
            tune_threads(executor, key, known, may_measure=restart is None)
    except BaseException:
        executor.close()
        raise
    full = executor.info.threads
    tell_of_threads(executor, full, deployment.machines or ("this machine",) * len(full), reporter)
    return deployment


def _started(
    model: GgufFile, options: RunOptions, reporter: Reporter, restart: RestartReason | None
) -> Deployment:
    _check_options(options)
    if not options.cluster:
        return start_local(model, options, reporter)
    from dure.deploy.cluster import (
        start_on_cluster,  # imports certificates and mDNS, so only if needed
    )

    return start_on_cluster(model, options, reporter, restart)


def check_start(model: GgufFile, options: RunOptions) -> None:
    """Raise what a start with these options would, as far as it is known without loading anything.

    The nodes of a cluster are not asked.
    """
    _check_options(options)
    if options.cluster:
        check_ctx(options.ctx, whole_memory(model)[1])
    else:
        check_local(model, options)


def _check_options(options: RunOptions) -> None:
    if not options.cluster and (options.nodes or options.interface or options.share_node):
        raise UsageError(
            "--nodes, --interface and --share-node are for --cluster", "add that, or leave them out"
        )
    if options.share_node and options.pin:
        raise UsageError(
            "--share-node --pin: two jobs would pin their threads to the same cores",
            "leave out --pin",
        )
    check_gpu(options)
    check_sequences(options.n_sequences)
    parse_shares(options.shares, None if options.cluster else options.ranks)
