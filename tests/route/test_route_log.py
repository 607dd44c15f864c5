"""The router's log: its lines, its size, and a line that was cut short."""

from __future__ import annotations

from pathlib import Path

from dure.route.decision import decide
from dure.route.decision_log import DecisionLog, RoutedLine, RouteOutcome, read_log
from dure.route.facts import RequestFacts, UpstreamFacts, UpstreamSpeed
from dure.route.upstream import RouteRules, Upstream

RULES = RouteRules(upstreams=(Upstream(name="board", url="http://board"),))
FACTS = {"board": UpstreamFacts(speed=UpstreamSpeed(prompt_per_s=50, answer_per_s=8))}
REQUEST = RequestFacts(dialect="chat", prompt_tokens=10, answer_tokens=5)


def line(name: str) -> RoutedLine:
    decision = decide(RULES, REQUEST, FACTS)
    outcome = RouteOutcome(status=200, whole=True, finish_s=1.5)
    return RoutedLine.of((name, "/v1/chat/completions"), REQUEST, FACTS, decision, outcome)


def test_a_full_log_is_moved_aside_and_the_oldest_deleted(tmp_path: Path) -> None:
    """The newest are kept, in order; nobody else can read them."""
    path = tmp_path / "route" / "log.jsonl"
    names = [f"request-{n}" for n in range(200)]
    for name in names:  # each with a log of its own, so that lines are written before the next
        with DecisionLog(path, most_bytes=5000) as log:
            log.write(line(name))
    kept = [one.id for one in read_log(path)]
    assert 0 < len(kept) < len(names)
    assert kept == names[-len(kept) :]
    files = list(path.parent.iterdir())
    assert len(files) == 5
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    assert all(file.stat().st_size <= 5000 for file in files)


def test_a_line_cut_short_hides_no_other(tmp_path: Path) -> None:
    """A full disk or a lost machine leaves half a line."""
    path = tmp_path / "log.jsonl"
    with DecisionLog(path) as log:
        log.write(line("first"))
    with path.open("a") as file:
        file.write('{"time": 17\n')
    with DecisionLog(path) as log:
        log.write(line("second"))
    assert [one.id for one in read_log(path)] == ["first", "second"]
