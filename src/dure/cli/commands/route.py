"""`dure route`: puts one address in front of several servers, and tells why each request went where."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dure.cli.terminal.console import errors, print_json
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.route_pods import with_pod_prices, with_pods
from dure.cli.terminal.route_report import (
    print_explanation,
    print_log,
    print_replay,
    print_report,
)
from dure.cli.terminal.route_rules import RulesFile, rules_of
from dure.cli.terminal.server_parameters import Guarding, Listening
from dure.errors import UsageError
from dure.http.settings import check_binding
from dure.places import route_directory
from dure.route.assembly import LEARNED, LOG, RouterPlan, run_router
from dure.route.decision_log import read_log, read_verdicts
from dure.route.explaining import Question, explained, explained_by_running
from dure.route.learned_file import read_learned
from dure.route.replay import replayed
from dure.route.report import report_of
from dure.route.rules_file import read_rules

__all__ = ["route"]

route = typer.Typer(
    help="Put one address in front of servers: each request goes where it is answered best.",
    no_args_is_help=True,
)

LogFile = Annotated[
    Path | None,
    typer.Argument(metavar="LOG", help="Log of a router.", show_default="this user's"),
]


@route.command()
@expanded
def serve(*, rules: RulesFile = None, listening: Listening, guarding: Guarding) -> None:
    """Serve the APIs of several servers at one address, until Ctrl-C.

    Example: dure route serve --rules rules.toml --port 8080
    """
    found, settings = rules_of(rules), guarding.settings(listening)
    check_binding(settings)
    if found.has_own_model:
        raise UsageError(
            'url = "here" is the model of `dure serve`',
            "start it with `dure serve MODEL --rules FILE`",
        )
    priced, starters = with_pods(found)
    plan = RouterPlan(rules=priced, directory=route_directory(), starters=starters)
    names = ", ".join(one.name for one in found.upstreams)
    code = run_router(
        plan,
        settings,
        announce=lambda url: _say(f"ready: {names} at {url}; Ctrl-C stops"),
        stopping=lambda: _say("stopping when running answers are done; Ctrl-C stops at once"),
    )
    raise typer.Exit(code)


@route.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="What would be asked.", show_default=False)],
    *,
    model: Annotated[str, typer.Option(help="Model that the request names.")] = "auto",
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", help="Most tokens of the answer.", show_default="none"),
    ] = None,
    key: Annotated[str, typer.Option(help="Name of the caller's key.")] = "",
    private: Annotated[
        bool, typer.Option("--private", help="As with the header X-Route-Private: house.")
    ] = False,
    rules: RulesFile = None,
    as_json: Json = False,
) -> None:
    """Show where a request would go now and why: every rule, what it saw, and the choice.

    If your router runs, it says what it would do. Without one, or with --rules, the upstreams are asked how
    they are; what caches hold is not known then. The prompt is sent to nobody, but if it is nearly as long
    as a context, those in the house count it.

    Example: dure route explain "Tell me a story about a goat." --max-tokens 200
    """
    question = Question(prompt=prompt, model=model, max_tokens=max_tokens, key=key, private=private)
    found = explained_by_running(question) if rules is None else None
    if found is None:
        learned = read_learned(route_directory() / LEARNED)
        priced, starters = with_pods(rules_of(rules))
        found = explained(priced, learned, question, starters)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        print_explanation(found)


@route.command()
def log(
    file: LogFile = None,
    *,
    n: Annotated[int, typer.Option("-n", "--lines", help="Number of requests, the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the last requests: where each went and why, and how its prediction held.

    Example: dure route log -n 50
    """
    lines = deque(read_log(_log_file(file)), maxlen=max(1, n))
    if as_json:
        print_json(msgspec.to_builtins(list(lines)))
    else:
        print_log(lines)


@route.command()
def replay(
    file: LogFile = None,
    *,
    with_rules: Annotated[
        Path,
        typer.Option("--with", metavar="FILE", help="TOML file with other rules in its [route]."),
    ],
    as_json: Json = False,
) -> None:
    """Decide a log's requests again by other rules: which go elsewhere, and what time and money that takes.

    Example: dure route replay --with new-rules.toml
    """
    found = replayed(read_log(_log_file(file)), with_pod_prices(read_rules(with_rules)))
    if as_json:
        moves = [
            {"before": before, "after": after, "requests": count}
            for (before, after), count in found.moves.most_common()
        ]
        print_json({**msgspec.structs.asdict(found), "moved": found.n_moved, "moves": moves})
    else:
        print_replay(found)


@route.command()
def report(file: LogFile = None, *, rules: RulesFile = None, as_json: Json = False) -> None:
    """Show how good the predictions were, what was spent, and what was saved.

    Example: dure route report
    """
    log_file = _log_file(file)
    found = report_of(read_log(log_file), with_pod_prices(rules_of(rules)), read_verdicts(log_file))
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        print_report(found)


def _log_file(file: Path | None) -> Path:
    return file or route_directory() / LOG


def _say(text: str) -> None:
    errors.print(text, markup=False, soft_wrap=True)
