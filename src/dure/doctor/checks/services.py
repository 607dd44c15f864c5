"""Checks of what else runs on the machine: its clock's keeper, monitoring, timers."""

from __future__ import annotations

from collections.abc import Iterator

from dure.doctor.finding import SettingValue, Verdict, check, healthy, note, warning
from dure.hardware.examination.condition import Condition

__all__ = ["CHECKS"]

_MONITORS = (
    "netdata", "telegraf", "node_exporter", "prometheus", "glances", "cadvisor", "grafana", "zabbix_agent",
    "collectd", "datadog", "agent-linux", "beszel", "scrutiny", "pmcd", "pmlogger", "otelcol", "alloy",
    "fluent-bit", "promtail", "vector", "htop", "btop", "top", "atop", "rpi-monitor",
)  # fmt: skip
_MUCH, _VERY_MUCH = 0.05, 0.25  # of a core
_VERY_OFTEN_S = 60.0


@check(
    "time",
    "clock time",
    "Machines believe each other's certificates only while their clocks agree, and a board forgets the "
    "time when it is off.",
    "time_keeping",
)
def time_keeping(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the clock follows a time server."""
    if (keeping := condition.time_keeping) is None:
        return
    if keeping.is_synchronized:
        yield healthy("the clock follows a time server")
    elif keeping.asks_server:
        cure = "let UDP port 123 through, or name a server in /etc/systemd/timesyncd.conf"
        yield warning("no time server has answered", "NTP=yes, NTPSynchronized=no", cure)
    else:
        evidence, fix = "NTP=no, NTPSynchronized=no", SettingValue("ntp", "yes")
        yield warning(
            "the clock is set by nobody", evidence, "`sudo timedatectl set-ntp true`", fix
        )


@check(
    "monitoring",
    "other programs",
    "The slowest node sets the speed of all, and what a program takes there is missing. Published: "
    "monitoring cost 5 % of a cluster's tokens per second.",
    "programs",
)
def monitoring(condition: Condition) -> Iterator[Verdict]:
    """Judge whether other programs take much of a core."""
    found = False
    for one in condition.programs:
        evidence = f"{one.name} takes {one.share:.0%} of a core, on average since it started"
        cure = f"stop it while a model runs: `sudo systemctl stop {one.name}` if it is a service"
        if one.name.lower().startswith(_MONITORS):
            judge = warning if one.share >= _MUCH else note
            yield judge("a monitoring program computes all the time", evidence, cure)
        elif one.share >= _VERY_MUCH:
            yield warning("another program takes much of a core", evidence, cure)
        elif one.share >= _MUCH:
            yield note("another program takes a part of a core", evidence, cure)
        else:
            continue
        found = True
    if not found:
        yield healthy("no other program takes much of a core")


@check(
    "timers",
    "timers",
    "What is started again and again interrupts a core that computes, and all nodes wait for it.",
    "timers",
)
def timers(condition: Condition) -> Iterator[Verdict]:
    """Judge whether something is started very often."""
    if not condition.timers:
        return
    names = ", ".join(f"{one.name} every {one.every_s:.0f} s" for one in condition.timers)
    if min(one.every_s for one in condition.timers) > _VERY_OFTEN_S:
        yield healthy("nothing is started very often", names)
        return
    often = [one.name for one in condition.timers if one.every_s <= _VERY_OFTEN_S]
    yield note(
        "something is started every minute, or more often",
        names,
        f"stop it while a model runs: `sudo systemctl stop {' '.join(often)}`",
    )


CHECKS = (time_keeping, monitoring, timers)
