"""Stubs of the programs that the TPU kit calls. This file is installed under the name of each.

``gcloud`` appends its arguments to ``$STUB/calls.jsonl`` and answers ``describe`` from the files in
``$STUB/states``. It has one folder per worker in ``$STUB/workers``, and runs the command of
``ssh --command`` in these folders as sshd would: in a shell, in the home folder. ``curl``, ``uv``,
``sudo`` and the ``python`` of the workers do only what the kit needs.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

STUB = pathlib.Path(os.environ["STUB"])
WORKERS = STUB / "workers"
HOME = pathlib.Path(os.environ["HOME"])


def worker_homes(worker="all"):
    homes = sorted(WORKERS.iterdir()) if WORKERS.exists() else []
    return homes if worker == "all" else [homes[int(worker)]]


def gcloud(*args):
    """Records the call and does what ``gcloud compute tpus KIND VERB`` does to the workers."""
    with (STUB / "calls.jsonl").open("a") as file:
        file.write(json.dumps(args) + "\n")
    flags = dict(arg[2:].partition("=")[::2] for arg in args if arg.startswith("--"))
    kind, verb = args[2], args[3]

    # A test can make a verb fail with an error text of its choice.
    refusal = STUB / f"refuse_{verb}"
    if refusal.exists():
        return f"ERROR: {refusal.read_text()}"

    if verb == "describe":
        return describe(STUB / "states" / kind)
    if verb == "create":
        for worker in range(int((STUB / "size").read_text())):
            (WORKERS / str(worker)).mkdir(parents=True)
    if verb == "delete":
        shutil.rmtree(WORKERS, ignore_errors=True)
    if verb == "scp":
        for home in worker_homes(flags["worker"]):
            shutil.copy(args[4], home / args[5].partition(":")[2])
    if verb == "ssh":
        return ssh(worker_homes(flags["worker"]), flags["command"])
    return 0


def ssh(homes, command):
    """Runs the command on all workers at once; returns the first exit code that is not 0."""
    # gcloud splits the command at spaces, and ssh joins the words again.
    command = " ".join(command.split(" "))
    worker_files = {"CORL_LIBTPU_LOCK": "libtpu_lockfile", "CORL_TPU_DEVICES": "accel*"}

    processes = []
    for home in homes:
        paths = {variable: str(home / name) for variable, name in worker_files.items()}
        env = os.environ | paths | {"HOME": str(home)}
        processes.append(
            subprocess.Popen(["bash", "-c", command], cwd=home, env=env, stdin=subprocess.DEVNULL)
        )

    codes = [process.wait() for process in processes]
    return next((code for code in codes if code), 0)


def describe(path):
    """Prints the first line of the file and removes it, unless it is the last one."""
    first, *rest = path.read_text().splitlines()
    if rest:
        path.write_text("\n".join(rest))

    # Lines that are not the name of a state are errors.
    if first.isupper() and not first.startswith("NOT_FOUND"):
        print(first)
        return 0
    return f"ERROR: (gcloud.compute.tpus) {first}"


def curl(*args):
    """Prints an installer of uv, which copies the stub of uv."""
    assert args[-1] == "https://astral.sh/uv/install.sh", args
    uv_stub = f"{sys.argv[0].removesuffix('curl')}uv"
    print(f'mkdir -p "$UV_INSTALL_DIR" && cp {uv_stub} "$UV_INSTALL_DIR"/uv')


def uv(*args):
    """Records the call; ``uv venv`` installs the stub of Python."""
    with (HOME / "uv.jsonl").open("a") as file:
        file.write(json.dumps(args) + "\n")
    if args[0] == "venv":
        bin_folder = pathlib.Path(args[-1]) / "bin"
        bin_folder.mkdir(parents=True)
        shutil.copy(sys.argv[0], bin_folder / "python")


def sudo(*args):
    assert args[0] == "-n", args
    return subprocess.run(args[1:]).returncode


def python(*args):
    """A run writes ``~/run.json`` and lasts until ``~/finish`` has its exit code, or until SIGTERM.

    It also ends when the folder of the worker is deleted.
    """
    if args == ("--version",):
        print("Python 3.12.9")
    elif args[:2] == ("-m", "corl_jax.main"):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        assert args[2] == "--distributed"

        # Renamed when complete, because the test waits for the file.
        run = {"args": args[3:], "cwd": os.getcwd(), "platforms": os.environ["JAX_PLATFORMS"]}
        (HOME / "run.new").write_text(json.dumps(run))
        (HOME / "run.new").rename(HOME / "run.json")

        print("step 1", flush=True)
        while HOME.exists() and not (HOME / "finish").exists():
            time.sleep(0.02)
        return int((HOME / "finish").read_text()) if HOME.exists() else 0
    else:
        # In one call, because other workers write to the same stream.
        sys.stdout.write(" ".join(args) + "\n")


if __name__ == "__main__":
    sys.exit(globals()[pathlib.Path(sys.argv[0]).name](*sys.argv[1:]))
