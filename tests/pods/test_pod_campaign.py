"""Random lives of an account with all of its faults; `bench/pods.py` lives many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pod_campaign import Campaign


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_no_pod_outlives_its_limits(seed: int, tmp_path: Path) -> None:
    """No pod is overdue after a round that reached it, none is made twice, and no stranger is touched."""
    campaign = Campaign(seed, tmp_path)
    assert campaign.broken == []
    assert campaign.ups > 0
