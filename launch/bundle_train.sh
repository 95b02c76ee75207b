#!/usr/bin/env bash
# Train with what lies beside this file, for a number of minutes; called again, it continues.
#
#   bash train.sh [--minutes=8] [--out=DIR] [--workdir=DIR] [--config=FILE] [--state] [--evaluate]
#                 [--reserve=40] [--part=16000000] [--python=python3] [--config.KEY=VALUE ...]
#
#   --minutes    of the whole call: installing, training, saving, exporting
#   --out        receives weights, metrics and logs; by default BUNDLE-results in this folder
#   --workdir    the run's folder, by default runs/NAME OF THE CONFIG; keep it to continue
#   --config     another experiment file than the packed one
#   --state      also write the run's state to --out, to continue it elsewhere
#   --evaluate   also score the packed test sets (after --minutes)
#   --reserve    seconds kept for saving and exporting, out of --minutes
#   --part       larger files are split into parts of so many bytes
#   --python     the interpreter
#
# The steps of a run (--config.optim.steps) are fixed when it is started, since the learning rate
# follows them: choose as many as all calls together can take.
set -uo pipefail

started=$(date +%s)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }
seconds() { say $(($(date +%s) - started)); }

read_arguments() {
    minutes=8 out="$PWD/bundle-results" workdir="" config="" state="" evaluate="" reserve=40
    part=16000000 python=${PYTHON:-python3} overrides=()
    local argument value
    for argument in "$@"; do
        value=${argument#*=}
        case $argument in
            --minutes=*) minutes=$value ;;
            --out=*) out=$value ;;
            --workdir=*) workdir=$value ;;
            --config=*) config=$value ;;
            --state) state=yes ;;
            --evaluate) evaluate=yes ;;
            --reserve=*) reserve=$value ;;
            --part=*) part=$value ;;
            --python=*) python=$value ;;
            --config.*=*) overrides+=("$argument") ;;
            -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
            *) fail "$argument is no argument of train.sh; see --help." ;;
        esac
    done
    total=$(awk -v m="$minutes" 'BEGIN { if (m + 0 <= 0) exit 1; printf "%d", m * 60 }') ||
        fail "--minutes=$minutes is no number above 0."
    [[ $reserve =~ ^[0-9]+$ ]] || fail "--reserve=$reserve is no number of seconds."
    [[ $part =~ ^[1-9][0-9]*$ ]] || fail "--part=$part is no number of bytes."
    [ "$total" -gt "$reserve" ] || fail "--minutes=$minutes leaves nothing beside the" \
        "$reserve seconds for saving; give more minutes, or a smaller --reserve."
}

find_everything() {
    source "$here/bundle.env" || fail "$here/bundle.env is missing; copy the whole bundle."
    if [ -d "$here/code" ]; then
        code=$here/code
    elif [ -d "$PWD/tpgdiff_jax" ]; then
        code=$PWD
    else
        fail "this bundle holds no code, and this folder is no clone; start train.sh in a clone."
    fi
    if [ -z "$config" ]; then
        config=$here/configs/$BUNDLE_CONFIG
    elif [ -f "$config" ]; then
        config=$(realpath "$config")
    else
        [ -f "$code/$config" ] || fail "--config=$config is no file."
        config=$code/$config
    fi
    workdir=$(realpath -m "${workdir:-runs/$(basename "$config" .py)}")
    out=$(realpath -m "$out")
    mkdir -p "$out" "$workdir" || fail "$out or $workdir cannot be made; choose another folder."
    log=$out/train.log
    if [ -d "$here/state" ] && [ ! -e "$workdir/config.json" ]; then
        cp -r "$here/state/." "$workdir/" || fail "the packed state cannot be copied to $workdir."
        say "The packed run is continued in $workdir."
    fi
}

