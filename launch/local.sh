#!/usr/bin/env bash
# Run one command of tpgdiff_jax in N processes of this machine, over loopback, on CPU devices.
#
#   bash launch/local.sh N FLAGS...     FLAGS are those of tpgdiff_jax.main
#   bash launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two
#
# Process 0 writes here as ever; lines of process 2 begin with [2].  Ctrl-C and SIGTERM reach all.
# The exit code is that of the process that failed, 0 if none has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

count=${1:-}
case $count in
    '' | *[!0-9]* | 0) fail "the first argument is the number of processes; found '$count'." ;;
esac
shift
prepare_environment ""
: "${python:?}"
export JAX_PLATFORMS=cpu
port=$("$python" -c '
import socket
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    print(free.getsockname()[1])')

processes=() filters=()
# Ctrl-C reaches the processes by itself: they belong to this script's terminal.
trap : INT
trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' TERM
for ((index = 0; index < count; index++)); do
    flags=("--coordinator=127.0.0.1:$port" "--num_processes=$count" "--process_id=$index")
    command=("$python" -m tpgdiff_jax.main "$@" "${flags[@]}")
    if ((index == 0)); then
        "${command[@]}" &
        processes+=($!)
        continue
    fi
    # It stays until its process has ended: what that says after Ctrl-C is to be seen.
    exec {output}> >(trap '' INT TERM; exec sed -u "s/^/[$index] /" >&2)
    filters+=($!)
    "${command[@]}" >&"$output" 2>&1 &
    processes+=($!)
    exec {output}>&-
done

# A trapped signal ends `wait` early, with a code of its own, also where the process ends meanwhile.
end_of() {
    while kill -0 "$1" 2>/dev/null; do
        wait "$1" || true
    done
    wait "$1"
}

status=0
for process in "${processes[@]}"; do
    code=0
    end_of "$process" || code=$?
    # 3: it ended because of another one, whose code says more.
    if ((code != 0 && (status == 0 || status == 3))); then
        status=$code
    fi
done
for filter in "${filters[@]}"; do
    wait "$filter" || true
done
exit "$status"
