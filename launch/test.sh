#!/usr/bin/env bash
# Run the test suite in two processes (TPGDIFF_TEST_JOBS chooses another number); arguments go to
# pytest.  TPGDIFF_TEST_EXTRAS=test,app,browser also installs what the tests of the page need, but for
# the browser itself (chromium, chromedriver).
#
#   bash launch/test.sh                 everything but the slow tests
#   bash launch/test.sh -m slow         the tests marked slow
#   bash launch/test.sh --faults        hardening at length: kills, damaged files, fuzzing, soak
#   bash launch/test.sh tests/models    some of them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare_environment "${TPGDIFF_TEST_EXTRAS:-test}"
if [[ ${1:-} == --faults ]]; then
    shift
    set -- -m faults "$@"
fi
exec "$python" -m pytest -n "${TPGDIFF_TEST_JOBS:-2}" --dist loadfile --no-loadscope-reorder "$@"
