#!/usr/bin/env bash
# What a GPU makes of this code in 8 minutes; parts that do not end in their time say so:
#
#     tests/gpu/check.sh OUT
#
# Start it in the root of a checkout. It needs jax with its GPU plug-in and the other libraries of
# corl_jax on PYTHONPATH, but no installation of corl_jax; torch and transformers for the last part.
#
# OUT/gpu.json has the results by part and is written anew after each of them; OUT/log.txt has all
# that the parts print. A part that fails or runs out of time says so in both, and the next one
# starts. The most valuable parts come first.
#
#     CORL_SIZE=dot tests/gpu/check.sh OUT     tries the script on a CPU
#     CORL_SECONDS=300 ...                     seconds for all parts, by default 480, on a CPU 1920
set -uo pipefail

if [ $# -ne 1 ]; then
  echo "usage: tests/gpu/check.sh OUT" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
size=${CORL_SIZE:-janus_pro_1b}
# At a size to try the script with, limits are wider and the main job evaluates little before it
# starts: a CPU is slow.
if [ "$size" = janus_pro_1b ]; then
  slower=1 job_flags=()
else
  slower=4 job_flags=(--config.evals.num_records=16)
fi
python=${PYTHON:-python3}
work=$(mktemp -d /tmp/corl_gpu_XXXXXX)
trap 'rm -rf "$work"' EXIT

# Programs that several parts share compile once; the folder is new, so the first time is cold.
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export JAX_COMPILATION_CACHE_DIR=$work/xla
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.5

begin=$SECONDS
total=${CORL_SECONDS:-$((480 * slower))}
failed=0
: >"$out/log.txt"
rm -f "$out/gpu.json"

# part NAME LIMIT COMMAND...: runs the command, which writes its result to $work/NAME.json.
part() {
  local name=$1 limit=$(($2 * slower)) start=$SECONDS rc=0
  shift 2
  # What is left for all parts, but for two seconds to write the result.
  local left=$((total - (SECONDS - begin) - 2))
  limit=$((limit < left ? limit : left))
  echo "== $name (at most $limit s): $*" | tee -a "$out/log.txt"
  if [ "$limit" -lt 5 ]; then
    rc=124 limit=0
    echo "no time is left for it" | tee -a "$out/log.txt"
  else
    # SIGKILL where SIGTERM does not end it.
    timeout --kill-after=2 "$limit" "$@" >"$work/$name.log" 2>&1 || rc=$?
    cat "$work/$name.log" >>"$out/log.txt"
    tail -n 12 "$work/$name.log"
  fi
  [ "$rc" -eq 0 ] || failed=1
  "$python" tests/gpu/record.py "$out/gpu.json" "$name" --rc "$rc" --limit "$limit" \
    --seconds $((SECONDS - start)) --result "$work/$name.json" --log "$work/$name.log"
}

# bench PART LIMIT BENCHMARK FLAGS...: one of the benchmarks at this size.
bench() {
  local name=$1 limit=$2
  shift 2
  part "$name" "$limit" "$python" -m corl_jax.commands.cli bench "$@" --size "$size" \
    --compile-cache --json "$work/$name.json"
}

# What a run at full size samples: 16 prompts of 8 images.
bench decode_128 110 decode --against nothing --samples 128 --group 8 --repeats 2
bench decode_16 70 decode --against nothing --samples 16 --group 8 --repeats 3
bench step 120 step --against nothing --prompts 4 --group 8 --repeats 2

# The first step of the main job, all to be compiled and then from the cache.
for start in cold warm; do
  part "main_job_$start" 75 "$python" tests/gpu/main_job.py "$work/main_job_$start.json" \
    ${job_flags[@]+"${job_flags[@]}"}
done

bench kernels 60 kernels --repeats 5
part doctor 60 "$python" -m corl_jax.commands.cli doctor --policy tiny --json "$work/doctor.json"
bench transformers_16 120 decode --against transformers --samples 16 --group 8 --repeats 2

echo "== $((SECONDS - begin)) s in all; $out/gpu.json"
exit $failed
