"""Prints what pyproject.toml requires, with the extras named: the image installs it before our code is copied."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = project["dependencies"] + [
    line for extra in sys.argv[1:] for line in project["optional-dependencies"][extra]
]
sys.stdout.write("\n".join(wanted) + "\n")
