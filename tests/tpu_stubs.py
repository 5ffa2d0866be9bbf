"""Stand-ins for what the TPU kit calls, all of them this file under another name.

``gcloud`` writes its arguments to ``$STUB/calls.jsonl``, answers ``describe`` from ``$STUB/states``, keeps one folder
per worker in ``$STUB/workers`` and runs there what ``ssh --command`` sends, as sshd does: in a shell, at home.
``curl``, ``uv``, ``sudo`` and the ``python`` of the workers do as much as the kit needs.
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


def homes(worker="all"):
    found = sorted(WORKERS.iterdir()) if WORKERS.exists() else []
    return found if worker == "all" else [found[int(worker)]]


def gcloud(*args):
    with (STUB / "calls.jsonl").open("a") as out:
        out.write(json.dumps(args) + "\n")
    flags = dict(word[2:].partition("=")[::2] for word in args if word.startswith("--"))
    verb = args[3]
    refusal = STUB / f"refuse_{verb}"
    if refusal.exists():
        return f"ERROR: {refusal.read_text()}"
    if verb == "describe":
        return describe(STUB / "states" / args[2])
    if verb == "create":
        for k in range(int((STUB / "size").read_text())):
            (WORKERS / str(k)).mkdir(parents=True)
    if verb == "delete":
        shutil.rmtree(WORKERS, ignore_errors=True)
    if verb == "scp":
        for home in homes(flags["worker"]):
            shutil.copy(args[4], home / args[5].partition(":")[2])
    if verb == "ssh":
        own = {"CORL_LIBTPU_LOCK": "libtpu_lockfile", "CORL_TPU_DEVICES": "accel*"}
        running = []
        for home in homes(flags["worker"]):
            env = (
                os.environ
                | {key: str(home / value) for key, value in own.items()}
                | {"HOME": str(home)}
            )
            line = " ".join(
                flags["command"].split(" ")
            )  # as gcloud takes it apart and ssh puts it together
            running.append(
                subprocess.Popen(["bash", "-c", line], cwd=home, env=env, stdin=subprocess.DEVNULL)
            )
        return next((code for code in [process.wait() for process in running] if code), 0)
    return 0


def describe(path):
    """The first line of the file; the last one stays."""
    first, *rest = path.read_text().splitlines()
    if rest:
        path.write_text("\n".join(rest))
    if first.isupper() and not first.startswith("NOT_FOUND"):
        print(first)
        return 0
    return f"ERROR: (gcloud.compute.tpus) {first}"


def curl(*args):
    """The installer of uv."""
    assert args[-1] == "https://astral.sh/uv/install.sh", args
    print(
        f'mkdir -p "$UV_INSTALL_DIR" && cp {sys.argv[0].removesuffix("curl")}uv "$UV_INSTALL_DIR"/uv'
    )


def uv(*args):
    with (HOME / "uv.jsonl").open("a") as out:
        out.write(json.dumps(args) + "\n")
    if args[0] == "venv":
        bin_folder = pathlib.Path(args[-1]) / "bin"
        bin_folder.mkdir(parents=True)
        shutil.copy(sys.argv[0], bin_folder / "python")


def sudo(*args):
    assert args[0] == "-n", args
    return subprocess.run(args[1:]).returncode


def python(*args):
    """A run goes on until ``~/finish`` says its exit code, or SIGTERM; a worker that is gone ends it too."""
    if args == ("--version",):
        print("Python 3.12.9")
    elif args[:2] == ("-m", "corl_jax.main"):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        assert args[2] == "--distributed"
        seen = {"args": args[3:], "cwd": os.getcwd(), "platforms": os.environ["JAX_PLATFORMS"]}
        (HOME / "run.new").write_text(json.dumps(seen))
        (HOME / "run.new").rename(HOME / "run.json")
        print("step 1", flush=True)
        while HOME.exists() and not (HOME / "finish").exists():
            time.sleep(0.02)
        return int((HOME / "finish").read_text()) if HOME.exists() else 0
    else:
        sys.stdout.write(" ".join(args) + "\n")  # at once: other workers write too


if __name__ == "__main__":
    sys.exit(globals()[pathlib.Path(sys.argv[0]).name](*sys.argv[1:]))
