"""What made a result: the version of this code."""

from __future__ import annotations

import os
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path


def code_version() -> str:
    """``git describe`` of the checkout that this package is in, else the installed version.

    Git is trusted only if the top of its tree holds this very package and a pyproject.toml that names it, and if it
    tracks them: an environment may stand inside a stranger's repository, and a copy of a checkout become one.
    """
    top = Path(__file__).resolve().parents[2]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}  # a hook's would name another repository

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(top), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=clean).stdout.strip()

    try:
        named = tomllib.loads((top / "pyproject.toml").read_text("utf-8"))["project"]["name"]
        if named == "diffnum" and Path(git("rev-parse", "--show-toplevel")).samefile(top):
            git("ls-files", "--error-unmatch", "diffnum/__init__.py")  # a repository of which this is no part fails
            return git("describe", "--always", "--dirty", "--tags")
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        pass
    try:
        return metadata.version("diffnum")
    except metadata.PackageNotFoundError:
        return "unknown"
