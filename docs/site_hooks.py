"""Makes a site of the pages as they are: MkDocs calls these functions (`make site`).

Pages are written for a code host: they link to files of the repository, and README.md is the first of
them. On the site a link that leaves docs/ leads to a page that shows the file, so nothing depends on
where the repository is published. Knows nothing of what the pages say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FRONT = ("README.md", "README.ko.md", "CONTRIBUTING.md", "CHANGELOG.md")
LANGUAGES = {  # of files that a page may show
    ".py": "python", ".c": "c", ".h": "c", ".sh": "bash", ".md": "", ".toml": "toml", ".csv": "text",
    ".ts": "typescript", ".mjs": "javascript", ".svelte": "html", ".html": "html", ".css": "css",
    ".json": "json", ".yml": "yaml", ".yaml": "yaml", "": "make",
}  # fmt: skip
LEFT_OUT = {"node_modules", "package-lock.json"}

_LINK = re.compile(r"""(\]\(|(?:src|href)=")(?![a-z]+:|\#|/)([^)\s"#]+)""")
_FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)
_PAGE_NAME = re.compile(r"\[[\w./-]+\.md\]\(([^)\s#]+\.md)(?=[)#])")
_ITEM = re.compile(r"^(- |\d+\. )")


def site_path(path: str) -> str:
    """Return where the site has a file or folder of the repository."""
    if path == "README.md":
        return "index.md"
    if path in FRONT:
        return path
    of_site = path.startswith("docs/") and not path.endswith(".py")
    name = path.removeprefix("docs/") if of_site else f"source/{path}"
    if (ROOT / path).is_dir():
        return f"{name}/index.md"
    return name if of_site or name.endswith(".md") else f"{name}.md"


def repository_path(site: str) -> str:
    """Return the file of the repository that a page of the site was made of."""
    if site == "index.md":
        return "README.md"
    if site in FRONT:
        return site
    if not site.startswith("source/"):
        return f"docs/{site}".removesuffix("/index.md")
    path = site.removeprefix("source/").removesuffix("/index.md")
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front pages, and every file and folder that a page leads to."""
    for name in FRONT:
        if (ROOT / name).exists():
            files.append(File.generated(config, site_path(name), content=(ROOT / name).read_text()))
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        for target in targets(repository_path(waiting.pop())):
            site = site_path(target)
            if (ROOT / target).exists() and not files.get_file_from_path(site):
                files.append(File.generated(config, site, content=shown(target)))
                waiting.append(site)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Write a page's links, lists and comments as the site needs them."""
    site = page.file.src_uri
    path = repository_path(site)
    if not path.endswith(".md"):
        return markdown
    parts = fences(markdown)
    return "".join(_drawn(part) if is_code else _told(part, path, site) for is_code, part in parts)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Say in which language a page is: a reader's voice and its breaks of lines depend on it."""
    if page.file.src_uri == "README.ko.md":
        return output.replace('<html lang="en"', '<html lang="ko"', 1)
    return output


def targets(path: str) -> Iterator[str]:
    """Yield the paths in the repository that a page's relative links lead to, or that a folder has."""
    if (ROOT / path).is_dir():
        yield from (f"{path}/{name}" for name in _inside(path))
    elif path.endswith(".md"):
        for is_code, part in fences((ROOT / path).read_text()):
            if not is_code:
                yield from (_target(path, link) for _, link in _LINK.findall(part))


def shown(path: str) -> str:
    """Return a page that shows a file of the repository, or lists a folder."""
    file = ROOT / path
    if file.is_dir():
        lines = [f"- [{_title(file / name)}]({_below(path, name)})" for name in _inside(path)]
        return "\n".join([f"# {PurePosixPath(path).name.capitalize()}", "", *lines, ""])
    if path.endswith(".md"):
        return file.read_text()
    language = LANGUAGES.get(file.suffix, "text")
    head = "---\nsearch:\n  exclude: true\n---\n"
    return f"{head}# `{path}`\n\n~~~~~~{language}\n{file.read_text()}\n~~~~~~\n"


def fences(markdown: str) -> Iterator[tuple[bool, str]]:
    """Divide a page into text and fenced code: whether it is code, and its lines."""
    lines, is_code, part = markdown.splitlines(keepends=True), False, ""
    for line in lines:
        if _FENCE.match(line):
            if is_code:
                yield True, part + line
                part = ""
            else:
                yield False, part
                part = line
            is_code = not is_code
        else:
            part += line
    yield is_code, part


def _drawn(code: str) -> str:
    """Write a diagram as a table: what draws Mermaid would be loaded from another origin."""
    if not code.startswith("```mermaid"):
        return code
    arrows = re.findall(r"^ *(\w+) --> (\w+): (.+)$", code, re.MULTILINE)
    rows = [f"| {state} | {event} | {after} |" for state, after, event in arrows]
    return "\n".join(["", "| in state | when | follows |", "|---|---|---|", *rows, ""])


def _told(text: str, path: str, site: str) -> str:
    def link(found: re.Match[str]) -> str:
        target = _target(path, found[2])
        if not (ROOT / target).exists():
            return found[0]
        return found[1] + relpath(site_path(target), start=str(PurePosixPath(site).parent))

    def named(found: re.Match[str]) -> str:
        target = ROOT / _target(path, found[1])
        return f"[{_title(target)}]({found[1]}" if target.exists() else found[0]

    text = re.sub(r"<!--.*?-->\n", "\n", text, flags=re.DOTALL)
    return _LINK.sub(link, _PAGE_NAME.sub(named, _listed(text)))


def _listed(text: str) -> str:
    """Write lists as Python's Markdown wants them: what belongs to an item is indented by four, and an item
    after anything but an item follows a blank line. Code hosts read both forms.
    """
    lines, width = [""], 0
    for line in text.splitlines(keepends=True):
        if item := _ITEM.match(line):
            if lines[-1].strip() and not _ITEM.match(lines[-1]):
                lines.append("\n")
            width = len(item[1])
        elif line.strip() and not line.startswith(" " * max(width, 1)):
            width = 0
        elif line.strip() and width:
            lines.append(" " * (4 - width))
        lines.append(line)
    return "".join(lines)


def _target(page: str, link: str) -> str:
    return normpath(PurePosixPath(page).parent / link)


def _inside(folder: str) -> list[str]:
    files = (ROOT / folder).iterdir()
    shown_ones = (one.name for one in files if one.is_dir() or one.suffix in LANGUAGES)
    return sorted(n for n in shown_ones if not n.startswith(("_", ".")) and n not in LEFT_OUT)


def _title(file: Path) -> str:
    heading = (
        re.search(r"^# (.+)$", file.read_text(), re.MULTILINE) if file.suffix == ".md" else None
    )
    return heading[1] if heading else file.name


def _below(folder: str, name: str) -> str:
    return relpath(
        site_path(f"{folder}/{name}"), start=str(PurePosixPath(site_path(folder)).parent)
    )
