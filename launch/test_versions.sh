#!/usr/bin/env bash
# Run the test suite with the lowest or the newest versions that requirements.txt and pyproject.toml
# allow, in an environment of its own; further arguments go to pytest.  TPGDIFF_TEST_EXTRAS chooses
# extras as in test.sh.
#
#   bash launch/test_versions.sh lowest                 the oldest, on the first Python found
#   bash launch/test_versions.sh newest                 the newest
#   PYTHON=python3.13 bash launch/test_versions.sh newest tests/runs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
versions=${1:-}
case $versions in
    lowest) resolution=lowest-direct ;;
    newest) resolution=highest ;;
    *) fail "the first argument is lowest or newest; found '$versions'." ;;
esac
shift
# pip always takes the newest; uv can take the lowest.
environment=.venv-$versions
check_disk .
make_venv "$(find_python)" "$environment"
"$environment/bin/python" -m pip install --quiet uv
"$environment/bin/uv" pip install --python "$environment/bin/python" --resolution "$resolution" \
    --editable ".[${TPGDIFF_TEST_EXTRAS:-test},cpu]"
"$environment/bin/uv" pip freeze --python "$environment/bin/python"
exec "$environment/bin/python" -m pytest -n "${TPGDIFF_TEST_JOBS:-2}" --dist loadfile \
    --no-loadscope-reorder "$@"
