"""Programs of other people that the doctor asks and lets change a machine, each with a state in files.

They answer in the form of the real ones; a file `refuses` beside the state makes every change fail, and a
file `forgets` makes it succeed without effect.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.machine_roots import addresses

__all__ = ["STATES", "programs_with_state"]

STATES = {
    "gro": "off",
    "eee": "disabled",
    "adaptive": "off",
    "usecs": "0",
    "ntp": "yes",
    "unit": "enabled",
    "ufw": "",
}
_CHANGE = """\
[ -e refuses ] && { echo "Operation not permitted" >&2; exit 1; }
[ -e forgets ] && exit 0
"""
_ETHTOOL = """\
case "$1" in
  -k) printf 'Features for %s:\\ngeneric-receive-offload: %s\\n' "$2" "$(cat gro)"; exit ;;
  -c) printf 'Coalesce parameters for %s:\\nAdaptive RX: %s  TX: n/a\\nrx-usecs: %s\\nrx-frames: 1\\n' \\
        "$2" "$(cat adaptive)" "$(cat usecs)"; exit ;;
  --show-eee) printf 'EEE settings for %s:\\n\\tEEE status: %s\\n' "$2" "$(cat eee)"; exit ;;
esac
CHANGE
case "$1" in
  -K) echo "$4" > gro ;;
  --set-eee) [ "$4" = on ] && echo 'enabled - inactive' > eee || echo disabled > eee ;;
  -C) shift 2
      while [ $# -gt 1 ]; do
        case "$1" in adaptive-rx) echo "$2" > adaptive ;; rx-usecs) echo "$2" > usecs ;; *) exit 1 ;; esac
        shift 2
      done ;;
  *) exit 1 ;;
esac
"""
_TIMEDATECTL = """\
case "$*" in
  show) printf 'NTP=%s\\nNTPSynchronized=%s\\n' "$(cat ntp)" "$(cat ntp)"; exit ;;
  'show --property=NTP --value') cat ntp; exit ;;
esac
CHANGE
case "$*" in
  'set-ntp true') echo yes > ntp ;;
  'set-ntp false') echo no > ntp ;;
  *) exit 1 ;;
esac
"""
_SYSTEMCTL = """\
[ "$1" = --user ] && shift
wanted="$HOME/.config/systemd/user/default.target.wants"
case "$*" in
  'list-timers --output=json') echo '[]'; exit ;;
  'show --property=UnitFileState --value dure-node.service')
    [ -e "$wanted/dure-node.service" ] && echo enabled || echo disabled; exit ;;
esac
CHANGE
case "$*" in
  'enable --now dure-node.service') mkdir -p "$wanted"; touch "$wanted/dure-node.service" ;;
  'disable dure-node.service') rm "$wanted/dure-node.service" ;;
  *) exit 1 ;;
esac
"""
_UFW = """\
case "$*" in
  'status verbose')
    printf 'Status: active\\nDefault: deny (incoming), allow (outgoing), disabled (routed)\\n\\n'
    printf 'To                         Action      From\\n--                         ------      ----\\n'
    for one in $(cat ufw); do printf 'Anywhere                   ALLOW IN    %s\\n' "$one"; done; exit ;;
  'show added')
    echo 'Added user rules (see "ufw status" for running firewall):'
    for one in $(cat ufw); do echo "ufw allow from $one"; done; exit ;;
esac
CHANGE
case "$*" in
  'allow from '*) echo "$3" > ufw ;;
  'delete allow from '*) : > ufw ;;
  *) exit 1 ;;
esac
"""
_PROGRAMS = {
    "ip": "cat addresses\n",
    "ethtool": _ETHTOOL,
    "timedatectl": _TIMEDATECTL,
    "systemctl": _SYSTEMCTL,
    "ufw": _UFW,
}


def programs_with_state(directory: Path, **changes: str) -> Path:
    """Write the programs and their state, some of it changed, into a directory that comes first in PATH."""
    directory.mkdir(parents=True)
    state = directory / "state"
    state.mkdir()
    for name, text in {**STATES, "addresses": addresses(), **changes}.items():
        (state / name).write_text(f"{text}\n")
    shell = shutil.which("sh")
    for name, script in _PROGRAMS.items():
        program = directory / name
        program.write_text(
            f"#!{shell}\ncd '{state}' || exit 1\n{script.replace('CHANGE', _CHANGE)}"
        )
        program.chmod(0o755)
    return directory
