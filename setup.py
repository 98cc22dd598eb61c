"""Everything is in pyproject.toml, but that a wheel takes `configs/` along, for `--config NAME`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigs(build_py):
    """Copies the experiments beside the modules."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "invad_jax" / "configs"
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree("configs", target, dirs_exist_ok=True, ignore=ignore)


setup(cmdclass={"build_py": WithConfigs})
