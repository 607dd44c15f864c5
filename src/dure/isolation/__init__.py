"""Runs functions in processes that may die, hang or fill the memory: their caller gets an error.

For library code that reads what others wrote. What the functions need is loaded once, before the first
process is forked, and shared by all of them. Refuses to know what is run.
"""

from dure.isolation.keeper import keep_from
from dure.isolation.pool import Isolation, IsolationLimits, current_owner

__all__ = ["Isolation", "IsolationLimits", "current_owner", "keep_from"]
