"""The watts of a machine, from files as Linux has them, and from what a Raspberry Pi's firmware says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from dure.hardware.examination.machine_root import MachineRoot
from dure.hardware.health import Power
from dure.hardware.power import PowerMeter

RAPL = "sys/class/powercap/intel-rapl:0"
BATTERY = "sys/class/power_supply/BAT0"
HWMON = "sys/class/hwmon/hwmon0"
PI_5 = "Raspberry Pi 5 Model B Rev 1.0\0"
PMIC = """\
 3V7_WL_SW_A current(0)=0.10000000A
   VDD_CORE_A current(7)=2.00000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   VDD_CORE_V volt(15)=0.80000000V
      EXT5V_V volt(24)=5.15000000V
"""
ON_BATTERY = {
    f"{BATTERY}/type": "Battery\n",
    f"{BATTERY}/status": "Discharging\n",
    f"{BATTERY}/power_now": "11500000\n",
}
PACKAGE = {f"{RAPL}/name": "package-0\n", f"{RAPL}/max_energy_range_uj": "10000000\n"}


def write(root: Path, files: Mapping[str, str]) -> MachineRoot:
    """A machine that has these files, and what these commands write."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return MachineRoot(root)


def read(root: Path, files: Mapping[str, str]) -> Power:
    """What a meter says of a machine whose counters stand still."""
    return PowerMeter(write(root, files)).read()


class Counted:
    """A machine whose counters grow while a meter waits. watts: by the folder of the counter."""

    def __init__(
        self, root: Path, watts: Mapping[str, float], start: int = 0, end: int = 0
    ) -> None:
        self._root, self._watts, self._end = root, watts, end
        self._energies = dict.fromkeys(watts, start)
        self.now_s = 1000.0
        self.wait(0)

    def clock(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for zone, watts in self._watts.items():
            energy = self._energies[zone] + round(watts * seconds * 1e6)
            self._energies[zone] = energy % self._end if self._end else energy
            write(self._root, {f"{zone}/energy_uj": f"{self._energies[zone]}\n"})

    def meter(self) -> PowerMeter:
        return PowerMeter(MachineRoot(self._root), self.clock, self.wait)


@pytest.mark.parametrize(
    ("files", "power"),
    [
        (ON_BATTERY, Power(11.5, "machine")),
        (
            {
                f"{BATTERY}/type": "Battery\n",
                f"{BATTERY}/status": "Discharging\n",
                f"{BATTERY}/current_now": "-1500000\n",  # some count what flows out below zero
                f"{BATTERY}/voltage_now": "12000000\n",
            },
            Power(18.0, "machine"),
        ),
        (
            {f"{HWMON}/name": "power_meter\n", f"{HWMON}/power1_average": "87000000\n"},
            Power(87.0, "machine"),
        ),
        (
            {f"{HWMON}/name": "ina226\n", f"{HWMON}/power1_input": "6250000\n"},
            Power(6.25, "board"),
        ),
        (
            {"proc/device-tree/model": PI_5, "commands/vcgencmd pmic_read_adc": PMIC},
            Power(1.97, "board"),
        ),
    ],
)
def test_a_sensor_is_read_with_what_it_reaches(
    tmp_path: Path, files: dict[str, str], power: Power
) -> None:
    """A laptop's battery, a server's meter, a chip on a board, a Pi 5's rails."""
    found = read(tmp_path, files)
    assert found == Power(found.watts, power.of)
    assert found.watts == pytest.approx(power.watts)


def test_a_jetson_counts_its_input_and_not_its_rails_again(tmp_path: Path) -> None:
    """Its INA3221 measures volts and amperes, of the input and of two rails behind it."""
    chip = {f"{HWMON}/name": "ina3221\n"}
    for number, label, milliamps in (
        (1, "VDD_IN", 1200),
        (2, "VDD_CPU_GPU_CV", 400),
        (3, "VDD_SOC", 300),
    ):
        chip |= {
            f"{HWMON}/in{number}_label": f"{label}\n",
            f"{HWMON}/in{number}_input": "5000\n",
            f"{HWMON}/curr{number}_input": f"{milliamps}\n",
        }
    assert read(tmp_path, chip) == Power(6.0, "board")
    assert read(tmp_path, {f"{HWMON}/in1_label": "VDD_GPU\n"}).watts == pytest.approx(
        9.5
    )  # rails alone


@pytest.mark.parametrize(
    "files",
    [
        {},
        {**ON_BATTERY, f"{BATTERY}/status": "Charging\n"},
        {**ON_BATTERY, f"{BATTERY}/scope": "Device\n"},  # a mouse
        {f"{HWMON}/name": "nvme\n", f"{HWMON}/power1_input": "5000000\n"},
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B\0",
            "commands/vcgencmd pmic_read_adc": PMIC,
        },
        {"proc/device-tree/model": PI_5},  # without the firmware's tool
        PACKAGE,  # whose counter is gone
    ],
)
def test_a_machine_without_a_sensor_has_no_watts_and_no_problem(
    tmp_path: Path, files: dict[str, str]
) -> None:
    """Neither has one that draws from the mains, nor what is a part of it."""
    assert read(tmp_path, files) == Power()


