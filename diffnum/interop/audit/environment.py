"""Where a foreign library comes from: this environment, if it has the pinned version, or a folder of its own.

Such a folder holds the library and those of its dependencies that a sampler needs, installed without theirs; torch and
numpy are the ones that run this command. Nothing is installed into the environment of the caller.
"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from diffnum.errors import DiffnumError

#: library -> what is installed for it, the library itself first.
PINS = {
    "diffusers": ("diffusers==0.42.1", "huggingface_hub==2.4.0", "regex==2026.11.19", "hf-xet==1.8.0", "httpx2==2.16.2",
                  "httpcore2==2.16.2", "lazy-importer==0.1.0", "tqdm==4.70.1", "truststore==0.10.5", "urllib3==2.8.0",
                  "h11==0.16.0", "anyio==4.16.0", "requests==2.34.2", "filelock==4.3.1", "fsspec==2026.9.0",
                  "importlib_metadata==10.2.0", "zipp==4.1.2", "packaging==26.4", "PyYAML==6.0.4", "idna==3.20",
                  "certifi==2026.10.19.post1", "charset-normalizer==3.5.3"),
    "k-diffusion": ("k-diffusion==0.1.1.post1", "torchdiffeq==0.2.5", "torchsde==0.2.6", "trampoline==0.1.2",
                    "tqdm==4.70.1", "boltons==26.2.0"),
    "azula": ("azula==0.11.1", "einops==0.8.2", "tqdm==4.70.1"),
}  # fmt: skip


def cache() -> Path:
    """The folder in which libraries are installed by default."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "diffnum" / "audit"


def ready(library: str, into: Path | None = None) -> list[Path]:
    """What to put on the path of a process so that it has the pinned library; installs it where it is missing.

    Raises:
        DiffnumError: it could not be installed; one line says what to do.
    """
    found = installed(library, into)
    if found is None:
        _install(library, _folder(library, into))
    return [_folder(library, into)] if found is None else found


def installed(library: str, into: Path | None = None) -> list[Path] | None:
    """The same, or None where it is missing; nothing is installed."""
    name, _, version = PINS[library][0].partition("==")
    try:
        if metadata.version(name) == version:
            return []
    except metadata.PackageNotFoundError:
        pass
    folder = _folder(library, into)
    return [folder] if (folder / "complete").is_file() else None


def _folder(library: str, into: Path | None) -> Path:
    name, _, version = PINS[library][0].partition("==")
    return (into or cache()) / f"{name}-{version}-py{sys.version_info.major}{sys.version_info.minor}"


def _install(library: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--disable-pip-version-check", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *arguments, *PINS[library]]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise DiffnumError(
            f"{library} could not be installed ({said[-1].strip() if said else 'no pip'}); with a connection to a "
            f"package index run this again, or pip install --no-deps --target {folder} {' '.join(PINS[library])}"
        )
    (folder / "complete").touch()


def main() -> None:
    """Install all of them into the cache, as ``make peers`` does."""
    for library in PINS:
        ready(library)
        print(f"{PINS[library][0]} is ready")


if __name__ == "__main__":
    main()
