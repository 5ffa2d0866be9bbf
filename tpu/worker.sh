#!/usr/bin/env bash
# What happens on a worker of the TPU; the other scripts call it over ssh. It lies in ~/corl_jax/tpu.
#
#   worker.sh install PYTHON        uv, that Python, and the package with JAX for TPU, in ~/corl_venv
#   worker.sh check WORKERS CHIPS   what JAX sees
#   worker.sh ready                 refuses while a run is going; frees a lock that a dead process left
#   worker.sh start FLAG...         python -m corl_jax.main FLAG... in the background, log in ~/corl.log
#   worker.sh state                 whether a run is going, or how the last one ended
#   worker.sh stop                  SIGTERM, and waits until the run has saved
set -euo pipefail

self=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/worker.sh
cd "$(dirname "$self")/.."
venv=$HOME/corl_venv log=$HOME/corl.log pid=$HOME/corl.pid
lock=$HOME/corl.lock # held as long as a run lives, however it ends
libtpu=${CORL_LIBTPU_LOCK:-/tmp/libtpu_lockfile} # libtpu leaves it behind when it is killed
devices=${CORL_TPU_DEVICES:-/dev/accel* /dev/vfio/[0-9]*} # patterns
# JAX falls back to the CPU where it finds no TPU; naming the platforms makes that an error.
export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu} PYTHONUNBUFFERED=1

die() {
  printf 'error: %s: %s\n' "$(hostname)" "$*" >&2
  exit 2
}

going() { ! flock -n "$lock" true; }

# Processes that have a chip open, one number per line.
holders() {
  local pattern
  set -f
  # shellcheck disable=SC2086  # several patterns
  set -- $devices
  set +f
  for pattern; do
    sudo -n find /proc/[0-9]*/fd -maxdepth 1 -lname "$pattern" 2>/dev/null || true # processes come and go
  done | cut -d/ -f3 | sort -un
}

install() {
  local uv=$HOME/.local/bin/uv
  if [ ! -x "$uv" ]; then
    curl -LsSf --retry 5 https://astral.sh/uv/install.sh | env UV_NO_MODIFY_PATH=1 UV_INSTALL_DIR="$HOME/.local/bin" sh
  fi
  if ! [[ $("$venv/bin/python" --version 2>/dev/null || true) == "Python $1."* ]]; then
    rm -rf "$venv"
    "$uv" venv --python "$1" "$venv"
  fi
  "$uv" pip install --python "$venv/bin/python" -e '.[tpu,gcs]'
}

ready() {
  if going; then die "a run is going (process $(cat "$pid" 2>/dev/null || echo unknown)); tail.sh follows it, stop.sh ends it"; fi
  local held
  held=$(holders | tr '\n' ' ')
  [ -z "$held" ] || die "process ${held% } holds the TPU and is no run of ours; end it, or wait for its end"
  if [ -e "$libtpu" ]; then
    sudo -n rm -f "$libtpu"
    echo "$(hostname): freed $libtpu, which a dead process had left"
  fi
  echo "$(hostname): ready"
}

note() { printf '=== %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$log"; }

start() {
  if going; then die "a run is going; tail.sh follows it, stop.sh ends it"; fi
  [ -x "$venv/bin/python" ] || die "nothing is installed; setup.sh comes before run.sh"
  rm -f "$pid"
  note "commit $(cat COMMIT): python -m corl_jax.main --distributed $*"
  setsid nohup bash "$self" job "$@" >>"$log" 2>&1 </dev/null &
  for _ in $(seq 100); do
    [ ! -s "$pid" ] || break
    sleep 0.1
  done
  [ -s "$pid" ] || die "the run did not start; see ~/corl.log"
  echo "$(hostname): started, process $(cat "$pid")"
}

# The background part of start. The run inherits the lock, so it counts as going even if this shell is killed.
job() {
  exec 9>>"$lock"
  flock -n 9 || die "a run is going"
  local code=0
  "$venv/bin/python" -m corl_jax.main --distributed "$@" &
  echo $! >"$pid"
  wait $! || code=$?
  note "exit $code"
}

state() {
  if going; then
    echo "$(hostname): going, process $(cat "$pid" 2>/dev/null || echo unknown)"
  else
    echo "$(hostname): idle; last: $(grep '^===' "$log" 2>/dev/null | tail -n 1 || echo none)"
  fi
}

stop() {
  if ! going; then
    echo "$(hostname): no run is going"
    return
  fi
  kill -TERM "$(cat "$pid")"
  flock -w "${CORL_STOP_SECONDS:-600}" "$lock" true || die "the run has not ended; kill -KILL $(cat "$pid") there loses what it has not saved"
  echo "$(hostname): stopped"
}

what=${1:-}
[ $# -eq 0 ] || shift
case $what in
  install | ready | start | job | state | stop) "$what" "$@" ;;
  check) "$venv/bin/python" tpu/check.py "$@" ;;
  *) die "unknown command '$what'; expected install, check, ready, start, state or stop" ;;
esac
