"""Asks LiteLLM's complexity router, by its own rules: reads prompts as JSON, writes a tier for each.

Run by the Python that LiteLLM is installed for, as `route_trace.py --litellm` does. No model is asked.
"""

from __future__ import annotations

import json
import sys

from litellm.router_strategy.complexity_router.complexity_router import ComplexityRouter

NAMES = {"SIMPLE": "SIMPLE", "MEDIUM": "MEDIUM", "COMPLEX": "COMPLEX", "REASONING": "REASONING"}
router = ComplexityRouter("auto", None, {"tiers": NAMES})
print(json.dumps([router.classify(prompt)[0].value for prompt in json.load(sys.stdin)]))
