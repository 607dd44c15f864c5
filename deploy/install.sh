#!/bin/sh
# Installs dure for this user: looks first whether something is missing, and says what it does.
# It needs no root, and changes nothing of the system. Run it again to update.
#
#   sh deploy/install.sh                  # from the clone that it lies in, else dure from PyPI
#   sh deploy/install.sh --from FILE.whl  # or a folder, an sdist, or what pip takes, as dure==0.1.0
#   sh deploy/install.sh --dry-run        # only look, and say what would be done
#   sh deploy/install.sh --uninstall      # take it away; models, shards and clusters stay
set -eu

DATA=${XDG_DATA_HOME:-$HOME/.local/share}/dure
VENV=$DATA/venv
BIN=$HOME/.local/bin
DISK_MB=2500   # while llama.cpp is compiled; less than 1000 afterwards
JOB_MB=1000    # that one compiler takes
missing=0
wanted=
dry=
action=install

say() { printf '%s\n' "$*"; }
lack() { # what is missing, and the cure
    printf 'missing: %s\n         %s\n' "$1" "$2" >&2
    missing=$((missing + 1))
}
run() {
    say "  \$ $*"
    [ -n "$dry" ] || "$@"
}
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

while [ $# -gt 0 ]; do
    case $1 in
        --from)
            [ $# -gt 1 ] || { say "--from needs what to install: a file, a folder, or what pip takes" >&2; exit 2; }
            wanted=$2
            shift
            ;;
        --dry-run) dry=yes ;;
        --uninstall) action=uninstall ;;
        -h | --help) usage; exit 0 ;;
        *) say "$1: no such option; --help shows them" >&2; exit 2 ;;
    esac
    shift
done

uninstall() {
    if [ ! -d "$VENV" ] && [ ! -L "$BIN/dure" ]; then
        say "dure is not installed here by this script: there is no $VENV"
        return
    fi
    for unit in "$HOME/.config/systemd/user"/dure-*.service; do
        [ ! -e "$unit" ] || say "note: ${unit##*/} still starts dure: \`dure serve uninstall\` or \`dure node uninstall\` first"
    done
    say "Taking dure away:"
    [ ! -d "$VENV" ] || run rm -rf "$VENV"
    ! ours "$BIN/dure" || run rm "$BIN/dure"
    say "Models, shards and clusters stay in $DATA and ${XDG_CACHE_HOME:-$HOME/.cache}/dure."
}

ours() { # whether a file is the link that this script made
    [ -L "$1" ] && [ "$(readlink "$1")" = "$VENV/bin/dure" ]
}

find_python() { # the first that is new enough
    for name in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

free_mb() { # on the disk of a folder that may not exist yet
    folder=$1
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    df -Pm "$folder" | awk 'NR == 2 { print $4 }'
}

look() {
    say "Looking at this machine:"
    case $(uname -s) in
        Linux) ;;
        *) lack "Linux: this is $(uname -s)" "in a virtual machine or a container, see docs/install.md" ;;
    esac
    case $(uname -m) in
        x86_64 | aarch64) say "  $(uname -m), $(getconf _NPROCESSORS_ONLN) processors" ;;
        *) lack "a 64-bit processor of x86 or ARM: this is $(uname -m)" "install the 64-bit system, if the board can run it" ;;
    esac
    if python=$(find_python); then
        say "  $("$python" --version) at $python"
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            lack "Python's venv" "sudo apt install python3-venv"
    else
        python=python3
        lack "Python 3.11 or newer" "sudo apt install python3 python3-venv, or PYTHON=/path/to/python3.12 before this command"
    fi
    look_at_compiler
    room=$(free_mb "$DATA")
    if [ "$room" -lt $DISK_MB ]; then
        lack "disk: $room MB free for $DATA, and the build takes $DISK_MB" "make room, or set XDG_DATA_HOME to a larger disk"
    else
        say "  $room MB of disk are free"
    fi
    look_at_memory
}

look_at_compiler() {
    if command -v c++ >/dev/null && command -v cc >/dev/null; then
        say "  compilers: $(command -v cc), $(command -v c++)"
    else
        lack "a C and C++ compiler, which llama.cpp is built with" "sudo apt install build-essential"
    fi
}

look_at_memory() { # as many compilers at once as there is memory for
    memory=$(awk '/^(MemAvailable|SwapFree):/ { sum += $2 } END { print int(sum / 1024) }' /proc/meminfo 2>/dev/null || echo 0)
    jobs=$((memory / JOB_MB))
    processors=$(getconf _NPROCESSORS_ONLN)
    [ "$jobs" -le "$processors" ] || jobs=$processors
    if [ "$jobs" -lt 1 ]; then
        lack "memory: $memory MB are free with swap, and a compiler takes $JOB_MB" "add swap for the build: docs/install.md#a-small-board"
        jobs=1
    else
        say "  $memory MB of memory are free with swap: $jobs compilers at once"
    fi
    CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$jobs}
    export CMAKE_BUILD_PARALLEL_LEVEL
}

choose() { # what is installed: the clone that this script lies in, or else the package
    [ -z "$wanted" ] || return 0
    here=$(cd "$(dirname "$0")" && pwd)
    if [ -f "$here/../pyproject.toml" ]; then
        wanted=$(dirname "$here")
    else
        wanted=dure
    fi
}

install() {
    say "Installing $wanted into $VENV:"
    # Compiled in a folder beside it: /tmp may be in memory. -U: docs/decisions/0003-no-amx.md
    TMPDIR=$DATA/build
    CMAKE_ARGS="${CMAKE_ARGS:-} -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__"
    export TMPDIR CMAKE_ARGS
    run mkdir -p "$TMPDIR" "$BIN"
    [ -x "$VENV/bin/python" ] || run "$python" -m venv "$VENV"
    say "The first time llama.cpp is compiled for this processor: 4 to 10 minutes on a board."
    run "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "$wanted"
    run rm -rf "$TMPDIR"
    if [ -e "$BIN/dure" ] && ! ours "$BIN/dure"; then
        say "note: $BIN/dure is not of this script and stays: dure is $VENV/bin/dure"
    else
        run ln -sf "$VENV/bin/dure" "$BIN/dure"
    fi
    [ -n "$dry" ] || "$VENV/bin/dure" --version
    case :$PATH: in
        *":$BIN:"*) ;;
        *) say "note: $BIN is not on your PATH: add  export PATH=\"\$HOME/.local/bin:\$PATH\"  to ~/.profile" ;;
    esac
    say "next: dure run qwen3:0.6b \"Hello\"   or   dure serve MODEL   or   dure node: docs/cluster.md"
}

if [ $action = uninstall ]; then
    uninstall
    exit
fi
look
if [ $missing -gt 0 ]; then
    say "Nothing was installed: $missing missing." >&2
    exit 1
fi
choose
install
