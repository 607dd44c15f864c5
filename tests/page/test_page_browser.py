"""The page in a real browser, before a real server of two ranks: every view, and what goes wrong."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, expect

from dure.model.gguf import GgufWriter, open_gguf
from dure.serve.page.built import index
from dure.tune.result.card import DataFile, TuneCard
from dure.work_notes import GrowingCurve, WorkWriter
from dure.work_notes.writing import EVERY_S
from tests.support.browsing import CHROMIUM, browser, visiting
from tests.support.chat_templates import GEMMA
from tests.support.dure_server import DEMO, Home, Serving
from tests.support.long_work import halted_cut, write_400_mb
from tests.support.parrot import write_speaker
from tests.support.tiny_models import chats, write_lines

WAIT_MS = 30_000  # detects a hang; nothing is measured with it
KEY = "sk-page-0123456789"
QUESTION = "Tell me a story about a goat."
VIEWS = ("cluster", "now", "token", "chat", "models", "log")
HOSTILE = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "[here](javascript:document.title='owned')",
    "[there](https://example.com/)",
    "**bold**",
)


pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no browser: apt install chromium"),
    pytest.mark.skipif(index() is None, reason="the page was not built: make page"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home of whoever serves."""
    return Home(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Serving]:
    """A server of the demo model over two ranks."""
    with home.serving("--ranks", "2") as found:
        yield found


@pytest.fixture(autouse=True)
def patient() -> None:
    expect.set_options(timeout=WAIT_MS)


def expect_view(page: Page, view: str) -> None:
    """Wait until a view is shown: its file may still be on its way."""
    expect(page.locator(f"main.view-{view} :is(h1, h2)").first).to_be_attached()


def send(page: Page, text: str) -> None:
    """Write a message in the chat, and send it."""
    page.get_by_label("Write a message").fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


# ---------------------------------------------------------------- every view


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
def test_every_view_is_shown_and_accessible(
    chromium: Browser, server: Serving, view: str, locale: str
) -> None:
    """In both languages: with its heading, and without a serious finding of axe."""
    with visiting(chromium, server.url, view, locale=locale, dark=locale == "ko-KR") as page:
        expect_view(page, view)
        expect(page.get_by_text("dure-demo").first).to_be_visible()
        if view == "token":
            expect(page.locator("main table").first).to_be_visible()
        assert page.evaluate("document.documentElement.lang") == locale[:2]
        found = Axe().run(page).response["violations"]
        serious = [
            f"{one['id']}: {one['nodes'][0]['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == []


@pytest.mark.parametrize("width", [320, 2000])
def test_no_view_is_wider_than_its_window(chromium: Browser, server: Serving, width: int) -> None:
    """On a small phone, and on a large screen."""
    with visiting(chromium, server.url, width=width) as page:
        for view in VIEWS:
            page.goto(f"{server.url}/#/{view}")
            expect_view(page, view)
            if view == "chat":
                send(page, f"{QUESTION} {QUESTION}")  # its title is a long one
                expect(page.get_by_role("heading", name=QUESTION)).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view


def test_the_keyboard_reaches_every_view(chromium: Browser, server: Serving) -> None:
    """First a link that skips the navigation, then the views, each with its focus visible."""
    with visiting(chromium, server.url) as page:
        expect(page.get_by_role("navigation").first).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the content")
        names = []
        for _ in range(12):
            page.keyboard.press("Tab")
            names.append(page.evaluate("document.activeElement.textContent").strip())
        assert {"Cluster", "Now", "Token", "Chat", "Models", "Log"} <= set(names)


# ---------------------------------------------------------------- chat


def test_an_answer_is_streamed_and_kept(chromium: Browser, server: Serving) -> None:
    """It is there after a reload, with its speed; what was not sent, after a look at another view."""
    with visiting(chromium, server.url, "chat") as page:
        page.get_by_label("Write a message").fill(QUESTION)
        page.goto(f"{server.url}/#/cluster")
        expect(page.get_by_text("Machines").first).to_be_visible()
        page.goto(f"{server.url}/#/chat")
        expect(page.get_by_label("Write a message")).to_have_value(QUESTION)
        send(page, QUESTION)
        expect(page.get_by_text(re.compile(r"\d+ tokens, [\d.,]+ tok/s"))).to_be_visible()
        expect(page.get_by_label("Write a message")).to_have_value("")
        page.reload()
        expect(page.get_by_text(re.compile(r"\d+ tokens, [\d.,]+ tok/s"))).to_be_visible()


def test_an_answer_is_stopped_in_the_middle(chromium: Browser, server: Serving) -> None:
    """What was written stays; the engine writes no more."""
    with visiting(chromium, server.url, "chat") as page:
        send(page, QUESTION)
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.get_by_text("stopped", exact=False).first).to_be_visible()
        page.goto(f"{server.url}/#/now")
        expect(page.get_by_text("No request is running.")).to_be_visible()


