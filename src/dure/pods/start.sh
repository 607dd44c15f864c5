# Process 1 of a pod: the guard that ends it, sshd, and the program that it is rented for.
# From the environment: DURE_MAX_S, DURE_IDLE_S, DURE_HEARTBEAT_S (0: no such limit), DURE_RUN,
# DURE_POD_API, DURE_AWAITS_TOKEN (run only when a token was handed over by ssh), DURE_PUBLIC_PORT and
# DURE_SERVER_PORT (if the world may ask), PUBLIC_KEY; the provider adds RUNPOD_POD_ID and a key for this
# pod alone.
set -u
umask 022
state=${DURE_POD_STATE:-/var/lib/dure-pod}
step=${DURE_STEP_S:-5}
key=${RUNPOD_API_KEY:-}
public=${PUBLIC_KEY:-}
unset RUNPOD_API_KEY PUBLIC_KEY # what this pod runs has no use for them
pod=${DURE_POD_API:-https://api.runpod.io}/v2/pods/${RUNPOD_POD_ID:-none}
for limit in DURE_MAX_S DURE_IDLE_S DURE_HEARTBEAT_S; do
    eval "value=\${$limit:-}"
    case $value in '' | *[!0-9]*) eval "$limit=0" ;; esac
done
[ "$DURE_MAX_S" -gt 0 ] || DURE_MAX_S=3600 # somebody has changed it: an hour, and never no end
mkdir -p "$state"
chmod 755 "$state"

# ---------------------------------------------------------------- the provider

ask() { # METHOD URL [BODY]: prints the status; the key is in no argument
    if command -v curl >/dev/null; then
        printf 'header = "Authorization: Bearer %s"\n' "$key" |
            curl -K - -s -m 20 -o /dev/null -w '%{http_code}' -X "$1" ${3:+-H 'Content-Type: application/json' -d "$3"} "$2"
    elif command -v python3 >/dev/null; then
        printf %s "$key" | python3 -c '
import sys, urllib.error, urllib.request
method, url, body = sys.argv[1:]
headers = {"Authorization": "Bearer " + sys.stdin.read(), "Content-Type": "application/json"}
try:
    asked = urllib.request.Request(url, body.encode() or None, headers, method=method)
    print(urllib.request.urlopen(asked, timeout=20).status, end="")
except urllib.error.HTTPError as error:
    print(error.code, end="")
except OSError:
    print("000", end="")' "$1" "$2" "${3:-}"
    else
        printf none
    fi
}

end_pod() { # REASON: asks until this process is ended with the pod
    refusals=0
    while :; do
        echo "dure: this pod ends: $1"
        report "$1"
        status=$(ask DELETE "$pod")
        echo "dure: terminating it was answered with $status"
        case $status in 2??) refusals=0 ;; *) refusals=$((refusals + 1)) ;; esac
        if [ "$refusals" -ge 6 ]; then # a stop is not the end of the bill, but of most of it
            command -v runpodctl >/dev/null && runpodctl remove pod "$RUNPOD_POD_ID"
            ask POST "$pod/action" '{"action": "stop"}' >/dev/null
        fi
        sleep "$step"
    done
}

# ---------------------------------------------------------------- the guard

received() { # bytes from outside so far
    sed 's/:/ /' /proc/net/dev | awk 'NR > 2 && $1 != "lo" { sum += $2 } END { printf "%.0f", sum }'
}

gpu() { # percent of the busiest one; 100 if it cannot be told
    busiest=$(nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null |
        tr -cd '0-9\n' | sort -n | tail -n 1)
    echo "${busiest:-100}"
}

worked() { # lines that the program has logged: a server writes one for each request
    { wc -c <"$state/work" || echo 0; } 2>/dev/null
}

report() { # [ENDING]: what the owner reads over ssh
    {
        echo "now=$now" && echo "armed_at=$armed" && echo "dies_at=$dies" && echo "active_at=$active"
        echo "answer=$answer" && echo "ending=${1:-}"
    } >"$state/report.part" && mv "$state/report.part" "$state/report"
}

