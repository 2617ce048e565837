"""The library without what Windows lacks: a process in which fcntl, os.killpg and others are absent runs the commands."""

import os
import subprocess
import sys
from pathlib import Path

from bssan_lib.runs import repository_root

ROOT = repository_root()
WITHOUT = """
import os, pkgutil, importlib, signal, sys
import psutil, torch  # they have code of their own for each system

for name in ("fcntl", "grp"):
    sys.modules[name] = None
for name in ("killpg", "sysconf", "fork", "setsid", "getpgid", "mkfifo", "sched_getaffinity"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1"):
    delattr(signal, name)
"""
IMPORTS = """
import bssan_lib
for module in pkgutil.walk_packages(bssan_lib.__path__, "bssan_lib."):
    if "__main__" not in module.name:
        importlib.import_module(module.name)
"""
COMMANDS = """
import warnings
from pathlib import Path
import numpy as np
from bssan_lib.commands.cli import main

warnings.filterwarnings("error", category=EncodingWarning, module="bssan_lib")
random = np.random.default_rng(3)
data = Path("features")
data.mkdir()
for split, count in (("train", 29), ("dev", 23), ("test", 19)):
    np.save(data / f"{split}_ims.npy", random.standard_normal((count, 5, 7), np.float32))
    captions = [" ".join(random.choice(["dog", "ball", "Straße", "犬"], 3)) for _ in range(count)]
    (data / f"{split}_caps.txt").write_text(chr(10).join(captions) + chr(10), encoding="utf-8")
settings = ["training.epochs=1", "training.batch_size=11", "model.joint_size=8", "data.min_word_count=1"]
options = ["--config", "precomp", "--data", "features", *(word for one in settings for word in ("-p", one))]
assert not main(["check-data", "features"])
assert not main(["prepare", *options])
assert not main(["train", *options, "--out", "run"])
assert not main(["train", *options, "--out", "run"])  # a finished run is opened again
assert not main(["evaluate", "--checkpoint", "run", "--data", "features", "--split", "dev", "--out", "metrics.json"])
assert Path("metrics.json").is_file() and Path("run/checkpoints/best").is_dir()
"""


def run_without(tmp_path: Path, code: str) -> None:
    """Runs code in an empty folder; a text file without a stated encoding is an error, since Windows has another default."""
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", WITHOUT + code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def test_every_module_can_be_imported(tmp_path):
    run_without(tmp_path, IMPORTS)


def test_features_are_checked_prepared_trained_and_evaluated(tmp_path):
    run_without(tmp_path, COMMANDS)
