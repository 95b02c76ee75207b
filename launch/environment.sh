# shellcheck shell=bash
# Prepare a virtual environment for the scripts beside this file; they source it.
#
#   prepare_environment EXTRA     makes (or reuses) .venv, installs this clone with [EXTRA] or with
#                                 nothing extra when EXTRA is empty, and sets $python.
#
# TPGDIFF_VENV chooses another folder for the environment, PYTHON another interpreter.

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    [ -z "${PYTHON:-}" ] ||
        fail "PYTHON=$PYTHON cannot be started, or is older than Python 3.11; name another."
    fail "Python 3.11 or later is needed and was not found; install it, or name one:" \
        "PYTHON=/path/to/python3.12 bash launch/..."
}

make_venv() {
    local interpreter=$1 venv=$2
    if ! "$interpreter" -c 'import venv, ensurepip' 2>/dev/null; then
        fail "this Python cannot make virtual environments ('$interpreter -m venv' is missing);" \
            "on Debian and Ubuntu install the package python3-venv."
    fi
    "$interpreter" -m venv --clear "$venv" >&2 ||
        fail "the virtual environment $venv could not be made (is the disk full, or the folder" \
            "not writable?)."
}

check_disk() {
    local folder=$1 free_mb
    free_mb=$(df -Pm "$folder" 2>/dev/null | awk 'NR == 2 { print $4 }')
    if [ -n "$free_mb" ] && [ "$free_mb" -lt 2000 ]; then
        fail "the disk of $folder has $free_mb MB free; the environment needs about 2000 MB."
    fi
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# Refuse an environment of another Python than PYTHON names.  It is not made anew: it may hold what
# its user installed, such as JAX for a GPU.
check_version() {
    local interpreter=$1 venv=$2 wanted found
    wanted=$(version_of "$interpreter")
    found=$(version_of "$venv/bin/python")
    [ "$wanted" = "$found" ] ||
        fail "$venv has Python $found, but PYTHON=$PYTHON is Python $wanted; leave PYTHON out," \
            "name another folder (TPGDIFF_VENV=.venv-$wanted), or remove $venv to have it made anew."
}

# Print what decides the installation; only when it has changed is anything installed anew.
wanted_stamp() {
    # The folder, too: the installation of a clone that was moved or copied leads to where that lay.
    { pwd -P; cat requirements.txt pyproject.toml; } | cksum
}

prepare_environment() {
    local extra=$1 venv=${TPGDIFF_VENV:-.venv} wanted stamp interpreter
    interpreter=$(find_python) || exit 1
    wanted=$(wanted_stamp)
    stamp=$venv/.installed-${extra:-run}
    if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        check_disk .
        say "Making a virtual environment in $venv ..."
        make_venv "$interpreter" "$venv"
    elif [ -n "${PYTHON:-}" ]; then
        check_version "$interpreter" "$venv"
    fi
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
        check_disk "$venv"
        say "Installing tpgdiff_jax${extra:+ with extra '$extra'} into $venv (once; minutes) ..."
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --editable ".${extra:+[$extra]}" >&2 ||
            fail "the installation failed; see the message above (no network? disk full?)."
        # oneDNN speeds up convolutions on some CPUs; everything works without it, too.
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --editable ".[cpu]" >&2 ||
            say "note: the extra 'cpu' could not be installed; convolutions run through XLA."
        printf '%s' "$wanted" > "$stamp"
    fi
    # shellcheck disable=SC2034  # read by who sources this
    python=$venv/bin/python
}
