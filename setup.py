"""Puts the notebooks, the configurations and the records that notebooks show into the wheel; the rest is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithProject(build_py):
    """Copies them to bssan_lib/project/, where `bssan_lib.runs.project_folder` finds them in an installation."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "bssan_lib" / "project"
        shutil.rmtree(target, ignore_errors=True)
        for name in ("notebooks", "configs", "docs/runs"):
            shutil.copytree(name, target / name, ignore=shutil.ignore_patterns(".*"))
        for path in Path("docs").glob("*.csv"):
            shutil.copy(path, target / "docs")


setup(cmdclass={"build_py": BuildWithProject})
