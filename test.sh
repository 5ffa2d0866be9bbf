#!/usr/bin/env bash
# Everything CI checks, in order: style, types, floors, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
ruff check .
ruff format --check .
mypy
lint-imports
# Programs that several tests compile are compiled once per run.
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$cache}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.3
python -m pytest -n 2 --dist loadfile "$@"
