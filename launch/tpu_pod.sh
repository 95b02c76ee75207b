#!/usr/bin/env bash
# Run a command of tpgdiff_jax on every host of a TPU slice; make the slice, and start again after a
# spot slice was taken away, until the run is done.
#
#   bash launch/tpu_pod.sh --name=NAME --zone=ZONE --type=v5litepod-16 -- FLAGS...
#
# FLAGS are those of tpgdiff_jax.main; --workdir and data must be where all hosts see them, such as
# gs://BUCKET/NAME.  What is committed in this clone is copied.  Needs gcloud, logged in.
# A run goes on when this script is ended; the same command then looks at it again.
#
#   --name=NAME       of the slice and of its queued resource; one that is there is used again
#   --zone=ZONE       where, e.g. europe-west4-b
#   --type=TYPE       accelerator type, e.g. v5litepod-16, v4-32, v6e-16
#   --version=V       runtime version of its VMs [the one for the type]
#   --spot            take a spot slice, which may be taken away
#   --tries=N         start N times at most [100]
#   --logs=FOLDER     where the hosts' logs are collected [logs/NAME]
#   --delete          delete the slice at the end, also of a run that fails; else it goes on, and costs
#   --dry-run         print every command instead, for a first start that goes well
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

name='' zone='' type='' version='' spot=no tries=100 logs='' delete=no dry=no
while (($#)); do
    case $1 in
        --name=?*) name=${1#*=} ;;
        --zone=?*) zone=${1#*=} ;;
        --type=?*) type=${1#*=} ;;
        --version=?*) version=${1#*=} ;;
        --tries=?*) tries=${1#*=} ;;
        --logs=?*) logs=${1#*=} ;;
        --spot) spot=yes ;;
        --delete) delete=yes ;;
        --dry-run) dry=yes ;;
        --) shift; break ;;
        *) fail "$1 is no flag of this script; flags of the program follow after --." ;;
    esac
    shift
done
for value in "$name" "$zone" "$type"; do
    [ -n "$value" ] || fail "--name, --zone and --type are needed."
done
(($#)) || fail "no flags of the program; write them after --, e.g. -- --config=configs/tpgdiff_5d.py"
case $tries in '' | *[!0-9]*) fail "--tries=$tries: expected a whole number." ;; esac
case $type in
    v5litepod-*) version=${version:-v2-alpha-tpuv5-lite} ;;
    v5p-*) version=${version:-v2-alpha-tpuv5} ;;
    v6e-*) version=${version:-v2-alpha-tpuv6e} ;;
    *) version=${version:-tpu-ubuntu2204-base} ;;
esac
logs=${logs:-logs/$name}
# Stands in the command line of the program on the hosts, and tells which FLAGS it runs with.
mark=tpgdiff-$(printf '%s\n' "$@" | cksum | cut -d ' ' -f 1)
PAUSE=${TPGDIFF_PAUSE:-30}    # seconds between two looks

# Run a command; a dry run prints it.
run() {
    if [ "$dry" = yes ]; then
        local words
        printf -v words ' %q' "$@"
        printf '%s\n' "${words# }"
    else
        "$@"
    fi
}

tpus=(gcloud compute tpus)
here=("--zone=$zone" --quiet)

# Set $state to that of the slice, ABSENT where there is none, UNKNOWN where gcloud cannot tell; say
# what has changed.
state='' errors=''
look() {
    local before=$state
    errors=${errors:-$(mktemp)}
    if ! state=$("${tpus[@]}" queued-resources describe "$name" "${here[@]}" \
        --format='value(state.state)' 2>"$errors"); then
        state=UNKNOWN
        ! grep -qiE 'NOT_FOUND|was not found' "$errors" || state=ABSENT
    fi
    [ "$state" = "$before" ] || say "The slice $name is $state."
    [ "$state" = UNKNOWN ] || return 0
    [ -n "$before" ] || fail "gcloud cannot tell whether there is a slice $name: $(cat "$errors")"
    [ "$before" = UNKNOWN ] || say "gcloud cannot look at it; it is tried again: $(cat "$errors")"
}
trap 'rm -f "$errors"' EXIT

create_slice() {
    local kind=()
    [ "$spot" = no ] || kind=(--spot)
    run "${tpus[@]}" queued-resources create "$name" "--node-id=$name" "${here[@]}" \
        "--accelerator-type=$type" "--runtime-version=$version" "${kind[@]}"
}

delete_slice() {
    run "${tpus[@]}" queued-resources delete "$name" "${here[@]}" --force
}

# Make the slice, or wait until the one that is there can be used.
need_slice() {
    if [ "$dry" = yes ]; then
        create_slice
        return
    fi
    while true; do
        look
        case $state in
            ACTIVE) return ;;
            ABSENT) create_slice ;;
            FAILED | SUSPENDED) delete_slice ;;    # taken away; its name is free after that
        esac
        sleep "$PAUSE"
    done
}

