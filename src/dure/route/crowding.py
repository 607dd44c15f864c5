"""How much longer work takes on an upstream that does other work too, by how many answers and prompts.

Pure arithmetic. Refuses to know why: whether a machine computes them in turn, or all in one step.
"""

from __future__ import annotations

import msgspec

__all__ = ["Beside", "Crowd", "duration_s"]


class Crowd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """By how much others slow work down, as a part of its time alone.

    answer, prompt: each of these; any_prompt: prompts, however many.
    """

    answer: float = 0.0
    prompt: float = 0.0
    any_prompt: float = 0.0

    def slowness(self, n_answers: float, n_prompts: float) -> float:
        """Return how many times as long as alone it takes beside so many."""
        by_prompts = self.prompt * n_prompts + self.any_prompt * min(1.0, n_prompts)
        return 1 + self.answer * n_answers + by_prompts


class Beside(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What goes on beside a request, from its turn on: when each other prompt has been read, and when
    each answer ends (those of the prompts too); seconds, the soonest first.
    """

    read_s: tuple[float, ...] = ()
    ends_s: tuple[float, ...] = ()


def duration_s(work_s: float, crowd: Crowd, begin_s: float, beside: Beside) -> float:
    """Return how long work takes that takes work_s alone. begin_s: when it begins, after the turn."""
    now_s, n_prompts = begin_s, sum(one > begin_s for one in beside.read_s)
    n_answers = sum(one > begin_s for one in beside.ends_s) - n_prompts
    events = sorted([(end, 0) for end in beside.ends_s] + [(end, 1) for end in beside.read_s])
    for end_s, is_read in events:
        if end_s <= begin_s:
            continue
        slow = crowd.slowness(max(0, n_answers), n_prompts)
        done_s = (end_s - now_s) / slow
        if done_s >= work_s:
            return now_s + work_s * slow - begin_s
        work_s, now_s = work_s - done_s, end_s
        n_answers += 1 if is_read else -1
        n_prompts -= is_read
    return now_s + work_s * crowd.slowness(max(0, n_answers), n_prompts) - begin_s
