#!/usr/bin/env bash
# Runs the tests of both integrations with each supported minor version of Celery, or with the versions given:
#   .ci/celery_versions.sh 5.3.6 5.7.0
#   TESTS=tests/kombu .ci/celery_versions.sh
# Each version is in a folder under build/, which comes before the environment of the other tests in Python's path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -gt 0 ] || set -- '5.3.*' '5.4.*' '5.5.*' '5.6.*' '5.7.*'
make --no-print-directory .venv/.for-dev
python=$PWD/.venv/bin/python
tests=${TESTS:-tests/celery tests/kombu}
failed=()
for version; do
    folder="$PWD/build/celery-${version//\*/x}"
    printf '\n== Celery %s\n' "$version"
    if [ ! -e "$folder/.ready" ]; then
        rm -rf "$folder"
        "$python" -m pip install --quiet --disable-pip-version-check --target "$folder" "celery==$version"
        touch "$folder/.ready"
    fi
    PYTHONPATH=$folder "$python" -c "
import fnmatch, celery, kombu
assert fnmatch.fnmatch(celery.__version__, '$version'), celery.__version__
print('celery', celery.__version__, 'kombu', kombu.__version__)"
    # Half of their time the tests wait for workers that start or stop, so there are more processes than processors.
    # The classes that an older Celery drives are the same over a server, so they run over a file only.
    # shellcheck disable=SC2086 # several paths
    PYTHONPATH=$folder "$python" -m pytest -p no:cacheprovider --numprocesses 4 --dist loadfile -k "not redis" $tests \
        || failed+=("$version")
done

[ ${#failed[@]} -eq 0 ] || { printf '\nfailed on Celery %s\n' "${failed[*]}"; exit 1; }
