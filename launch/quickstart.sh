#!/usr/bin/env bash
# Train a small TPGDiff on the bundled photos and restore photos it has never seen.
#
#   bash launch/quickstart.sh [flags of tpgdiff_jax.main]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare_environment ""
exec "$python" -m tpgdiff_jax.main --config=configs/quickstart.py "$@"
