"""When an answer that goes on is worth storing: what is known is what storing took before."""

from __future__ import annotations

from dure.generate.checkpoints import GAIN, REST, Checkpoints


def test_it_waits_until_computing_again_would_take_long() -> None:
    checkpoints = Checkpoints(worth_s=2.0)
    assert not checkpoints.is_due(n_new=199, n_all=500, tokens_per_s=100, now=0)
    assert checkpoints.is_due(n_new=200, n_all=500, tokens_per_s=100, now=0)
    assert not checkpoints.is_due(n_new=0, n_all=500, tokens_per_s=100, now=0)


def test_a_slow_disk_is_used_more_rarely() -> None:
    """Storing 1,000 tokens took a second; then 10 ms a token must be outweighed four times."""
    checkpoints = Checkpoints(worth_s=2.0)
    checkpoints.observe(1.0, 1000, now=0.0)
    worth = int(GAIN * 2000 * 0.001 * 100)
    later = REST * 1.0
    assert not checkpoints.is_due(n_new=worth - 1, n_all=2000, tokens_per_s=100, now=later)
    assert checkpoints.is_due(n_new=worth, n_all=2000, tokens_per_s=100, now=later)


def test_it_takes_at_most_a_twentieth_of_the_time() -> None:
    checkpoints = Checkpoints(worth_s=0.0)
    checkpoints.observe(1.0, 1000, now=10.0)
    assert not checkpoints.is_due(n_new=10_000, n_all=10_000, tokens_per_s=1, now=10.0 + REST - 0.1)
    assert checkpoints.is_due(n_new=10_000, n_all=10_000, tokens_per_s=1, now=10.0 + REST)
