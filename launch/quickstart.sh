#!/usr/bin/env bash
# Restore degraded photos with the weights that come with tpgdiff_jax, in seconds; then show how
# training goes: a small TPGDiff learns for a few minutes on the bundled photos.
#
#   bash launch/quickstart.sh [--train=no] [flags of tpgdiff_jax.main, for the training]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
train=yes
flags=()
for flag in "$@"; do
    case $flag in
        --train=yes | --train=no) train=${flag#--train=} ;;
        -h | --help)
            sed -n '2,5s/^# \{0,1\}//p' launch/quickstart.sh
            exit
            ;;
        --train | --train=*) fail "$flag: expected --train=yes or --train=no." ;;
        *) flags+=("$flag") ;;
    esac
done
prepare_environment ""
printf '%s\n\n' "1. Restoring photos with the weights that come with tpgdiff_jax ..."
"$python" launch/first_restoration.py
if [ "$train" = no ]; then
    exit
fi
printf '\n%s\n%s\n\n' "2. Training. This is a demo that trains a small model for a few minutes; do not" \
    "   expect good restorations of it.  (--train=no leaves it out.)"
exec "$python" -m tpgdiff_jax.main --config=configs/quickstart.py ${flags[@]+"${flags[@]}"}
