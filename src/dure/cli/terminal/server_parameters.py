"""Declares the options of servers: where they listen, what `dure serve` offers, and whom they let in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from dure.cli.terminal.parameters import GUARDS, MODEL, SERVER
from dure.errors import UsageError
from dure.hardware.probe import probe
from dure.http.guards.keys import keys_of_environment
from dure.http.settings import LogFormat, ServerSettings

__all__ = ["Guarding", "Listening", "ModelFiles", "Queueing", "Serving"]

STORE_PART = 0.1  # of the free memory, for prefixes that do not fit the KV cache
MB = 1_000_000


@dataclass(frozen=True)
class ModelFiles:
    """A server's embedding model and pooling, and where its clients' adapters are."""

    embedding_model: Annotated[
        str | None,
        typer.Option(
            help="Model for embeddings, or a reranker for /v1/rerank.",
            show_default="MODEL",
            rich_help_panel=MODEL,
        ),
    ] = None
    pooling: Annotated[
        Literal["mean", "cls", "last"] | None,
        typer.Option(
            help="Pooling of embeddings.",
            show_default="as the model says",
            rich_help_panel=MODEL,
        ),
    ] = None
    lora_dir: Annotated[
        Path | None,
        typer.Option(
            help="Directory of adapters (LoRA) that clients may load while it runs.",
            show_default="none",
            rich_help_panel=MODEL,
        ),
    ] = None

    def lora_directory(self) -> Path | None:
        """Return the directory of adapters. Raises UsageError if it is none."""
        if self.lora_dir is not None and not self.lora_dir.is_dir():
            raise UsageError(f"--lora-dir {self.lora_dir}", "give a directory that is there")
        return self.lora_dir and self.lora_dir.absolute()


@dataclass(frozen=True)
class Listening:
    """Where a server listens, and where it logs."""

    host: Annotated[
        str,
        typer.Option(help="Address to listen on; unix:PATH for a socket.", rich_help_panel=SERVER),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        typer.Option("--port", "-p", help="Port; 0 takes a free one.", rich_help_panel=SERVER),
    ] = 8080
    log_format: Annotated[
        LogFormat, typer.Option(help="Format of the access log.", rich_help_panel=SERVER)
    ] = "text"
    log_file: Annotated[
        Path | None,
        typer.Option(
            help="File of the access log.", show_default="standard error", rich_help_panel=SERVER
        ),
    ] = None


@dataclass(frozen=True)
class Serving:
    """What a server offers."""

    parallel: Annotated[
        int,
        typer.Option(
            help="Number of answers at once, each with its own context.", rich_help_panel=SERVER
        ),
    ] = 4
    alias: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of the model for clients; repeatable.",
            show_default="file",
            rich_help_panel=SERVER,
        ),
    ] = None
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            help="Directory that keeps computed prompts over restarts.",
            show_default="in memory",
            rich_help_panel=SERVER,
        ),
    ] = None
    cache_size: Annotated[
        int | None,
        typer.Option(
            help="MB for computed prompts besides the KV cache; 0 keeps none.",
            show_default="a tenth of the free memory",
            rich_help_panel=SERVER,
        ),
    ] = None
    slots: Annotated[
        bool,
        typer.Option(
            help="Show running requests at /slots, to clients with a key.", rich_help_panel=SERVER
        ),
    ] = True
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse fields of requests that would have no effect; else the header x-dure-ignored "
            "names them.",
            rich_help_panel=SERVER,
        ),
    ] = False

    def store_bytes(self) -> int:
        """Return the bytes for computed prompts. Raises UsageError."""
        if self.cache_size is None:
            return int(probe().available_bytes * STORE_PART)
        if self.cache_size < 0:
            raise UsageError(f"--cache-size {self.cache_size}", "give MB, or 0 to keep none")
        return self.cache_size * MB


@dataclass(frozen=True)
class Guarding:
    """Whom a server lets in, and how much each may ask for."""

    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="API key, or name:key; repeatable. Other users of this machine see it in the list of "
            "processes: --api-key-file hides it.",
            rich_help_panel=GUARDS,
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys, one `name:key` per line, with `weight=2` or `priority=low` behind "
            "it if you like; DURE_API_KEYS may hold more.",
            rich_help_panel=GUARDS,
        ),
    ] = None
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate file, for HTTPS.", rich_help_panel=GUARDS)
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option(help="Key file of the certificate.", rich_help_panel=GUARDS)
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Let everyone on the network in without a key.",
            rich_help_panel=GUARDS,
        ),
    ] = False
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web page that may call the API, as https://chat.example, or localhost for every page "
            "of this machine; repeatable.",
            rich_help_panel=GUARDS,
        ),
    ] = None
    requests_per_minute: Annotated[
        float | None,
        typer.Option(help="Limit of each key.", show_default="unlimited", rich_help_panel=GUARDS),
    ] = None
    tokens_per_minute: Annotated[
        float | None,
        typer.Option(help="Limit of each key.", show_default="unlimited", rich_help_panel=GUARDS),
    ] = None
    max_body: Annotated[
        int, typer.Option(help="Largest request, in MB.", rich_help_panel=GUARDS)
    ] = 16
    deadline: Annotated[
        float,
        typer.Option(
            help="Seconds that running answers get when the server stops.",
            rich_help_panel=GUARDS,
        ),
    ] = 30.0
    slow_client: Annotated[
        float,
        typer.Option(
            help="Seconds before a client that does not read its answer is dropped.",
            rich_help_panel=GUARDS,
        ),
    ] = 30.0
    idle: Annotated[
        float,
        typer.Option(help="Seconds before an idle connection is closed.", rich_help_panel=GUARDS),
    ] = 75.0

    def settings(self, listening: Listening) -> ServerSettings:
        """Return the server's settings. Raises UsageError naming an invalid value."""
        return ServerSettings(
            host=listening.host,
            port=listening.port,
            api_keys=self._api_keys(),
            api_key_file=self.api_key_file,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            cors_origins=tuple(self.cors_origin or ()),
            max_body_bytes=self.max_body * MB,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            deadline_s=self.deadline,
            slow_client_timeout_s=self.slow_client,
            idle_timeout_s=self.idle,
            insecure=self.insecure,
            log_format=listening.log_format,
            log_file=listening.log_file,
        )

    def _api_keys(self) -> tuple[str, ...]:
        given = tuple(key.strip() for text in self.api_key or () for key in text.split(","))
        if not all(given):  # as of a variable that is not set: the server would be open
            raise UsageError("--api-key is empty", "give a key, or leave it out")
        return (*given, *keys_of_environment())