guard() {
    now=$(date +%s)
    began=$now active=$now armed=0 answer= ran=0 since_asked=0
    dies=$(cat "$state/deadline" 2>/dev/null || echo 0)
    # Kept by a container that only crashed. A pod that was resumed later begins anew.
    if ! [ "$dies" -gt "$now" ] || [ "$dies" -gt $((now + DURE_MAX_S)) ]; then
        dies=$((now + DURE_MAX_S))
        echo "$dies" >"$state/deadline"
    fi
    bytes=$(received) lines=$(worked)
    while :; do
        now=$(date +%s)
        before=$bytes bytes=$(received) before_lines=$lines lines=$(worked)
        if [ "$(gpu)" -ge 5 ] || [ $((bytes - before)) -gt 100000 ] || [ "$lines" != "$before_lines" ]; then
            active=$now
        fi
        if [ "$since_asked" -le 0 ]; then
            answer=$(ask GET "$pod")
            if [ "$answer" = 200 ]; then armed=$now since_asked=600; fi
        fi
        since_asked=$((since_asked - step))
        report
        # The second measure needs no clock that is right.
        if [ "$now" -ge "$dies" ] || [ "$ran" -ge "$DURE_MAX_S" ]; then end_pod "its time is over"; fi
        if [ "$DURE_IDLE_S" -gt 0 ] && [ $((now - active)) -ge "$DURE_IDLE_S" ]; then
            end_pod "it was idle"
        fi
        heard=$(cat "$state/heartbeat" 2>/dev/null || echo 0)
        [ "$heard" -gt "$began" ] || heard=$began
        if [ "$DURE_HEARTBEAT_S" -gt 0 ] && [ $((now - heard)) -ge "$DURE_HEARTBEAT_S" ]; then
            end_pod "nobody at home was heard"
        fi
        sleep "$step"
        ran=$((ran + step))
    done
}

# ---------------------------------------------------------------- what it is for

let_in() { # an sshd for the owner's key
    mkdir -p "$HOME/.ssh" && chmod 700 "$HOME/.ssh"
    grep -qxF "$public" "$HOME/.ssh/authorized_keys" 2>/dev/null ||
        echo "$public" >>"$HOME/.ssh/authorized_keys"
    chmod 600 "$HOME/.ssh/authorized_keys"
    if ! command -v sshd >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q update && apt-get -q install -y --no-install-recommends openssh-server curl rsync
    fi
    mkdir -p /run/sshd
    ssh-keygen -A
    "$(command -v sshd)"
}

logged() { # passes a log on, and counts its lines; who only looks whether all is well has no work done
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$line"
        case $line in
        *'GET /'*) ;;
        *) { printf . >>"$state/work"; } 2>/dev/null ;;
        esac
    done
}

run() { # the program, again if it ends: a container that ends is started anew, with all of this
    token=$state/hf-token
    while [ -n "${DURE_AWAITS_TOKEN:-}" ] && ! [ -s "$token" ]; do sleep 1; done
    while :; do
        (
            ! [ -s "$token" ] || { HF_TOKEN=$(cat "$token") && export HF_TOKEN; } # no other program has it
            exec sh -c "$DURE_RUN"
        ) 2>&1 | logged
        echo "dure: the program has ended, and is started again"
        sleep 5
    done
}

front() { # the one port that the world sees; closed until the owner has handed over its key by ssh
    while ! [ -s "$state/api-key" ]; do sleep 1; done
    command -v python3 >/dev/null || apt-get -q install -y --no-install-recommends python3
    while :; do
        python3 -c "$front_program" "$state/api-key" "$DURE_PUBLIC_PORT" "$DURE_SERVER_PORT"
        sleep 5
    done
}

trap 'trap - TERM; kill 0; exit 0' TERM
while :; do
    guard
    sleep 1
done &
[ -z "$public" ] || let_in &
[ -z "${DURE_RUN:-}" ] || run &
[ -z "${DURE_PUBLIC_PORT:-}" ] || front &
wait
