#!/usr/bin/env bash
# An environment with the lowest releases that pyproject.toml allows, and this checkout in it:
#   tests/lowest.sh FOLDER [PYTHON] && FOLDER/bin/python -m pytest -n 2 --dist loadfile
# Libraries of the package and of its extras are the lowest; what they need, and tools of the tests,
# are the newest that go with them. FOLDER/lowest.txt lists what is held down.
set -euo pipefail
if (($# < 1 || $# > 2)); then
  echo "usage: tests/lowest.sh FOLDER [PYTHON]; got $# arguments" >&2
  exit 2
fi
folder=$(realpath -m "$1") python=${2:-python3}
cd "$(dirname "$0")/.." || exit
if [[ -e $folder ]]; then
  echo "FOLDER must be a new path; got $folder, which exists. Choose another" >&2
  exit 2
fi

"$python" -m venv "$folder"
"$folder/bin/pip" install -q --upgrade pip uv

# pip has no way to take the lowest releases; uv has, and says which of them the project names.
extras=()
for extra in gcs math suites data demo wandb trackio; do
  extras+=(--extra "$extra")
done
"$folder/bin/uv" pip compile -q --python "$folder/bin/python" --resolution lowest-direct \
  --annotation-style line --no-header "${extras[@]}" pyproject.toml |
  sed -n 's/ *# via.*corl-jax (pyproject.toml)$//p' > "$folder/lowest.txt"
cat "$folder/lowest.txt"
"$folder/bin/pip" install -q -e ".[test,dev]" -c "$folder/lowest.txt"
