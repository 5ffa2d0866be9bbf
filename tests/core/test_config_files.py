"""Config files: which one a path names, from any directory, and errors of files of the user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corl_jax.core import config_files
from corl_jax.core.config_files import (
    PACKAGE_FOLDER,
    find_config,
    load_config,
    package_configs,
)
from corl_jax.core.errors import UserError

CONFIG = "from corl_jax.configs import tokenizer\n\n\ndef get_config(arg=None):\n    {body}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory; import paths and modules of a test are forgotten after it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith((config_files.MODULE_NAME, "beside_the_config", "configs")):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path):
    """A folder of the user that is not the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("text", ["configs/unified.py", "unified.py", "./configs/unified.py"])
def test_a_name_of_the_package_is_found_from_anywhere(text):
    assert find_config(text) == PACKAGE_FOLDER / "unified.py"


def test_a_path_that_exists_comes_first(elsewhere, project):
    (elsewhere / "configs").mkdir()
    mine = elsewhere / "configs" / "unified.py"
    mine.write_text(CONFIG.format(body="return tokenizer.get_config(arg)"))
    assert find_config("configs/unified.py") == Path("configs/unified.py")
    assert load_config("configs/unified.py").stage == "tokenizer"

    # And an absolute path is itself, whatever the package has.
    (project / "sft.py").write_text("")
    assert find_config(str(project / "sft.py")) == project / "sft.py"


@pytest.mark.parametrize(
    "text", ["configs/nowhere.py", "my/unified.py", "../configs/unified.py", "configs", "unified"]
)
def test_an_unknown_config_lists_those_of_the_package(text):
    with pytest.raises(UserError, match="--config must be a file that exists") as error:
        find_config(text)
    assert all(name in str(error.value) for name in package_configs())
    assert "common.py" not in str(error.value) and repr(text) in str(error.value)


def test_the_configs_of_the_package_and_what_they_are_for():
    summaries = package_configs()
    files = {f"configs/{path.name}" for path in PACKAGE_FOLDER.glob("*.py")}
    names = ("__init__", "common", "recipes", "one_chip")
    studies = ("studies", "study_arms", "method_studies", "order_study")
    assert set(summaries) == files - {f"configs/{name}.py" for name in names + studies}
    assert all(text.endswith(".") for text in summaries.values())
    assert list(package_configs("STUDIES")) == ["configs/studies.py"]


def test_a_config_of_the_user_starts_from_one_of_the_package(project):
    """Modules beside it are found although the working directory is another one."""
    (project / "beside_the_config.py").write_text("SEED = 7\n")
    body = "c = tokenizer.get_config(arg)\n    c.seed = SEED\n    return c"
    text = CONFIG.format(body=body)
    (project / "mine.py").write_text(f"from beside_the_config import SEED\n{text}")
    assert load_config(f"{project / 'mine.py'}:mesh=cpu").seed == 7
    with pytest.raises(UserError, match="the mesh must be one of .*; got 'huge'"):
        load_config(f"{project / 'mine.py'}:mesh=huge")


def test_the_folder_of_the_package_is_no_place_for_imports():
    """A file named as another library would hide it."""
    load_config("configs/tokenizer.py")
    assert str(PACKAGE_FOLDER.resolve()) not in sys.path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "from configs_of_nobody import unified",
            "mine.py' fails in line 1: ModuleNotFoundError: No module named 'configs_of_nobody'",
        ),
        ("x = 1\nx.y", "mine.py' fails in line 2: AttributeError: .*has no attribute 'y'. Correct"),
        ("def get_config(", "mine.py' fails: SyntaxError: .*line 1"),
        ("x = 1", "mine.py' must have a function get_config; it has none"),
        ("def get_config(): return {}", "must return an ml_collections.ConfigDict; got dict"),
        ("def get_config():\n    return 1 / 0", "fails in line 2: ZeroDivisionError: division"),
    ],
)
def test_errors_of_a_file_of_the_user_name_its_line(project, text, message):
    (project / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(project / "mine.py"))


@pytest.mark.parametrize("line", ["from configs import unified", "import configs.unified"])
def test_the_former_import_is_called_by_todays_name(project, monkeypatch, line):
    # The checkout itself has a folder of this name.
    root = str(PACKAGE_FOLDER.resolve().parent)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != root])
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    (project / "mine.py").write_text(line)
    with pytest.raises(UserError, match="line 1: .* from corl_jax.configs import unified$"):
        load_config(str(project / "mine.py"))


def test_help_lists_flags_and_configs_without_jax():
    program = (
        "import sys; from corl_jax.main import main; "
        "code = main(['main', '--help']); sys.exit(code or 'jax' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    expected = ["--config.KEY=VALUE", "--workdir", *package_configs(), *package_configs().values()]
    assert [text for text in expected if text not in process.stdout] == []


def test_the_package_is_where_configs_are_imported_from():
    """The wheel has the files that the checkout has a link to."""
    from corl_jax import configs

    assert Path(configs.__path__[0]).resolve() == config_files.PACKAGE_FOLDER.resolve()
