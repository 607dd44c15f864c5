"""The site of the documents: every page is there, and a browser needs nothing but the site."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LOADING = {  # what a browser fetches without being asked
    "audio": "src", "embed": "src", "iframe": "src", "img": "src", "link": "href", "object": "data",
    "script": "src", "source": "src", "video": "src",
}  # fmt: skip


class _Page(HTMLParser):
    """What a page loads, what it links to, the places that links may name, and its classes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.places: set[str] = set()
        self.classes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if (target := given.get(LOADING.get(tag, ""))) and given.get("rel") != "canonical":
            self.loaded.append(target)
        if tag == "a" and "href" in given:
            self.linked.append(given["href"])
        self.places.add(given.get("id") or given.get("name") or "")
        self.classes.update(given.get("class", "").split())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built so that MkDocs fails at anything that it would warn of."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Page]:
    return {path: _Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_document_is_a_page_and_so_is_code_that_one_links_to(site: Path) -> None:
    for document in ROOT.glob("docs/**/*.md"):
        page = site / document.relative_to(ROOT / "docs").with_suffix(".html")
        assert page.exists()
    assert "runs one large language model" in (site / "index.html").read_text()
    code = (site / "source" / "src" / "dure" / "engine" / "executor.py.html").read_text()
    assert "Batch" in code


def test_a_page_says_its_language(site: Path) -> None:
    assert '<html lang="ko"' in (site / "README.ko.html").read_text()
    assert '<html lang="en"' in (site / "index.html").read_text()


def test_a_browser_loads_nothing_from_another_origin(pages: dict[Path, _Page]) -> None:
    """No font, script or picture: and what draws Mermaid, which the theme fetches, is not wanted."""
    for path, page in pages.items():
        assert page.loaded, path
        assert [one for one in page.loaded if urlsplit(one).netloc] == [], path
        assert "mermaid" not in page.classes


def test_styles_load_nothing_from_another_origin(site: Path) -> None:
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)|@import", style.read_text()) == []


def test_every_link_within_the_site_leads_somewhere(site: Path, pages: dict[Path, _Page]) -> None:
    """To a page, and to a place in it if the link names one."""
    for path, page in pages.items():
        base = site if path.name == "404.html" else path.parent
        for link in page.linked + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].places, f"{path}: {link}"
