#!/usr/bin/env bash
# Walks a new user's way with a wheel, in an empty environment and an empty folder:
#   python -m build && tests/wheel_walk.sh dist/corl_jax-*.whl [PYTHON]
# The main job, sample, ask, own records on a policy of corl init, an own reward beside the config,
# and the demo on its port. The last line has seconds per step. It ends at the first step that fails;
# the folder with all output stays then. Commands in MAY_LACK ("init demo") may not be there yet.
set -euo pipefail
if (($# < 1 || $# > 2)) || [[ ! -f $1 ]]; then
  echo "usage: tests/wheel_walk.sh WHEEL [PYTHON]; WHEEL must be a file; got: $*" >&2
  exit 2
fi
wheel=$(realpath "$1") python=${2:-python3} may_lack=" ${MAY_LACK:-} "
folder=$(mktemp -d "${TMPDIR:-/tmp}/wheel_walk.XXXXXX")
demo_pid=

finish() {
  local code=$?
  if [[ -n $demo_pid ]]; then kill "$demo_pid" 2>/dev/null || true; fi
  if ((code)); then
    echo "FAILED after ${SECONDS} s; see $folder/log.txt" >&2
    tail -n 15 "$folder/log.txt" >&2
  else
    rm -rf "$folder"
  fi
}
trap finish EXIT

# Nothing of a checkout may help: no import path, no cache, no file of configs.
unset PYTHONPATH
export XDG_CACHE_HOME=$folder/cache PATH=$folder/env/bin:$PATH
"$python" -m venv "$folder/env"
mkdir "$folder/empty"
cd "$folder/empty"

# step NAME COMMAND...: runs a command, its output goes to the log, and prints its seconds.
step() {
  local name=$1 start=$SECONDS
  shift
  printf '%s' "$name ... "
  printf '\n== %s: %s\n' "$name" "$*" >>"$folder/log.txt"
  "$@" >>"$folder/log.txt" 2>&1
  echo "$((SECONDS - start)) s"
}

# has COMMAND: whether corl has it; ends the walk where it must.
has() {
  if corl "$1" --help >>"$folder/log.txt" 2>&1; then return 0; fi
  if [[ $may_lack != *" $1 "* ]]; then
    echo "corl $1 is not in this wheel; name it in MAY_LACK to walk on" >&2
    exit 1
  fi
  echo "corl $1 ... LEFT OUT: it is not in this wheel"
  return 1
}

step "install" pip install -q "${wheel}[demo]"
step "pip check" pip check
step "version" corl --version
step "help" python -m corl_jax.main --help
step "main job" python -m corl_jax.main --config=configs/unified.py --config.steps=2 \
  --config.evals.num_records=8
seconds=$(python -c '
import json
print(json.loads(open("runs/unified/metrics.jsonl").read().splitlines()[-1])["time/step"])')
step "the same command again" python -m corl_jax.main --config=configs/unified.py \
  --config.steps=2 --config.evals.num_records=8
grep -q "already at step 2" "$folder/log.txt"
step "sample" corl sample --policy runs/unified --prompt "a red circle" --n 2 --out pictures
pictures=(pictures/*.png)
step "ask" corl ask --policy runs/unified --image "${pictures[0]}" \
  --question "what colour is the circle?"

# Records and a reward of one's own, in a folder that is not the working directory.
mkdir -p project/data
python - <<'PYTHON'
import json
import pathlib

from PIL import Image

rows = []
for number, colour in enumerate(["red", "green", "blue", "yellow"] * 4):
    Image.new("RGB", (64, 64), colour).save(f"project/data/{number}.png")
    answer = f"<think> it is {colour} </think> <answer> {colour} </answer>"
    rows.append(
        {
            "prompt": f"a {colour} wall, painted by hand",
            "real_image": f"{number}.png",
            "qa_problem": "Which colour does the wall have?",
            "qa_solution": answer,
            "qa_type": "OE",
        }
    )
lines = "".join(json.dumps(row) + "\n" for row in rows)
pathlib.Path("project/data/train.jsonl").write_text(lines)
pathlib.Path("project/my_rewards.py").write_text(
    "import numpy as np\n\n\n"
    "def brightness(completions, context):\n"
    "    return np.array([c.pixels.mean() / 255 for c in completions])\n"
)
pathlib.Path("project/mine.py").write_text(
    "from corl_jax.configs import unified\n\n\n"
    "def get_config(arg=None):\n"
    "    c = unified.get_config(arg)\n"
    '    c.rewards.options.custom = ("my_rewards:brightness",)\n'
    "    c.rl.rollout.update({'image_prompts': 2, 'text_prompts': 2, 'group_size': 2})\n"
    "    c.steps = 2\n"
    "    return c\n"
)
PYTHON
step "own reward by flag" python -m corl_jax.main --config=project/mine.py \
  --config.rewards.image.brightness=0.5 --config.evals.num_records=0 --workdir=runs/reward
grep -q "image/reward/brightness" runs/reward/metrics.jsonl

if has init; then
  step "corl init" corl init --out own_base --size small --image-size 384
  cd project  # where the reward is found, since the config of the package is elsewhere
  step "own records" python -m corl_jax.main --config=configs/own_records.py \
    --workdir=../runs/records --config.init_from=../own_base --config.data.source=data \
    --config.rewards.options.custom='("my_rewards:brightness",)' \
    --config.rewards.image.brightness=0.5 --config.steps=2 \
    --config.rl.rollout.image_prompts=2 --config.rl.rollout.text_prompts=2 \
    --config.evals.num_records=2
  cd ..
  grep -q "image/reward/brightness" runs/records/metrics.jsonl
  grep -q "text/reward/accuracy" runs/records/metrics.jsonl
fi

if has demo; then
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
  corl demo --policy runs/unified --port "$port" >>"$folder/log.txt" 2>&1 &
  demo_pid=$!
  step "demo answers" python - "$port" <<'PYTHON'
import sys
import time
import urllib.request

address = f"http://127.0.0.1:{sys.argv[1]}/"
deadline = time.monotonic() + 180
while True:
    try:
        page = urllib.request.urlopen(address, timeout=10)
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(1)
assert page.status == 200 and b"<html" in page.read().lower()
PYTHON
fi

python - "$seconds" <<'PYTHON'
import platform
import sys
from importlib.metadata import version

libraries = ", ".join(f"{name} {version(name)}" for name in ("corl_jax", "jax", "flax"))
print(f"Python {platform.python_version()}, {libraries}: {float(sys.argv[1]):.2f} s per step")
PYTHON
