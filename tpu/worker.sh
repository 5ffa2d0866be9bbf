#!/usr/bin/env bash
# Runs on a worker of the TPU, in ~/corl_jax/tpu; the other scripts call it over ssh.
#
#   worker.sh install PYTHON        installs uv, this Python, and the package with JAX for TPU in ~/corl_venv
#   worker.sh check WORKERS CHIPS   checks that JAX sees all chips
#   worker.sh ready                 checks that no run is active; removes the libtpu lock of a killed process
#   worker.sh start FLAG...         runs python -m corl_jax.main FLAG... in the background, log in ~/corl.log
#   worker.sh state                 prints whether a run is active, or how the last one ended
#   worker.sh stop                  sends SIGTERM and waits until the run has saved a checkpoint and ended
set -euo pipefail

worker_script=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/worker.sh
cd "$(dirname "$worker_script")/.."
venv=$HOME/corl_venv log_file=$HOME/corl.log pid_file=$HOME/corl.pid
run_lock=$HOME/corl.lock # locked as long as a run is alive, however it ends
libtpu_lock=${CORL_LIBTPU_LOCK:-/tmp/libtpu_lockfile} # libtpu does not remove it when it is killed
device_patterns=${CORL_TPU_DEVICES:-/dev/accel* /dev/vfio/[0-9]*}
# JAX uses the CPU where it finds no TPU; naming the platforms makes that an error.
export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu} PYTHONUNBUFFERED=1

die() {
  printf 'error: %s: %s\n' "$(hostname)" "$*" >&2
  exit 2
}

run_is_active() { ! flock -n "$run_lock" true; }

active_pid() { cat "$pid_file" 2>/dev/null || echo unknown; }

# Prints the ids of the processes that have a chip open, one per line.
chip_users() {
  local pattern
  # Split the patterns, but do not expand them: find matches them against the targets of links.
  set -f
  # shellcheck disable=SC2086  # several patterns
  set -- $device_patterns
  set +f
  for pattern; do
    # A process may end while find looks at it.
    sudo -n find /proc/[0-9]*/fd -maxdepth 1 -lname "$pattern" 2>/dev/null || true
  done | cut -d/ -f3 | sort -un
}

install() {
  local uv=$HOME/.local/bin/uv
  if [ ! -x "$uv" ]; then
    curl -LsSf --retry 5 https://astral.sh/uv/install.sh | env UV_NO_MODIFY_PATH=1 UV_INSTALL_DIR="$HOME/.local/bin" sh
  fi

  # The environment is reused as long as its Python has the right version.
  if ! [[ $("$venv/bin/python" --version 2>/dev/null || true) == "Python $1."* ]]; then
    rm -rf "$venv"
    "$uv" venv --python "$1" "$venv"
  fi
  "$uv" pip install --python "$venv/bin/python" -e '.[tpu,gcs]'
}

ready() {
  if run_is_active; then
    die "a run is active (process $(active_pid)); follow it with tail.sh, or stop it with stop.sh"
  fi

  local pids
  pids=$(chip_users | tr '\n' ' ')
  [ -z "$pids" ] || die "process ${pids% } holds the TPU and was not started by run.sh; end it, or wait until it ends"

  # No process has a chip open, so the lock belongs to a process that was killed.
  if [ -e "$libtpu_lock" ]; then
    sudo -n rm -f "$libtpu_lock"
    echo "$(hostname): removed $libtpu_lock, left by a killed process"
  fi
  echo "$(hostname): ready"
}

# Lines with === and the time separate the runs in the log.
log_event() { printf '=== %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$log_file"; }

start() {
  if run_is_active; then die "a run is active; follow it with tail.sh, or stop it with stop.sh"; fi
  [ -x "$venv/bin/python" ] || die "the package is not installed; run setup.sh before run.sh"

  rm -f "$pid_file"
  log_event "commit $(cat COMMIT): python -m corl_jax.main --distributed $*"
  setsid nohup bash "$worker_script" job "$@" >>"$log_file" 2>&1 </dev/null &

  # The job writes its process id when it has the lock and has started Python.
  for _ in $(seq 100); do
    [ ! -s "$pid_file" ] || break
    sleep 0.1
  done
  [ -s "$pid_file" ] || die "the run did not start; see ~/corl.log"
  echo "$(hostname): started, process $(cat "$pid_file")"
}

# The background part of start. Python inherits the lock, so a run counts as active even if this shell is killed.
job() {
  exec 9>>"$run_lock"
  flock -n 9 || die "a run is active"
  local code=0
  "$venv/bin/python" -m corl_jax.main --distributed "$@" &
  echo $! >"$pid_file"
  wait $! || code=$?
  log_event "exit $code"
}

state() {
  if run_is_active; then
    echo "$(hostname): running, process $(active_pid)"
  else
    echo "$(hostname): idle; last run: $(grep '^===' "$log_file" 2>/dev/null | tail -n 1 || echo none)"
  fi
}

stop() {
  if ! run_is_active; then
    echo "$(hostname): no run is active"
    return
  fi

  local seconds=${CORL_STOP_SECONDS:-600}
  kill -TERM "$(cat "$pid_file")"
  flock -w "$seconds" "$run_lock" true ||
    die "the run has not ended within $seconds seconds; kill -KILL $(cat "$pid_file") on this worker ends it" \
      "and loses all steps since the last checkpoint"
  echo "$(hostname): stopped"
}

subcommand=${1:-}
[ $# -eq 0 ] || shift
case $subcommand in
  install | ready | start | job | state | stop) "$subcommand" "$@" ;;
  check) "$venv/bin/python" tpu/check.py "$@" ;;
  *) die "unknown command '$subcommand'; expected install, check, ready, start, state or stop" ;;
esac