def test_what_a_model_says_is_text(chromium: Browser, tmp_path: Path) -> None:
    """Neither script nor picture nor address of a hostile model does anything."""
    model = tmp_path / "hostile.gguf"
    write_speaker(model, DEMO, [f"{piece}\n\n" for piece in HOSTILE], GEMMA)
    with (
        Home(tmp_path).serving(model=model) as server,
        visiting(chromium, server.url, "chat") as page,
    ):
        send(page, "Hello")
        expect(page.get_by_text("bold", exact=True)).to_be_visible()
        answer = page.locator("main")
        expect(answer.get_by_text(HOSTILE[0])).to_be_visible()
        expect(answer.get_by_text(HOSTILE[1])).to_be_visible()
        assert answer.locator("img").count() == 0
        assert answer.locator("script").count() == 0
        assert page.title() != "owned"
        links = answer.locator("a")
        targets = [links.nth(n).get_attribute("href") for n in range(links.count())]
        assert targets == ["https://example.com/"]
        assert "noopener" in (links.first.get_attribute("rel") or "")


# ---------------------------------------------------------------- what goes on, and wrong


@contextmanager
def writing(url: str) -> Iterator[None]:
    """Have long answers written within the block."""
    ended = threading.Event()

    def ask() -> None:
        body = {"prompt": "The bell", "max_tokens": 1500, "ignore_eos": True, "n": 4}
        while not ended.is_set():
            httpx.post(f"{url}/v1/completions", json=body, timeout=120)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(120)


def test_running_requests_are_shown_and_cancelled(chromium: Browser, server: Serving) -> None:
    """With their speed; a strip of every rank moves meanwhile, and tells its numbers as a table."""
    with writing(server.url), visiting(chromium, server.url, "now") as page:
        expect(page.get_by_text("writing").first).to_be_visible()
        expect(page.get_by_text(re.compile(r"\d+ steps shown"))).to_be_visible()
        rows = page.locator("table").filter(has_text="wait and wire").locator("tbody tr")
        expect(rows).to_have_count(2)
        page.get_by_role("button", name="Cancel").first.click()


SHOWN = {"cluster": "Machines", "now": "writing", "token": "Where the time went"}


@pytest.mark.parametrize("view", [*SHOWN, "chat"])
def test_pictures_of_the_documents_show_work(
    chromium: Browser, server: Serving, view: str, tmp_path: Path
) -> None:
    """Each view while answers are written; DURE_SCREENSHOTS names where docs/page.md has them."""
    picture = Path(os.environ.get("DURE_SCREENSHOTS", tmp_path)) / f"page-{view}.png"
    busy = nullcontext() if view == "chat" else writing(server.url)
    with busy, visiting(chromium, server.url, view) as page:
        if view == "chat":
            send(page, QUESTION)
            expect(page.get_by_text(re.compile(r"\d+ tokens, [\d.,]+ tok/s"))).to_be_visible()
        else:
            expect(page.get_by_text(SHOWN[view]).first).to_be_visible()
            page.wait_for_timeout(3000)  # the strip has moved on
        page.screenshot(path=picture)
    assert picture.stat().st_size > 10_000


def test_a_lost_rank_is_seen_while_the_answer_goes_on(chromium: Browser, server: Serving) -> None:
    """The cluster's view says so by itself, and that all is well again; in Korean too."""
    with (
        writing(server.url),
        visiting(chromium, server.url, "cluster") as page,
        visiting(chromium, server.url, "log", locale="ko-KR") as korean,
    ):
        expect(page.get_by_text("ready").first).to_be_visible()
        ranks = [
            one
            for one in server.engine().children(recursive=True)
            if any("rank" in word for word in one.cmdline())
        ]
        ranks[-1].kill()
        expect(page.get_by_text(re.compile("starts again|the engine ended")).first).to_be_visible()
        expect(page.get_by_role("banner").get_by_text("ready")).to_be_visible()
        killed = re.compile(r"엔진이 종료되어 다시 시작합니다: \d번 랭크가 답변 생성 중에")
        expect(korean.get_by_text(killed).first).to_be_visible()


