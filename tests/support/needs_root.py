"""Tests whose hosts are network namespaces, or that hide a directory by a mount: only root may."""

from __future__ import annotations

import os

import pytest

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="network namespaces and mounts need root: run the tests with sudo"
)