install_packages() {
    local wanted site missing
    wanted=$(ls "$here/wheels" 2>/dev/null | cksum | tr -d ' ')
    site=${TMPDIR:-/tmp}/tpgdiff-packages-$wanted-$(id -u)
    if compgen -G "$here/wheels/*.whl" >/dev/null; then
        if [ ! -e "$site/.complete" ]; then
            "$python" -m pip install -q --disable-pip-version-check --no-index --no-deps \
                --no-compile --no-cache-dir --upgrade --target "$site" "$here"/wheels/*.whl ||
                fail "the packages cannot be installed; were they packed for this Python" \
                    "($("$python" --version 2>&1))? See --python_version of launch/bundle.py."
            touch "$site/.complete"
        fi
        export PYTHONPATH=$site:$code${PYTHONPATH:+:$PYTHONPATH}
    else
        export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}
    fi
    missing=$("$python" - $BUNDLE_PACKAGES <<'PYTHON'
import importlib.metadata, sys
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
for text in sys.argv[1:]:
    wanted = Requirement(text)
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        print(text, end=", ")
        continue
    if not wanted.specifier.contains(version, prereleases=True):
        print(f"{text} (it has {version})", end=", ")
PYTHON
    ) || fail "$python cannot be run; name another one with --python."
    [ -z "$missing" ] || fail "this machine lacks ${missing%, }; pack again with a --present list" \
        "that tells the versions of what it has."
}

describe_machine() {
    local shared gpu
    shared=$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
    gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
    say "Ready after $(seconds) s: $("$python" --version 2>&1), ${gpu:-no GPU}, $(nproc) cores," \
        "${shared:-?} MiB of shared memory; code $code, run $workdir"
    if [ -n "$shared" ] && [ "$shared" -lt 1024 ]; then
        say "Shared memory carries the batches of --config.data.workers: with so little, few" \
            "workers and small batches fit."
    fi
}

set_environment() {
    export PYTHONUNBUFFERED=1
    export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(dirname "$workdir")/.compiled}
    # JAX ends where both of its names for this are set.
    [ -n "${XLA_CLIENT_MEM_FRACTION:-}" ] ||
        export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
    # Workers are processes: threads of each would only get into each other's way.
    export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
    # A driver that fails should be an error, not a training on the CPU.
    if nvidia-smi -L >/dev/null 2>&1; then
        export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
    fi
}

# main_program MODE-AND-FLAGS...: what the project itself runs, here with the packed photos.
main_program() {
    local data=("--config.data.train_folder=$here/photos")
    [ ! -d "$here/eval" ] || data+=("--config.data.eval_folder=$here/eval")
    cd "$code" && exec "$python" -m tpgdiff_jax.main "--config=$config" "--workdir=$workdir" \
        "${data[@]}" "${overrides[@]+"${overrides[@]}"}" "$@"
}

# Runs the training in a process group of its own until `stop_at`; sets `code_of_training`.
train() {
    local stop_at=$((started + total - reserve)) kill_at=$((started + total - reserve / 3))
    local is_asked="" group
    set -m # each job gets a process group
    main_program >>"$log" 2>&1 &
    group=$!
    set +m
    trap 'stop_at=0 kill_at=$(($(date +%s) + reserve * 2 / 3))' TERM INT
    say "Training since second $(seconds), at most until second $((stop_at - started)); log: $log"
    while kill -0 "$group" 2>/dev/null; do
        if [ -z "$is_asked" ] && [ "$(date +%s)" -ge "$stop_at" ]; then
            is_asked=yes
            say "Time is up after $(seconds) s: the run saves and stops."
            kill -TERM "$group" 2>/dev/null # not its workers: it still needs a batch
        fi
        if [ "$(date +%s)" -ge "$kill_at" ]; then
            say "It has not stopped after $(seconds) s and is ended; its last checkpoint counts."
            kill -KILL -- "-$group" 2>/dev/null
            break
        fi
        sleep 0.5
    done
    wait "$group"
    code_of_training=$?
    kill -KILL -- "-$group" 2>/dev/null # workers that were left behind
    say "Training ended after $(seconds) s with exit code $code_of_training."
}

# hand_over FILE: moves a file into --out, in parts where it is too large for one.
hand_over() {
    local file=$1 target
    target=$out/$(basename "$file")
    rm -f "$target" "$target".part-*
    if [ "$(stat -c %s "$file")" -le "$part" ]; then
        mv "$file" "$target"
    else
        split -b "$part" -d "$file" "$target.part-" && rm "$file"
        say "Join:  cat $(basename "$target").part-* > $(basename "$target")"
    fi
}

# Writes the newest checkpoint's averaged weights; on the CPU, which starts faster.
export_weights() {
    local folder=$1
    if ! compgen -G "$workdir/checkpoints/[0-9]*" >/dev/null &&
        ! compgen -G "$workdir/diffusion/checkpoints/[0-9]*" >/dev/null; then
        say "There is no checkpoint, so there are no weights." \
            "$([ "$code_of_training" -eq 0 ] || say "The end of $log tells why training failed.")"
        return 1
    fi
    rm -f "$folder"/weights.*
    (JAX_PLATFORMS=cpu main_program --mode=export "--output=$folder/weights.safetensors") \
        >>"$log" 2>&1 ||
        (main_program --mode=export "--output=$folder/weights.safetensors") >>"$log" 2>&1 ||
        { say "The weights cannot be exported; see the end of $log."; return 1; }
    say "Weights exported after $(seconds) s."
}

evaluate() {
    [ -f "$here/configs/eval_pairs.py" ] || { say "No test sets were packed (--pairs)."; return; }
    (cd "$code" && "$python" -m tpgdiff_jax.main --mode=eval --config="$here/configs/eval_pairs.py" \
        --config.benchmark.root="$here/pairs" --checkpoint="$1/weights.safetensors" \
        --output="$1/evaluation" --config.benchmark.exact=False) >"$out/evaluation.log" 2>&1 ||
        say "The evaluation failed; see $out/evaluation.log."
    tail -n 30 "$out/evaluation.log"
    cp "$1"/evaluation/{summary.json,scores.csv} "$out/" 2>/dev/null
}

# Packs what continuing needs: of the checkpoints the newest alone.
pack_state() {
    local newest
    newest=$(ls "$workdir/checkpoints" 2>/dev/null | grep -E '^[0-9]+$' | sort -n | tail -1)
    [ -n "$newest" ] || { say "No checkpoint of one stage in $workdir, so no state."; return; }
    (cd "$workdir" && tar -cf "$1/state.tar" "checkpoints/$newest" \
        $(ls config.json metrics.jsonl events.jsonl starts.jsonl 2>/dev/null)) &&
        hand_over "$1/state.tar" && say "Continue: tar -xf state.tar -C WORKDIR"
}

write_results() {
    local folder=$1 file
    for file in "$workdir/metrics.jsonl" "$workdir/diffusion/metrics.jsonl"; do
        [ ! -f "$file" ] || cp "$file" "$out/metrics.jsonl"
    done
    (cd "$workdir" && find . \( -name '*.json' -o -name '*.jsonl' -o -path '*/pictures/*' -o \
        -path '*/evaluation/*' \) -not -path '*/checkpoints/*' -print0 |
        tar --null -czf "$folder/run.tar.gz" -T -) && hand_over "$folder/run.tar.gz"
    for file in "$folder"/weights.safetensors "$folder"/weights.json; do
        [ ! -f "$file" ] || hand_over "$file"
    done
    [ -z "$state" ] || pack_state "$folder"
}

read_arguments "$@"
find_everything
install_packages
set_environment
describe_machine
train
scratch=$(mktemp -d "$out/.parts-XXXXXX") || fail "$out cannot be written."
export_weights "$scratch"
has_weights=$?
[ -z "$evaluate" ] || [ $has_weights -ne 0 ] || evaluate "$scratch"
write_results "$scratch"
rm -rf "$scratch"
say "--- end of $log"
tail -n 25 "$log"
say "--- $out, after $(seconds) s"
ls -l "$out"
[ "$code_of_training" -eq 0 ] && [ "$has_weights" -eq 0 ]
