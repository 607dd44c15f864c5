"""`dure ui`: shows the page of a server in a browser, also of one elsewhere that wants a key."""

from __future__ import annotations

import secrets
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.console import errors, print_warning
from dure.cli.terminal.server_choice import the_servers
from dure.errors import UsageError
from dure.http.registry import PAGE

__all__ = ["ui"]


def ui(
    server: Annotated[
        str | None,
        typer.Argument(
            help="URL of a server, or a server that runs here: its model, port or process ID.",
            show_default="the one that runs here",
        ),
    ] = None,
    *,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the API key that the server wants, readable by you alone.",
            show_default="none; a server of yours here needs none",
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            help="Certificates that the server's TLS is checked with.", show_default="the system's"
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            help="Port on this machine; 0 takes any free one.",
            show_default="one for each server, always the same",
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option(help="Open the page in a browser; its address is printed anyway.")
    ] = True,
) -> None:
    """Show the page of a server in a browser, until Ctrl-C.

    The page has an address on this machine, and a password in it that is new at every start. The server's
    key stays out of the browser. Conversations are kept in the browser by the page's port, which is the
    same at every start.

    Example: dure ui http://pi.local:8080 --key-file ~/.config/dure/pi.key
    """
    from dure.http.metrics import RequestFigures
    from dure.http.server import Served, serve
    from dure.http.settings import ServerSettings
    from dure.route.client import HttpClient
    from dure.route.forwarding import Forwarding
    from dure.route.key_file import read_key

    url, key = _server(server)
    key = read_key(key_file).decode() if key_file else key
    password = secrets.token_urlsafe(24)
    client = HttpClient(
        url, ca_file=str(ca_file) if ca_file else None, connect_s=3.0, silence_s=3600.0
    )

    port = _kept(url) if port is None else port
    opening = ExitStack()

    def announce(here: str) -> None:
        address = f"{here}/#key={password}"
        errors.print(f"{url} is shown at {address}; Ctrl-C stops", markup=False, soft_wrap=True)
        if browser and sys.stderr.isatty():
            webbrowser.open(opening.enter_context(_leading_to(address)))

    settings = ServerSettings(port=port, api_keys=(f"page:{password}",), deadline_s=0.0)
    served = Served(Forwarding(client, url, key), RequestFigures())
    with opening:
        code = serve(served, settings, model=PAGE, announce=announce)
    raise typer.Exit(code)


def _kept(url: str) -> int:
    """Return the port that a server's page has at every start, or another one, and say so."""
    from dure.http.kept_port import kept_port
    from dure.places import ui_file

    kept = kept_port(url, ui_file())
    if kept.taken:
        print_warning(
            f"{kept.taken}: the page is at port {kept.port} instead, with conversations of its own"
        )
    return kept.port


@contextmanager
def _leading_to(address: str) -> Iterator[str]:
    """Yield the URL of a private file that leads to an address: others see a program's arguments."""
    with tempfile.TemporaryDirectory(prefix="dure-ui-") as directory:
        file = Path(directory) / "page.html"
        file.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">')
        yield file.as_uri()


def _server(named: str | None) -> tuple[str, str]:
    """Return a server's URL, and the key that its user's own commands have. Raises UsageError."""
    if named is not None and "://" in named:
        if not named.startswith(("http://", "https://")):
            raise UsageError(f"{named} is no address", "give http://HOST:PORT")
        return named.rstrip("/"), ""
    (found, *more) = the_servers(named, "name one", without=PAGE)
    if more:
        raise UsageError(f"{len(more) + 1} servers are called {named}", "name one by its port")
    return found.url.replace("0.0.0.0", "127.0.0.1"), found.key  # noqa: S104 (it listens everywhere)
