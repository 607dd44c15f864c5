"""Reads how many watts a machine draws, from whichever of its sensors covers most of it.

Knows where Linux and a Raspberry Pi's firmware keep them. Refuses to estimate what no sensor measures.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from dure.hardware.examination.machine_root import MachineRoot, UnreadableError
from dure.hardware.health import Power

__all__ = ["PowerMeter"]

_SUPPLIES = "/sys/class/power_supply"
_HWMON = "/sys/class/hwmon"
_POWERCAP = "/sys/class/powercap"
_WHOLE = ("power_meter", "corsairpsu")  # ACPI's, as servers have it, and supplies that report
_PI_WITH_PMIC = re.compile(r"Raspberry Pi (5|500|Compute Module 5)\b")
_PMIC = re.compile(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([\d.]+)[AV]")
_CHANNELS = (1, 2, 3)  # of an INA3221
_LOOK_S = 0.1  # the shortest time that counters of energy are compared over
_STALE_S = 120.0  # after which a counter may have begun again more than once
_ROOT_ALONE = "many kernels let root alone read it"


class PowerMeter:
    """Read a machine's power again and again. clock: seconds. wait: for so many of them.

    Counters of energy are compared with the look before; the first look takes a tenth of a second.
    """

    def __init__(
        self,
        root: MachineRoot,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root, self._clock, self._wait = root, clock, wait
        self._before: Mapping[str, int] = {}
        self._at = float("-inf")
        self._watts: float | None = None
        self._lock = threading.Lock()

    def read(self) -> Power:
        """Return what is drawn now. Several threads may ask."""
        problem = ""
        for of, ask in (
            ("machine", _discharged),
            ("machine", _whole),
            ("board", _ina_chips),
            ("board", _pmic),
            ("processor", self._counted),
        ):
            try:
                watts = ask(self._root)
            except UnreadableError as error:
                problem = problem or str(error)
                continue
            if watts is not None:
                return Power(watts, of)
        return Power(problem=problem)

    def _counted(self, root: MachineRoot) -> float | None:
        """Return the watts of processors, and of memory where it is counted apart (RAPL)."""
        zones = _zones(root)
        if not zones:
            return None
        with self._lock:
            age_s = self._clock() - self._at
            if age_s < _LOOK_S:
                return self._watts
            if age_s > _STALE_S:
                self._before, self._at = _energies(root, zones), self._clock()
                self._wait(_LOOK_S)
            return self._since_before(root, zones)

    def _since_before(self, root: MachineRoot, zones: Iterable[str]) -> float | None:
        before, begun = self._before, self._at
        self._before, self._at = _energies(root, zones), self._clock()
        used = _total(
            _grown(root, zone, before[zone], count)
            for zone, count in self._before.items()
            if zone in before
        )
        self._watts = None if used is None else used / 1e6 / (self._at - begun)
        return self._watts


def _discharged(root: MachineRoot) -> float | None:
    """Return what a laptop takes out of its batteries; None if none is discharging."""
    found = [
        _battery(root, f"{_SUPPLIES}/{name}")
        for name in root.names(_SUPPLIES)
        if root.text(f"{_SUPPLIES}/{name}/type") == "Battery"
        and root.text(f"{_SUPPLIES}/{name}/status") == "Discharging"
        and root.text(f"{_SUPPLIES}/{name}/scope") != "Device"  # of a mouse
    ]
    return _total(found)


def _battery(root: MachineRoot, path: str) -> float | None:
    power = root.number(f"{path}/power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = root.number(f"{path}/current_now"), root.number(f"{path}/voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage / 1e12


def _whole(root: MachineRoot) -> float | None:
    """Return what a meter of the whole machine reads."""
    return _total([_microwatts(root, chip) for chip in _chips(root, _WHOLE)])


def _ina_chips(root: MachineRoot) -> float | None:
    """Return what a board's INA chips measure, as Jetsons and some others have them."""
    chips = _chips(root, ("ina",))
    rails = {
        label: watts
        for chip in chips
        for number in _CHANNELS
        if (label := root.text(f"{chip}/in{number}_label"))
        and (watts := _channel(root, chip, number)) is not None
    }
    inputs = [watts for label, watts in rails.items() if label.endswith("_IN")]  # all of the board
    return _total(inputs or [*rails.values(), *(_microwatts(root, chip) for chip in chips)])


def _chips(root: MachineRoot, names: tuple[str, ...]) -> list[str]:
    chips = root.numbered(_HWMON, "hwmon")
    return [chip for chip in chips if root.text(f"{chip}/name").startswith(names)]


def _microwatts(root: MachineRoot, chip: str) -> float | None:
    readings = (root.number(f"{chip}/power1_{which}") for which in ("input", "average"))
    return next((value / 1e6 for value in readings if value is not None), None)


def _channel(root: MachineRoot, chip: str, number: int) -> float | None:
    """Return a channel's watts, of millivolts and milliamperes."""
    volts, amps = (root.number(f"{chip}/{what}{number}_input") for what in ("in", "curr"))
    return None if volts is None or amps is None else volts * amps / 1e6


def _pmic(root: MachineRoot) -> float | None:
    """Return what the rails of a Raspberry Pi 5 carry: the board without its USB devices and losses."""
    if not _PI_WITH_PMIC.search(root.text("/proc/device-tree/model")):
        return None
    if not root.knows("vcgencmd"):
        return None
    rails: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in _PMIC.findall(root.output("vcgencmd", "pmic_read_adc")):
        rails[unit][rail] = float(value)
    volts = rails["V"]
    return _total([amps * volts[rail] for rail, amps in rails["A"].items() if rail in volts])


def _zones(root: MachineRoot) -> list[str]:
    """Return the zones of RAPL, none within another: packages, and memory, which these do not count."""
    names = [name for name in root.names(_POWERCAP) if re.fullmatch(r"intel-rapl(:\d+)+", name)]
    paths = [f"{_POWERCAP}/{name}" for name in names]
    return [path for path in paths if root.text(f"{path}/name").startswith(("package", "dram"))]


def _energies(root: MachineRoot, zones: Iterable[str]) -> dict[str, int]:
    """Return each zone's microjoules. Raises UnreadableError."""
    try:
        counts = {zone: root.number(f"{zone}/energy_uj") for zone in zones}
    except UnreadableError as error:
        raise UnreadableError(f"{error}: {_ROOT_ALONE}") from error
    return {zone: count for zone, count in counts.items() if count is not None}


def _grown(root: MachineRoot, zone: str, before: int, now: int) -> int:
    """Return how far a counter has come, over its end too."""
    if now >= before:
        return now - before
    most = root.number(f"{zone}/max_energy_range_uj")
    if most is None:
        raise UnreadableError(f"{zone}/energy_uj began again, and its end is not known")
    return now - before + most


def _total(readings: Iterable[float | None]) -> float | None:
    known = [one for one in readings if one is not None]
    return sum(known) if known else None