@pytest.mark.parametrize(
    ("files", "folder", "named"),
    [
        (PACKAGE, f"{RAPL}/energy_uj", "root alone"),
        ({f"{HWMON}/name": "power_meter\n"}, f"{HWMON}/power1_average", "power1_average"),
        (
            {
                "proc/device-tree/model": PI_5,
                "commands/vcgencmd pmic_read_adc": "exit 255\nCan't open device file: /dev/vcio\n",
            },
            "sys",
            "/dev/vcio",
        ),
    ],
)
def test_a_sensor_that_may_not_be_read_is_a_reason(
    tmp_path: Path, files: dict[str, str], folder: str, named: str
) -> None:
    """It names what cannot be read; a folder in a file's place is as forbidden to everybody, root too."""
    (tmp_path / folder).mkdir(parents=True)
    power = read(tmp_path, files)
    assert power.watts is None
    assert named in power.problem


def test_another_sensor_is_read_where_one_is_forbidden(tmp_path: Path) -> None:
    """The reason is not told then: the watts are known."""
    (tmp_path / HWMON / "power1_average").mkdir(parents=True)
    write(tmp_path, {f"{HWMON}/name": "power_meter\n", **PACKAGE})
    found = Counted(tmp_path, {RAPL: 15.0}).meter().read()
    assert found == Power(found.watts, "processor")
    assert found.watts == pytest.approx(15.0)


def test_counters_of_packages_and_memory_are_added_and_parts_are_not(tmp_path: Path) -> None:
    """Cores lie within the package; the whole platform's counter is wrong on many laptops."""
    parts = {f"{RAPL}:0": "core", f"{RAPL}:1": "dram", "sys/class/powercap/intel-rapl:1": "psys"}
    write(tmp_path, {**PACKAGE, **{f"{zone}/name": f"{name}\n" for zone, name in parts.items()}})
    machine = Counted(tmp_path, {RAPL: 30.0, **dict(zip(parts, (20.0, 4.0, 90.0), strict=True))})
    assert machine.meter().read().watts == pytest.approx(34.0)


def test_watts_are_the_mean_since_the_look_before(tmp_path: Path) -> None:
    """Two that look at the same moment get the same; a counter may begin again in between."""
    write(tmp_path, PACKAGE)
    machine = Counted(tmp_path, {RAPL: 0.6}, start=9_999_000, end=10_000_000)
    meter = machine.meter()
    assert meter.read().watts == pytest.approx(0.6)  # its first look goes over the end
    machine.wait(15.0)
    assert meter.read().watts == pytest.approx(0.6)
    assert meter.read().watts == pytest.approx(0.6)
    machine.wait(15.0)
    assert meter.read().watts == pytest.approx(0.6)


def test_a_counter_that_was_not_looked_at_for_long_is_looked_at_anew(tmp_path: Path) -> None:
    """It may have gone over its end several times."""
    write(tmp_path, PACKAGE)
    machine = Counted(tmp_path, {RAPL: 3.0}, end=10_000_000)
    meter = machine.meter()
    meter.read()
    machine.wait(3600.0)
    assert meter.read().watts == pytest.approx(3.0)


@pytest.mark.parametrize("garbage", ["", "watts\n", "\xff\n"])
def test_a_counter_that_says_nonsense_is_no_error(tmp_path: Path, garbage: str) -> None:
    power = read(tmp_path, {**PACKAGE, f"{RAPL}/energy_uj": garbage})
    assert power.watts is None
