"""Checks of the processor: its power, its heat, its clock, and who interrupts it."""

from __future__ import annotations

from collections.abc import Iterator

from dure.doctor.finding import SettingValue, Verdict, check, healthy, note, serious, warning
from dure.hardware.examination.condition import ClockPolicy, Condition

__all__ = ["CHECKS", "governor"]

_UNDER_VOLTAGE = 1 << 0
_SLOWED = {1: "the clock is capped", 2: "it is throttled", 3: "it is near its limit of heat"}
_SINCE_START = 16  # how far the bits lie above that tell of the time since the start
_PI_LIMIT_C, _OTHER_LIMIT_C, _NEAR_C = 80.0, 95.0, 8.0
_MANY_INTERRUPTS = 0.05
_QUICK = {"performance"}
_COOL = "give it a heat sink or a fan, and air around it"
_SUPPLY = "use the board's own power supply (27 W for a Raspberry Pi 5) and a short, thick cable"


@check(
    "under-voltage",
    "power supply",
    "With too little voltage a board slows down, and loses data or restarts under load.",
    "throttled",
)
def under_voltage(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the power supply is strong enough."""
    if (bits := condition.throttled) is None:
        return
    evidence = f"throttled={bits:#x}"
    if bits & _UNDER_VOLTAGE:
        yield serious("the power supply is too weak now", evidence, _SUPPLY)
    elif bits & _UNDER_VOLTAGE << _SINCE_START:
        what = "the power supply was too weak at least once since the start"
        yield warning(what, evidence, _SUPPLY)
    else:
        yield healthy("the power supply was always strong enough", evidence)


@check(
    "throttling",
    "throttling",
    "A processor that protects itself computes at a fraction of its speed, and all nodes wait for it.",
    "throttled",
    "n_throttles",
)
def throttling(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the processor slows itself down."""
    if (bits := condition.throttled) is not None:
        yield _of_firmware(bits)
    elif (n := condition.n_throttles) is not None:
        evidence = f"{n} times since the start"
        what = "heat made the processor slower"
        yield warning(what, evidence, _COOL) if n else healthy("it was never slowed down", evidence)


def _of_firmware(bits: int) -> Verdict:
    now = [text for bit, text in _SLOWED.items() if bits >> bit & 1]
    before = [text for bit, text in _SLOWED.items() if bits >> (bit + _SINCE_START) & 1]
    evidence = f"throttled={bits:#x}"
    if now:
        return serious(f"the processor is slowed down now: {', '.join(now)}", evidence, _COOL)
    if before:
        return warning("the processor was slowed down since the start", evidence, _COOL)
    return healthy("it was never slowed down", evidence)


@check(
    "temperature",
    "temperature",
    "Near its limit a processor slows itself down.",
    "temperature_c",
    "board",
)
def temperature(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the processor is near the heat at which it slows down."""
    if (now := condition.temperature_c) is None:
        return
    is_pi = (condition.board or "").startswith("Raspberry Pi")
    limit = _PI_LIMIT_C if is_pi else _OTHER_LIMIT_C
    evidence = f"{now:.0f} °C; it slows down at about {limit:.0f}"
    if now >= limit:
        yield serious("the processor is too hot", evidence, _COOL)
    elif now >= limit - _NEAR_C:
        yield warning("the processor is nearly too hot", evidence, _COOL)
    else:
        yield healthy("the processor is cool enough", evidence)


@check(
    "governor",
    "clock",
    "Between two tokens' parts a processor waits for the network, and a thrifty governor lowers its clock "
    "then. Published on four Raspberry Pi 5: 10 % more tokens per second with `performance`.",
    "clocks",
)
def governor(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the clock is always high."""
    if not condition.clocks:
        return
    capped = [p for p in condition.clocks if 0 < p.most_khz < p.possible_khz]
    if capped:
        yield _capped(capped[0])
    slow = [p for p in condition.clocks if not _is_quick(p)]
    evidence = ", ".join(sorted({p.preference or p.governor for p in condition.clocks}))
    if not slow:
        yield healthy("the clock is always high", evidence)
        return
    fix = [SettingValue(*_quickest(policy)) for policy in slow]
    cure = f"`echo performance | sudo tee {' '.join(one.setting.partition(':')[2] for one in fix)}`"
    yield warning("the clock is lowered between two computations", evidence, cure, *fix)


def _is_quick(policy: ClockPolicy) -> bool:
    """Return whether a clock stays high; if nothing better can be chosen, it is as good as it gets."""
    cannot = policy.available and "performance" not in policy.available
    return policy.governor in _QUICK or policy.preference in _QUICK or bool(cannot)


def _quickest(policy: ClockPolicy) -> tuple[str, str]:
    name = "energy_performance_preference" if policy.preference else "scaling_governor"
    return f"file:{policy.path}/{name}", "performance"


def _capped(policy: ClockPolicy) -> Verdict:
    most, possible = policy.most_khz / 1000, policy.possible_khz / 1000
    file = f"{policy.path}/scaling_max_freq"
    return warning(
        "somebody has limited the clock",
        f"{most:.0f} of {possible:.0f} MHz",
        f"`echo {policy.possible_khz} | sudo tee {file}`",
        SettingValue(f"file:{file}", str(policy.possible_khz)),
    )


@check(
    "interrupts",
    "interrupts",
    "A core that serves the network and the disk computes its part later, and the others wait for it.",
    "interrupts",
    "threads",
    "cores",
)
def interrupts(condition: Condition) -> Iterator[Verdict]:
    """Judge whether interrupts take much of a core that computes."""
    if not condition.interrupts:
        return
    most = max(condition.interrupts, key=lambda one: one.share)
    evidence = f"{most.share:.0%} of core {most.cpu}'s work"
    evidence += f", most for {most.most_frequent}" if most.most_frequent else ""
    chosen = max((one.threads for one in condition.threads), default=condition.cores or 1)
    if most.share < _MANY_INTERRUPTS or chosen < (condition.cores or 1):
        yield healthy("interrupts take little of the cores that compute", evidence)
        return
    fewer = max(1, (condition.cores or 1) - 1)
    yield note(
        f"interrupts take much of core {most.cpu}, which computes too",
        evidence,
        f"try `--threads {fewer}`, which leaves a core to them, and compare with `dure bench`",
    )


CHECKS = (under_voltage, throttling, temperature, governor, interrupts)
