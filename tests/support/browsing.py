"""A real browser that looks at the page of a server: Debian's Chromium, driven by Playwright.

Whatever happens in a block, the page must neither write an error to its console nor ask another origin.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

__all__ = ["CHROMIUM", "browser", "visiting"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""


@contextmanager
def browser() -> Iterator[Browser]:
    """Run the browser within the block."""
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def visiting(
    by: Browser,
    url: str,
    view: str = "",
    *,
    width: int = 1300,
    locale: str = "en-US",
    dark: bool = False,
    refused: bool = False,
) -> Iterator[Page]:
    """Open a view of a server's page. refused: the server may answer 401, which browsers log."""
    context = by.new_context(
        viewport={"width": width, "height": 850},
        locale=locale,
        color_scheme="dark" if dark else "light",
    )
    faults = list[str]()
    page = context.new_page()

    def logged(message: ConsoleMessage) -> None:
        if message.type == "error" and not (refused and "401" in message.text):
            faults.append(message.text)

    def asked(request: Request) -> None:
        scheme, netloc = urlsplit(request.url)[:2]
        if scheme not in ("data", "blob") and netloc != urlsplit(url).netloc:
            faults.append(f"asked {request.url}")

    page.on("console", logged)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", asked)
    page.goto(f"{url}/#/{view}" if view else url)
    try:
        yield page
    finally:
        context.close()
    assert faults == []
