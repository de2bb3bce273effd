#!/bin/sh
# Resolves pyproject.toml into the two lock files: exact versions and hashes for every platform, no download addresses.
set -eu
cd "$(dirname "$0")/.."
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
python3 -m venv "$tool"
"$tool/bin/pip" install -q --disable-pip-version-check uv
resolve() {
    "$tool/bin/uv" pip compile -q pyproject.toml "$@" --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header
}
resolve --group build -o requirements.lock
resolve --group build --group dev -o requirements-dev.lock
