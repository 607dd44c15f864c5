"""Machines that sleep and are woken, and money that is promised while it is earned."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack

import msgspec

from dure.pods.ledger import Entry, PodLimits
from dure.pods.money import Disks, Money
from dure.route.dialects import RoutedRequest, read_request
from dure.route.health import UpstreamHealth
from dure.route.learning import Learned
from dure.route.rented import with_prices
from dure.route.router import RoutePlan, Router
from dure.route.starting import Wake, magic_packet
from dure.route.upstream import RouteRules, Upstream
from dure.route.watching import look
from tests.support.scripted_upstream import scripted

MAC = "d8:3a:dd:01:02:03"
WAIT_S = 30.0  # detects a hang; nothing is measured with it


def chat(target: str = "") -> RoutedRequest:
    body = {"messages": [{"role": "user", "content": "Ring it."}], "max_tokens": 1000}
    return read_request("/v1/chat/completions", msgspec.json.encode(body), (), target)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_sleeping_machine_is_woken_once_and_waited_for() -> None:
    """It starts at the packet; all requests that wait for it go on when it says that it is ready."""
    port = free_port()
    desk = Upstream(
        name="desk", url=f"http://127.0.0.1:{port}", models=("small",), wake=MAC, start_s=WAIT_S
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card, ExitStack() as machine:
        card.bind(("127.0.0.1", 0))
        card.settimeout(WAIT_S)

        def sleep() -> None:
            assert card.recv(1000) == magic_packet(MAC)
            machine.enter_context(scripted(port=port))

        sleeper = threading.Thread(target=sleep)
        sleeper.start()

        async def ask() -> tuple[RoutePlan, list[bool]]:
            wake = Wake("127.0.0.1", card.getsockname()[1])
            router = Router(RouteRules(upstreams=(desk,)), Learned(), {"desk": wake})
            live = router.upstreams["desk"]
            await look(live)
            plan = await router.plan(chat(), "", private=False)
            found = await asyncio.gather(router.starts.started(live), router.starts.started(live))
            live.client.close()
            return plan, list(found)

        plan, found = asyncio.run(ask())
        sleeper.join(WAIT_S)
    assert plan.facts["desk"].state == "asleep"
    assert plan.decision.predictions["desk"].start_s == WAIT_S
    assert found == [True, True]


def test_a_machine_that_does_not_wake_rests() -> None:
    """It is not woken again at the next request."""
    url = f"http://127.0.0.1:{free_port()}"
    desk = Upstream(name="desk", url=url, models=("small",), wake=MAC, start_s=0.2)

    async def ask() -> tuple[bool, RoutePlan]:
        router = Router(
            RouteRules(upstreams=(desk,)), Learned(), {"desk": Wake("127.0.0.1", free_port())}
        )
        is_up = await router.starts.started(router.upstreams["desk"])
        return is_up, await router.plan(chat(), "", private=False)

    is_up, plan = asyncio.run(ask())
    assert not is_up
    assert plan.decision.refusal == "down"
    assert "did not wake up" in plan.decision.lines[-1].excluded["desk"]


def test_a_probe_does_not_forget_a_start_in_vain() -> None:
    """Health is asked every two seconds: that alone starts nothing again. Found up, it may answer."""
    asleep = UpstreamHealth().did_not_start(100.0, 60.0, "did not wake up")
    asked = asleep.unreachable("cannot be reached")
    assert (asked.rest_until_s, asked.why) == (160.0, "did not wake up")
    assert asked.found_up() == UpstreamHealth(status="up", why="")


def test_the_next_start_is_believed_to_take_what_the_last_one_took() -> None:
    """Whatever the rules say."""
    pod = Upstream(name="a", pod="q", kind="pod", models=("small",), start_s=WAIT_S)
    learned = Learned()
    learned.upstream("a").observe_start(7.0)

    async def ask() -> RoutePlan:
        return await Router(RouteRules(upstreams=(pod,)), learned).plan(chat(), "", private=False)

    assert asyncio.run(ask()).decision.predictions["a"].start_s == 7.0


def test_a_pod_costs_what_the_ledger_says_unless_the_rules_say_it() -> None:
    """The newest pod of the name counts; one that was never rented costs nothing that is known."""
    pod = Upstream(name="a", pod="q", kind="pod")
    own = Upstream(name="b", pod="q", kind="pod", usd_per_hour=0.1)
    rules = RouteRules(upstreams=(pod, own, Upstream(name="c", pod="r", kind="pod")))
    found = with_prices(rules, [rented("q", "0.9"), rented("q", "0.5")])
    assert [one.usd_per_hour for one in found.upstreams] == [0.5, 0.1, 0.0]


def rented(name: str, hourly: str) -> Entry:
    """An entry of the ledger."""
    return Entry(
        name=name,
        label=f"dure-{name}-{hourly}",
        template="serve",
        gpu="",
        gpus=1,
        cloud="SECURE",
        disks=Disks(),
        volume_path="",
        server_port=8080,
        limits=PodLimits(3600, Money.of(10), 0, Money.of(hourly)),
        made_at=0.0,
    )


def test_money_that_running_answers_may_cost_is_spent_already() -> None:
    """Two requests at once cannot both spend the last cent."""
    cloud = Upstream(
        name="cloud",
        url="http://127.0.0.1:1",
        kind="cloud",
        models=("small",),
        usd_per_million_answer_tokens=10.0,
    )
    rules = RouteRules(
        daily_usd=0.004, upstreams=(cloud,)
    )  # an answer of unknown length: 256 tokens

    async def ask() -> list[str]:
        router = Router(rules, Learned())
        router.upstreams["cloud"].health = router.upstreams["cloud"].health.found_up()
        first = await router.plan(chat(), "", private=False)
        router.began(first)
        second = await router.plan(chat(), "", private=False)
        router.ended(first)
        third = await router.plan(chat(), "", private=False)
        plans = (first, second, third)
        return [plan.decision.target or str(plan.decision.refusal) for plan in plans]

    assert asyncio.run(ask()) == ["cloud", "spent", "cloud"]