@dataclass(frozen=True)
class Queueing:
    """How long prompts and queues of a model may get, and how long an answer may be silent."""

    queue: Annotated[
        int,
        typer.Option(
            help="Number of requests of a key that may wait; more are refused.",
            rich_help_panel=GUARDS,
        ),
    ] = 64
    max_prompt: Annotated[
        int | None,
        typer.Option(
            help="Longest prompt, in tokens.", show_default="the context", rich_help_panel=GUARDS
        ),
    ] = None
    keep_alive: Annotated[
        float,
        typer.Option(
            help="Seconds of silence before a stream gets a comment.", rich_help_panel=GUARDS
        ),
    ] = 5.0
    keep_alive_event: Annotated[
        float,
        typer.Option(
            help="Seconds without an event before a stream gets an empty one, for clients that see no "
            "comments.",
            rich_help_panel=GUARDS,
        ),
    ] = 20.0

    def settings(self, guarded: ServerSettings, serving: Serving) -> ServerSettings:
        """Return the settings with these too. Raises UsageError naming an invalid value."""
        return replace(
            guarded,
            aliases=tuple(serving.alias or ()),
            max_prompt_tokens=self.max_prompt,
            max_waiting=self.queue,
            keep_alive_comment_s=self.keep_alive,
            keep_alive_event_s=self.keep_alive_event,
        )
