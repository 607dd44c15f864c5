"""From what tuning leaves to the boards: a GGUF, or an adapter's, that says what it was made of.

Imports no torch: what tuning leaves is a folder. Refuses to know how it was trained.
"""

from __future__ import annotations

from dure.tune.result.card import TuneCard, card_of_run, read_card
from dure.tune.result.writing import Wanted, opened_result

__all__ = ["TuneCard", "Wanted", "card_of_run", "opened_result", "read_card"]
