"""Every command in the README and the docs is run, or at least read by the program that it calls.

A command that no test runs carries its reason: ``<!-- not run: needs a TPU -->`` before its block.
Commands of ours are read by their real parsers in any case, so flags and keys must exist.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from command_lines import EVERY_LINE, PAGES, ROOT, SHELLS, Line, blocks, inline_commands
from running import RUN, RUN_ELSEWHERE

from corl_jax.commands.cli import make_parser
from corl_jax.core.errors import UserError
from corl_jax.main import parse_command_line
from corl_jax.pipelines.config import read_pipeline
from corl_jax.rewards.base import rewards
from corl_jax.stages.whole_config import check_config
from docs_site.command_pages import subcommands
from docs_site.config_keys import ALL_BLOCKS, documented_keys, find_key

COMMANDS_OF_OTHERS = ("gcloud", "lmms_eval", "tensorboard", "apt", "ssh", "hf")
"""Programs that tests cannot run; their commands need a reason."""
SET_UP = (["python3", "-m", "venv"], ["source"], ["./test.sh"])
"""What every reader does first; CI does the same."""
KEYS = documented_keys(ALL_BLOCKS)


def check_training(flags):
    """Parses the flags of a run and checks the config that they make."""
    config = parse_command_line(["main", *flags])[0]
    if config["stage"] == "pipeline":
        read_pipeline(config, "runs/pipeline")
    else:
        check_config(config)


def check(line):
    """Checks that the program of a command would accept it."""
    program, arguments = line.words[0], list(line.words[1:])
    if line.train_flags is not None:
        check_training(line.train_flags)
    elif program == "corl":
        args = make_parser().parse_args(arguments)
        if arguments[0] == "plan":
            check_training([f"--config={args.config}", *(f"--{change}" for change in args.changes)])
    elif program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extra in ",".join(extras).split(",") if extras else ():
            require(extra in known["optional-dependencies"], f"no extra {extra}")
    elif program.startswith("tpu/"):
        require((ROOT / program).is_file(), f"no script {program}")
        check_tpu_flags(program, arguments)
    elif program in COMMANDS_OF_OTHERS or program == "python":
        require(line.not_run, "no test runs it; say why before its block: <!-- not run: REASON -->")
    else:
        words = list(line.words)
        is_known = any(words[: len(start)] == start for start in SET_UP)
        require(is_known, f"no test knows the program {program!r}")


def check_tpu_flags(program, arguments):
    """The flags of a script of the TPU kit are in its help; those of a run are a run's."""
    # "--" ends them: what comes behind is gcloud's.
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    usage = subprocess.run(
        ["bash", program, "--help"], capture_output=True, text=True, check=True
    ).stdout
    if program == "tpu/run.sh" and "--again" not in arguments:
        check_training(arguments[2:])
        arguments = arguments[:2]
    for flag in (word.partition("=")[0] for word in arguments if word.startswith("--")):
        require(re.search(rf"{flag}\b", usage), f"{program} has no flag {flag}")


def require(condition, problem):
    """Raises UserError unless a command is right."""
    if not condition:
        raise UserError(problem)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    """Paths of configs are those of the checkout."""
    monkeypatch.chdir(ROOT)


def test_the_pages_have_commands():
    assert len(EVERY_LINE) > 60
    assert {"README.md", "tpu/README.md", "docs/lora.md"} <= set(PAGES)


@pytest.fixture
def write_files(tmp_path, monkeypatch):
    """A function that writes the files that a page shows, where Python finds them.

    They are the blocks of Python that begin with their name: ``# my_rewards.py, ...``.
    """

    def write(page):
        for block in blocks(page):
            name = re.match(r"# (\w+\.py)\b", block.text)
            if block.language == "python" and name:
                (tmp_path / name[1]).write_text(block.text)
                # Another test may have imported a file of that name, or may want to.
                monkeypatch.delitem(sys.modules, name[1].removesuffix(".py"), raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(rewards, "_entries", dict(rewards._entries))

    imported = set(sys.modules)
    yield write
    for name in [name for name in set(sys.modules) - imported if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_would_be_accepted(page, write_files):
    write_files(page)
    problems = []
    for line in EVERY_LINE:
        if line.place.startswith(f"{page}:"):
            try:
                check(line)
            except UserError as error:
                problems.append(f"{line.place}: {line.text}\n    {error}")
    assert not problems, "\n" + "\n".join(problems)


def test_a_command_with_a_mistake_is_found():
    for text in (
        "corl sample --policy tiny --promt a --out b",
        "corl drawn --policy tiny",
        "python -m corl_jax.main --config=configs/unified.py --config.stepz=1",
        "python -m corl_jax.main --config=configs/unified.py --config.rl.loss.clip=ppoo",
        "corl plan --config=configs/unified.py --topology=v5e:2x4 config.microbatch=4",
        "pip install 'corl_jax[tpuu]'",
        "tpu/crate.sh --name demo",
        "tpu/create.sh --name demo --spott",
        "gcloud auth login",
        "rm -rf runs",
    ):
        with pytest.raises(UserError):
            check(Line("here:1", tuple(shlex.split(text)), ""))


@pytest.mark.parametrize("page", PAGES)
def test_a_block_of_commands_says_that_it_is_for_a_shell(page):
    """Otherwise nothing would check it."""
    for block in blocks(page):
        if block.language not in SHELLS:
            first = block.text.split("\n")[0].split(" ")[0]
            assert first not in ("corl", "pip", "$", "lmms_eval"), f"{page}:{block.line}"
            assert "python -m corl_jax" not in block.text, f"{page}:{block.line}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_texts_name_flags_and_keys_that_exist(page):
    commands = dict(subcommands(make_parser()))
    for code in inline_commands(page):
        words = code.split()
        if words[0] == "corl":
            assert words[1] in commands, f"{page}: {code}"
            parsers = [commands[words[1]], *(p for _, p in subcommands(commands[words[1]]))]
            known = {option for parser in parsers for option in parser._option_string_actions}
            for word in words[2:]:
                if word.startswith("--"):
                    assert word.partition("=")[0] in known, f"{page}: {code}"
        for key in re.findall(r"--config\.([\w.]+)=", code):
            assert is_key(key), f"{page}: {code}"


@pytest.mark.parametrize("page", PAGES)
def test_keys_within_texts_exist(page):
    """``config.data.on_bad`` and ``--config.steps``, whole or the name of a block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for key in re.findall(r"`(?!config\.json)(?:--)?config\.([a-z][\w.]*?)\.?(?:=[^`]*)?`", text):
        assert is_key(key), f"{page}: config.{key}"


def is_key(name):
    """Whether a config has a key or a block of that name."""
    name = re.sub(r"^(?:train\.)?[A-Za-z]+\.(?=evals|init_from)", "", name.removeprefix("train."))
    return find_key(name, KEYS) is not None or any(key.startswith(f"{name}.") for key in KEYS)


def test_the_commands_that_are_run_are_those_of_the_pages():
    """A command that is no longer on a page has no place in the table either."""
    texts = {line.text for line in EVERY_LINE}
    assert not [text for text in (*RUN, *RUN_ELSEWHERE) if text not in texts]
