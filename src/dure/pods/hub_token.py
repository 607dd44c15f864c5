"""The token of Hugging Face that a pod needs for a gated model: found at home, handed over by ssh.

The provider never gets it: its variables of a pod are shown to whoever holds a key of the account. It goes
to the pod on the input of ssh, into a file of the container's disk, which a stop empties; there the one
program that downloads has it in its environment. No argument, ledger, log or error has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dure.errors import DureError, UsageError
from dure.model.store.download import Patience
from dure.model.store.hub import TOKENS, Hub, HubSilentError
from dure.model.store.names import HubName
from dure.model.store.watching import SilentWatcher

__all__ = ["RECEIVE", "HubToken", "found_token", "token_for"]

RECEIVE = (
    "d=${DURE_POD_STATE:-/var/lib/dure-pod}; umask 077; "
    "cat >$d/hf-token.part && [ -s $d/hf-token.part ] && mv $d/hf-token.part $d/hf-token"
)
"""The command that takes the token from its input; half of one is none."""
_PATIENCE = Patience(tries=2, timeout_s=10.0, first_wait_s=0.5, insists=False)


@dataclass(frozen=True, repr=False)
class HubToken:
    """The secret; it shows as dots."""

    secret: str

    def __repr__(self) -> str:
        return "HubToken(…)"


def found_token() -> HubToken:
    """Return the user's token: HF_TOKEN, or the stored login of Hugging Face's own tools.

    Raises UsageError if there is none.
    """
    from huggingface_hub import get_token

    found = get_token() or ""
    if not re.fullmatch(r"[\x21-\x7e]{1,512}", found):
        raise UsageError(
            "there is no token of Hugging Face here",
            f"set HF_TOKEN to one that may only read ({TOKENS}), or log in with `hf auth login`",
        )
    return HubToken(found)


def token_for(model: str, wanted: bool | None = None) -> HubToken | None:
    """Return the token that a pod needs to download a model; None if it needs none.

    wanted: whether to hand one over in any case, or in none; None asks the hub whether everybody may
    download. If the hub does not answer, no token goes anywhere. Raises UsageError if a token is needed and
    there is none, UsageError or ResourceError if it may not download the model.
    """
    if wanted is False:
        return None
    refusal = None if wanted else _refusal(Hub(token=False), model)
    if not wanted and refusal is None:
        return None
    try:
        token = found_token()
    except UsageError as error:
        raise refusal or error from None
    refusal = _refusal(Hub(token=token.secret), model)
    if refusal is not None:
        raise refusal
    return token


def _refusal(hub: Hub, model: str) -> DureError | None:
    """Return why the hub gives a model to nobody, or not with this token; None if it does not say so."""
    try:
        hub.check_access(HubName(model.partition(":")[0]), SilentWatcher(), _PATIENCE)
    except HubSilentError:
        return None
    except DureError as error:
        return error
    return None
