"""How soon the page is there on a slow machine: the cluster's drawing, the processor throttled six times.

Starts `dure serve` of the demo model over two ranks, and opens its page in Chromium, with an empty cache in
every round. The clock begins with the navigation. Reported are the first contentful paint (something of the
page is seen), when both machines are in the document, and when they are painted: that is the first view,
and has the aim. The server is not throttled, but shares the machine: an idle one is needed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from measure import (
    BenchError,
    Contender,
    Quantity,
    Spread,
    alternate,
    machine,
    main,
    parser,
    positive,
)
from playwright.sync_api import Browser, CDPSession, sync_playwright
from serve_servers import HOST, Server, Setting, dure_serve, running_command

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
N_RANKS = 2
WIDTH, HEIGHT = 1300, 850
TIMEOUT_MS = 60_000
MOST_S = 1.0  # until the drawing is painted
LEAST_SLOWDOWN = 0.5  # of what was asked for: else the page was not throttled
QUANTITIES = (
    Quantity("first_s", "first contentful paint", "s", None),
    Quantity("drawn_s", "both machines in the document", "s", None),
    Quantity("painted_s", "both machines painted", "s", MOST_S, at_least=False),
    Quantity("kilobytes", "transferred until then", "kB", None),
    Quantity("requests", "requests until then", "", None),
    Quantity("slowdown", "a loop's time, throttled over not", "", None),
)
_WATCH = """
globalThis.firstView = new Promise((resolve, reject) => {
  setTimeout(() => reject("the machines were not drawn"), %(timeout_ms)d);
  const observer = new MutationObserver(() => {
    if (document.querySelectorAll(".drawing .node").length < %(n_ranks)d) return;
    observer.disconnect();
    const drawn_ms = performance.now();
    const painted = () => resolve([drawn_ms, performance.now()]);
    requestAnimationFrame(() => requestAnimationFrame(painted)); // the next frame begins
  });
  observer.observe(document, { childList: true, subtree: true });
});
"""
_LOADED = """(() => {
  const loads = ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type));
  return [loads.reduce((sum, { transferSize }) => sum + transferSize, 0), loads.length];
})()"""
_FIRST = """new Promise((resolve) => new PerformanceObserver((list) => {
  for (const { name, startTime } of list.getEntries())
    if (name === "first-contentful-paint") resolve(startTime);
}).observe({ type: "paint", buffered: true }))"""
_LOOP = """Math.min(...[1, 2, 3].map(() => {
  const begun = performance.now();
  let sum = 0;
  for (let i = 0; i < 1e7; i += 1) sum += i % 7;
  return performance.now() - begun + 0 * sum;
}))"""


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=9)
    options.add_argument(
        "--slower", type=positive, default=6, metavar="N", help="times (default %(default)s)"
    )
    arguments = options.parse_args()
    if CHROMIUM is None:
        raise BenchError("there is no browser: apt install chromium")
    setting = Setting(DEMO, 1, 4, 2048)

    def command(setting: Setting, port: int) -> list[str]:
        return dure_serve(setting, port, more=("--ranks", str(N_RANKS)))

    with running_command("dure", command, setting) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        measure = partial(_visit, browser, server, arguments.slower)
        measure()  # the browser's own first page
        samples = alternate([Contender("page", measure)], arguments.rounds)["page"]
        browser.close()
    spreads = {one.key: Spread.of([sample[one.key] for sample in samples]) for one in QUANTITIES}
    if (slowdown := spreads["slowdown"].median) < LEAST_SLOWDOWN * arguments.slower:
        raise BenchError(f"a loop took {slowdown:.1f} times as long: the browser did not throttle")
    return _report(arguments, spreads)


def _visit(browser: Browser, server: Server, slower: int) -> dict[str, float]:
    """Open the page as somebody who was never there, and return what it took."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    try:
        page = context.new_page()
        tools = context.new_cdp_session(page)
        tools.send("Page.enable")
        source = _WATCH % {"timeout_ms": TIMEOUT_MS, "n_ranks": N_RANKS}
        tools.send("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        tools.send("Emulation.setCPUThrottlingRate", {"rate": slower})
        page.goto(f"http://{HOST}:{server.address.port}/", wait_until="commit")
        drawn_ms, painted_ms = _evaluated(tools, "firstView")
        n_bytes, requests = _evaluated(tools, _LOADED)
        first_ms = _evaluated(tools, _FIRST)
        loop_ms = _evaluated(tools, _LOOP)
        tools.send("Emulation.setCPUThrottlingRate", {"rate": 1})
        slowdown = loop_ms / _evaluated(tools, _LOOP)
    finally:
        context.close()
    return {
        "first_s": first_ms / 1e3,
        "drawn_s": drawn_ms / 1e3,
        "painted_s": painted_ms / 1e3,
        "kilobytes": n_bytes / 1e3,
        "requests": requests,
        "slowdown": slowdown,
    }


def _evaluated(tools: CDPSession, expression: str) -> Any:
    """Return what an expression of the page gives; Playwright's own way puts scripts into the page."""
    asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
    answer = tools.send("Runtime.evaluate", asked)
    if "exceptionDetails" in answer:
        raise BenchError(f"the page: {answer['result'].get('value', answer['exceptionDetails'])}")
    return answer["result"]["value"]


def _report(arguments: argparse.Namespace, spreads: Mapping[str, Spread]) -> int:
    """Print the result; return 0 if the medians meet their aims, else 1."""
    met = {one.key: one.met(spreads[one.key].median) for one in QUANTITIES}
    if arguments.json:
        rows = [
            {
                "quantity": one.label,
                "unit": one.unit,
                **asdict(spreads[one.key]),
                "target": one.goal,
                "met": met[one.key],
            }
            for one in QUANTITIES
        ]
        document = {
            "bench": "first_view",
            "settings": {"slower": arguments.slower, "ranks": N_RANKS, "width": WIDTH},
            "machine": machine(),
            "quantities": rows,
        }
        print(json.dumps(document, indent=2))
    else:
        print(f"processor slower {arguments.slower} times  ranks {N_RANKS}  width {WIDTH}")
        for one in QUANTITIES:
            spread = spreads[one.key]
            verdict = "" if one.target is None else "  met" if met[one.key] else "  MISSED"
            value = f"{spread.median:.3g} ({spread.min:.3g} to {spread.max:.3g}) {one.unit}"
            aim = "" if one.target is None else f"  {one.goal}"
            print(f"{one.label:36}{value.strip()}{aim}{verdict}")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    main(run)
