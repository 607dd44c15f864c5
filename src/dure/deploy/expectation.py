"""What is to be expected of a started model: speeds, from what was measured of its machines before.

Measures nothing; what is not known is not expected. Refuses to know how a run is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.trust.identity import ROOT_NAME
from dure.deploy.cluster_setup import known_setup
from dure.deploy.deployment import Deployment
from dure.deploy.options import RunOptions
from dure.engine.wire import Wire
from dure.errors import CutError, ModelError
from dure.hardware.probe import probe
from dure.model.gguf import GgufFile
from dure.places import cache_directory, cluster_directory
from dure.plan.expectation import Expectations
from dure.plan.load import read_types
from dure.plan.setups import Setup

__all__ = ["expectations_of"]


def expectations_of(
    model: GgufFile, options: RunOptions, deployment: Deployment
) -> Expectations | None:
    """Return what a started model can be compared with; None if too little is known.

    The arithmetic is of processors without other jobs, of 8-bit sums, and of weights without adapters.
    """
    if options.lora or options.wire is not Wire.Q8 or deployment.is_shared or deployment.gpu:
        return None
    found = deployment.measured_setup() if options.cluster else _setup_here(model, options)
    if found is None:
        return None
    try:
        return Expectations(model, *found)
    except (CutError, ModelError):
        return None  # a model that llama.cpp runs, and a plan does not know


def _setup_here(model: GgufFile, options: RunOptions) -> tuple[Setup, Sequence[float]] | None:
    """Return this machine as it was measured, for itself or as a cluster's root; None if it was not.

    Nor if it holds several ranks, whose ways to one another nobody has measured.
    """
    if options.ranks not in {None, 1} or "," in (options.shares or ""):
        return None
    wanted = read_types(model)
    for directory in (cache_directory() / "speeds", cluster_directory()):
        known = KnownSpeeds(directory)
        if setup := known_setup(known, {ROOT_NAME: probe()}, wanted, options.threads):
            return setup, (1.0,)
    return None