# Run a command on every host of the slice, side by side.
on_hosts() {
    run "${tpus[@]}" tpu-vm ssh "$name" "${here[@]}" --worker=all "$@"
}

# The runtime images come with Python 3.10, which is too old.
install() {
    run git archive --format=tar.gz --output=/tmp/tpgdiff_jax.tar.gz HEAD &&
        run "${tpus[@]}" tpu-vm scp /tmp/tpgdiff_jax.tar.gz "$name:" "${here[@]}" --worker=all &&
        on_hosts "--command=mkdir -p tpgdiff_jax && tar -xzf tpgdiff_jax.tar.gz -C tpgdiff_jax &&\
 (command -v python3.11 > /dev/null || sudo apt-get -qq install -y python3.11 python3.11-venv) &&\
 cd tpgdiff_jax && (test -x .venv/bin/python || python3.11 -m venv .venv) &&\
 .venv/bin/pip install --quiet --editable '.[gs]' 'jax[tpu]'"
}

# Start the program on all hosts, so that it goes on when a connection ends.  One that is stopped
# before its end leaves with 75.
start() {
    local words
    printf -v words ' %q' "$@"
    on_hosts "--command=cd tpgdiff_jax && rm -f ../code && source launch/env/tpu.sh &&\
 export TPGDIFF_STOPPED_EXIT_CODE=75 &&\
 (nohup sh -c '.venv/bin/python -u -m tpgdiff_jax.main \"\$@\"; echo \$? > ../code' $mark$words\
 > ../log 2>&1 < /dev/null & echo \$! > ../pid)"
}

# Ask every host for one line: 'works', 'other' (other FLAGS), the exit code, or 'gone'.
ask_hosts() {
    # Another process may have the number after a restart of the host, so its command line counts.
    on_hosts "$@" "--command={ said=\$(tr '\\0' ' ' < \"/proc/\$(cat pid)/cmdline\"); } 2> /dev/null;\
 case \$said in *' $mark '*) echo works ;; *' -m tpgdiff_jax.main '*) echo other ;;\
 *) cat code 2> /dev/null || echo gone ;; esac"
}

# Print the exit codes of all hosts, as one word, or nothing while any of them works.
codes() {
    ask_hosts 2>/dev/null | grep -E '^[0-9]+$|^works$|^gone$' |
        sort -u | paste -sd, | grep -v works || true
}

# Tell whether the program works on any host already; refuse to disturb one with other flags.
is_there() {
    case $1 in
        *other*)
            fail "the slice $name runs the program with other flags. Wait for its end, or end it:" \
                "gcloud compute tpus tpu-vm ssh $name --zone=$zone --worker=all" \
                "--command='pkill -f tpgdiff_jax.main'"
            ;;
        *works*) say "The program works on $name already; it is looked at again." ;;
        *) return 1 ;;
    esac
}

# Start the program, unless it works already.
begin() {
    local said=''
    # The first connection makes SSH keys, host by host; side by side they would hinder each other.
    if [ "$dry" = yes ]; then
        ask_hosts --batch-size=1
    else
        said=$(ask_hosts --batch-size=1) || return
    fi
    is_there "$said" || { install && start "$@"; }
}

collect_logs() {
    run mkdir -p "$logs"
    on_hosts "--output-directory=$logs" '--command=cat log' ||
        say "The logs could not be collected; the slice may be gone."
}

# Delete the slice, if that was asked for, or say that it costs.
leave_slice() {
    if [ "$delete" = yes ]; then
        delete_slice || say "The slice $name could not be deleted; look whether it costs."
    elif [ "$dry" = no ]; then
        say "The slice $name goes on, and costs, until you delete it: gcloud compute tpus\
 queued-resources delete $name --zone=$zone --force"
    fi
}

for ((try = 1; try <= tries; try++)); do
    need_slice
    if begin "$@"; then
        found=''
        while [ "$dry" = no ]; do
            look
            case $state in ACTIVE) found=$(codes) ;; UNKNOWN) ;; *) break ;; esac
            [ -z "$found" ] || break
            sleep "$PAUSE"
        done
        if [ "$dry" = yes ]; then
            ask_hosts
            found=0
        fi
        collect_logs
        if [ "$found" = 0 ]; then
            leave_slice
            say "Done; the hosts' logs are in $logs."
            exit 0
        fi
        # 2: a mistake that a new start would not mend; 3: another host's.
        case ",$found," in
            *,2,*)
                leave_slice
                fail "the program was refused; see $logs."
                ;;
        esac
        say "Try $try ended with '${found:-the slice taken away}'."
    else
        say "Try $try could not be started."
    fi
    sleep "$PAUSE"
done
leave_slice
fail "not done after $tries tries; see $logs."
