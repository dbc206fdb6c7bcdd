#!/usr/bin/env bash
# Runs the tests of both integrations with each supported minor version of Celery, or with the versions given:
#   .ci/celery_versions.sh 5.3.6 5.7.0
# Each version has a virtual environment under build/, which is updated when setup.cfg has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -gt 0 ] || set -- '5.3.*' '5.4.*' '5.5.*' '5.6.*' '5.7.*'
failed=()
for version; do
    venv="build/celery-${version//\*/x}"
    printf '\n== Celery %s\n' "$version"
    if [ ! "$venv/.ready" -nt setup.cfg ]; then
        "${PYTHON:-python3}" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]' "celery==$version"
        touch "$venv/.ready"
    fi
    "$venv/bin/python" -m pytest -p no:cacheprovider --numprocesses 2 --dist loadfile tests/celery tests/kombu \
        || failed+=("$version")
done

[ ${#failed[@]} -eq 0 ] || { printf '\nfailed on Celery %s\n' "${failed[*]}"; exit 1; }
