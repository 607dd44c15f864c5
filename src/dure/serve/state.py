"""What every route of a server shares: the models and the server's settings.

Refuses to know HTTP bodies and how an answer is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from dure.chat.format import PreparedChat
from dure.chat.reading import prepared_chat
from dure.chat.task import ChatTask
from dure.chat.thinking import Think, asked_to_think
from dure.errors import ParameterError
from dure.generate.request import Owner, Sampling
from dure.http.guards.access import key_of
from dure.http.problems import ForbiddenError
from dure.http.sse import Silence
from dure.http.unused_fields import let_through
from dure.isolation import current_owner
from dure.serve.adapter_loading import AdapterLoading
from dure.serve.served_model import LONG_TEXT, ServedModel

__all__ = ["ADDRESS", "CurrentServer", "ServerState", "caller_of", "current_server"]

_PRIORITIES = {"low": -1, "normal": 0, "high": 1}
ADDRESS = "@"  # before an address: no key's name begins so


@dataclass
class ServerState:
    """One server.

    embedding: a model of its own for embeddings. sampling: the default of requests. silence: how
    long a stream may be silent. slots: whether /slots answers. think: for requests that do not say.
    strict: fields that would have no effect are refused. shows_prompts: with every answer, as if each
    request said `verbose`. adapter_loading: what clients may load while it runs.
    """

    model: ServedModel
    embedding: ServedModel | None = None
    sampling: Sampling = field(default_factory=Sampling)
    silence: Silence = field(default_factory=Silence)
    slots: bool = True
    fingerprint: str = "b-dure"
    think: Think = "auto"
    strict: bool = False
    shows_prompts: bool = False
    adapter_loading: AdapterLoading = field(default_factory=AdapterLoading)

    def embedder(self) -> ServedModel:
        """Return the model that embeds. Raises NotReadyError, or ForbiddenError if it does not embed."""
        model = self._beside()
        if model.engine.info.ranks:
            model = self.model
            model.check_ready()
        if not model.engine.info.embeds:
            raise ForbiddenError(
                f"{model.name} does not embed", "serve a model that does beside it"
            )
        return model

    def reranker(self) -> ServedModel:
        """Return the model that ranks documents. Raises NotReadyError, or ParameterError if none does."""
        model = self._beside()
        if not model.engine.info.ranks:
            raise ParameterError(
                "model",
                f"model: {model.name} does not rank documents",
                "serve a reranker beside it, with --embedding-model",
            )
        return model

    def _beside(self) -> ServedModel:
        model = self.embedding or self.model
        model.check_ready()
        return model

    async def prepare(self, task: ChatTask, names: Mapping[str, str] | None = None) -> PreparedChat:
        """Make a prompt of a conversation. Raises UsageError if the model cannot chat like this.

        names: what the dialect calls `enable_thinking` and `reasoning_effort`, "" if it did not ask.
        """
        asked, task = task, asked_to_think(task, self.think)
        prepared = await self.model.texts.called(prepared_chat, task, is_long=_is_long(task))
        for wish, reason in prepared.unmet.items():
            name = (names or {}).get(wish, wish)
            if name and (asked is task or wish.startswith("chat_template_kwargs")):
                let_through(name, reason)
        return prepared


def _is_long(task: ChatTask) -> bool:
    """Return whether a conversation may take more than milliseconds to read."""
    if task.tools or task.grammar is not None or task.response_format is not None:
        return True
    return sum(len(str(message.get("content", ""))) for message in task.messages) > LONG_TEXT


async def current_server(request: Request) -> ServerState:
    """Return the state of the server that a request came to; what it has read is its caller's."""
    current_owner.set(caller_of(request).name)
    state: ServerState = request.app.state.server
    return state


CurrentServer = Annotated[ServerState, Depends(current_server)]


def caller_of(request: Request) -> Owner:
    """Return the owner of a request's work: its key, or its client's address if no keys are wanted."""
    if (key := key_of(request.scope)) is not None:
        return Owner(key.name, key.weight, _PRIORITIES[key.priority])
    return Owner(f"{ADDRESS}{request.client.host}" if request.client else "")