def test_a_key_is_asked_for_and_kept(chromium: Browser, tmp_path: Path) -> None:
    """A wrong one is told; the right one opens every view, also after a reload."""
    with (
        Home(tmp_path).serving("--api-key", f"anna:{KEY}") as server,
        visiting(chromium, server.url, refused=True) as page,
    ):
        page.get_by_label("API key").fill("sk-wrong")
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_text("did not accept this key")).to_be_visible()
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_text("dure-demo").first).to_be_visible()
        page.reload()
        expect(page.get_by_text("Machines").first).to_be_visible()


class _Slow(BaseHTTPRequestHandler):
    """Serves a model slowly."""

    protocol_version = "HTTP/1.1"
    release = threading.Event()

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        data = DEMO.read_bytes()
        self._head()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.release.wait(60)
        self.wfile.write(data[len(data) // 2 :])

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(DEMO.stat().st_size))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_model_is_pulled_with_its_progress(chromium: Browser, server: Serving) -> None:
    """Half of it is seen before the rest comes; then it is listed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        with visiting(chromium, server.url, "models") as page:
            page.locator("main").get_by_role("textbox").fill(
                f"http://127.0.0.1:{hub.server_port}/other.gguf"
            )
            page.get_by_role("button", name="Pull", exact=True).click()
            expect(page.get_by_text(re.compile("running")).first).to_be_visible()
            expect(page.get_by_text(re.compile("3.7 MB of 7.4 MB"))).to_be_visible()
            _Slow.release.set()
            expect(page.get_by_text("done", exact=True).first).to_be_visible()
            expect(page.get_by_text("other.gguf").first).to_be_visible()
        hub.shutdown()


def test_a_cut_in_a_terminal_is_seen_and_stopped(
    chromium: Browser, server: Serving, home: Home, tmp_path: Path
) -> None:
    """Without a reload: how far it is, and that it was stopped; nothing is left of the files it wrote."""
    model, out = write_400_mb(tmp_path / "large.gguf"), tmp_path / "shards"
    with visiting(chromium, server.url, "models") as page:
        expect(page.get_by_text("On disk")).to_be_visible()
        with halted_cut(home.dure, model, out) as process:
            item = page.get_by_role("listitem").filter(has_text="large.gguf")
            expect(item).to_contain_text("running")
            expect(item).to_contain_text(re.compile(r"\d MB of 40\d MB"))
            page.get_by_role("button", name="Stop large.gguf").click()
            process.send_signal(signal.SIGCONT)
            assert process.wait(WAIT_MS / 1000) == 130
        expect(item).to_contain_text("stopped")
        expect(page.get_by_role("status").get_by_text("cut large.gguf: stopped")).to_be_attached()
    assert list(out.glob("*.gguf")) == []


def test_a_model_is_cut_from_the_page(chromium: Browser, server: Serving, home: Home) -> None:
    """By a process of its own; its shards are those that `--ranks` finds. What it refuses is told there."""
    with visiting(chromium, server.url, "models") as page:
        model = page.get_by_role("listitem").filter(has_text="served now")
        model.get_by_text("Make smaller, cut, or tune").click()
        model.get_by_label("Machines").fill("3")
        model.get_by_role("button", name="Cut", exact=True).click()
        expect(page.get_by_role("status").get_by_text("cut dure-demo.gguf: done")).to_be_attached()
    shards = Path(home.dure.environment["DURE_CACHE"]) / "shards"
    assert len(list(shards.glob("dure-demo-rank?of3-*.gguf"))) == 3


def test_a_model_is_tuned_from_the_page(
    chromium: Browser, server: Serving, home: Home, tmp_path: Path
) -> None:
    """With a file of examples, which stays beside the result; it is stopped there. A name is had once."""
    data = write_lines(tmp_path / "answers.jsonl", *chats(60))
    with visiting(chromium, server.url, "models") as page:
        model = page.get_by_role("listitem").filter(has_text="served now")
        model.get_by_text("Make smaller, cut, or tune").click()
        model.get_by_label("Examples, in JSONL").set_input_files(data)
        model.get_by_label("Name of the result").fill("goats")
        model.get_by_role("button", name="Tune", exact=True).click()
        page.get_by_role("button", name="Stop dure-demo.gguf").click()
        expect(
            page.get_by_role("status").get_by_text("tune dure-demo.gguf: stopped")
        ).to_be_attached()
    kept = Path(home.dure.environment["DURE_MODELS"]) / "goats" / "examples.jsonl"
    assert len(kept.read_text().splitlines()) == 60
    others = {"path": str(DEMO), "name": "goats", "epochs": 1, "examples": "{}"}
    refused = httpx.post(f"{server.url}/page/models/tune", json=others, timeout=60)
    assert "goats is there already" in refused.json()["error"]["message"]


def test_a_tuning_is_seen_with_its_losses(
    chromium: Browser, server: Serving, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a chart that goes on while it learns, in both languages; then it is done, and the chart stays."""
    monkeypatch.setenv("DURE_WORK", home.dure.environment["DURE_WORK"])
    work, curve = WorkWriter("tune", "goat.gguf"), GrowingCurve()
    work.begin("learning", 2000, "steps")
    for step in range(1, 801):
        curve.learn(step, 1 + 100 / step)
    curve.evaluate(800, 1.5)
    with (
        visiting(chromium, server.url, "models") as page,
        visiting(chromium, server.url, "models", locale="ko-KR") as korean,
    ):
        item = page.get_by_role("listitem").filter(has_text="goat.gguf")
        expect(item).to_contain_text("learning")
        expect(item.locator("svg")).to_have_count(0)
        work.draw(curve.curve)
        time.sleep(EVERY_S)
        work.reach(800)
        expect(item).to_contain_text("800 steps of 2,000 steps")
        expect(item.get_by_role("img", name="loss 1.1, held-out loss 1.5")).to_be_visible()
        expect(korean.get_by_role("img", name="손실 1.1, 검증 손실 1.5")).to_be_visible()
        expect(item.locator("svg path")).to_have_count(2)
        curve.evaluate(900, 1.25)
        work.draw(curve.curve)
        work.end("done")
        expect(item.get_by_role("img", name="loss 1.1, held-out loss 1.3")).to_be_visible()
        expect(page.get_by_role("status").get_by_text("tune goat.gguf: done")).to_be_attached()


def test_a_tuned_model_says_what_it_was_made_of(
    chromium: Browser, server: Serving, home: Home
) -> None:
    """Its file has the card: base, examples, steps and losses."""
    card = TuneCard(
        base="Goat-0.6B",
        base_fingerprint="abcd",
        method="lora",
        data=(DataFile("answers.jsonl"),),
        examples=1234,
        step=300,
        steps=300,
        loss=0.25,
        eval_loss=0.75,
        settings={},
        dure="1",
    )
    models = Path(home.dure.environment["DURE_MODELS"])
    models.mkdir(exist_ok=True)
    with (
        open_gguf(DEMO) as demo,
        GgufWriter(models / "tuned.gguf", {**demo.metadata, **card.metadata()}, []),
    ):
        pass
    with visiting(chromium, server.url, "models") as page:
        model = page.get_by_role("listitem").filter(has_text="tuned.gguf")
        for told in ("Tuned from Goat-0.6B", "examples 1,234", "steps 300", "held-out loss 0.75"):
            expect(model).to_contain_text(re.compile(r"\s*".join(map(re.escape, told.split()))))


def test_the_first_view_needs_little(chromium: Browser, server: Serving) -> None:
    """The page, a script and a style sheet, 40 kB in all, and the feed: nothing of the other views."""
    context = chromium.new_context()
    page = context.new_page()
    asked = list[Request]()
    page.on("request", lambda one: asked.append(one))  # noqa: PLW0108 (Playwright takes no built-in)
    page.clock.install()  # so that no pause ends: after one, the other views are loaded
    page.goto(server.url, wait_until="commit")
    expect(page.locator(".drawing .node")).to_have_count(2)
    sizes = {
        re.sub(r"^/page/assets/.*[.]", "file.", urlsplit(one.url).path): one.sizes()
        for one in asked
        if not one.url.endswith("/page/feed")  # it goes on
    }
    context.close()
    assert sorted(sizes) == ["/", "file.css", "file.js"]
    assert len(asked) == 4
    assert sum(one["responseBodySize"] for one in sizes.values()) <= 40_000


def test_every_view_opens_after_the_server_has_gone(chromium: Browser, server: Serving) -> None:
    """The files of the others were loaded meanwhile, one by one."""
    context = chromium.new_context()
    page = context.new_page()
    loaded = set[str]()
    page.on("requestfinished", lambda one: loaded.add(re.sub("-.*", "", one.url.split("/")[-1])))
    page.clock.install()
    page.goto(server.url)
    expect(page.locator(".drawing .node")).to_have_count(2)
    for _ in VIEWS[1:]:
        page.clock.run_for(1000)
    views = {f"{view.title()}View" for view in VIEWS[1:]}
    while not views <= loaded:
        page.wait_for_event("requestfinished", timeout=WAIT_MS)
    page.clock.resume()
    context.set_offline(True)
    for view in VIEWS[1:]:
        page.goto(f"{server.url}/#/{view}")
        expect_view(page, view)
    context.close()
