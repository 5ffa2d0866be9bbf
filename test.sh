#!/usr/bin/env bash
# Everything CI checks, in order: style, types, floors, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
ruff check .
ruff format --check .
mypy
lint-imports
python -m pytest -n 2 --dist loadfile "$@"
