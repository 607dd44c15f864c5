"""Gives a router's rules what the user's ledger of pods knows: prices, and what starts a pod."""

from __future__ import annotations

from dure.cli.terminal.pod_account import opened
from dure.places import pods_directory
from dure.pods.keys import account_key
from dure.pods.ledger import Ledger
from dure.route.rented import RentedPod, rented_pods, with_prices
from dure.route.upstream import RouteRules

__all__ = ["with_pod_prices", "with_pods"]


def with_pods(rules: RouteRules) -> tuple[RouteRules, dict[str, RentedPod]]:
    """Return rules with the prices of their pods, and what reaches and starts each pod.

    Raises UsageError if there are pods, and no key for their account.
    """
    if any(one.pod for one in rules.upstreams):
        account_key()
    return with_pod_prices(rules), rented_pods(rules, opened)


def with_pod_prices(rules: RouteRules) -> RouteRules:
    """Return rules whose pods cost what the ledger says."""
    if not any(one.pod for one in rules.upstreams):
        return rules
    ledger = Ledger(pods_directory())
    try:
        return with_prices(rules, ledger.all())
    finally:
        ledger.close()
