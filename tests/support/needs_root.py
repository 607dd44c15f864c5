"""Marks tests that need root: their hosts are network namespaces, or they hide a directory by a mount."""

from __future__ import annotations

import os

import pytest

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="network namespaces and mounts need root: run the tests with sudo"
)
