"""A checkout that is copied, moved or looked at from its parent folder, and what the package contains once built.

The checkout of these tests is the real Makefile and pyproject.toml around a package of two files, in an environment
that holds pip and setuptools of the one that runs the tests: nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ("pip", "setuptools", "_distutils_hack", "pkg_resources", "wheel")


def call(*words, cwd, **more):
    """Run a program, in an environment of which Python, make and pip know nothing, and return what it said."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MAKE", "MFLAGS", "PIP_"))
    }
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**clean, **more}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
    return done


def run(*words, cwd, **more):
    return call(*words, cwd=cwd, **more).stdout


@pytest.fixture(scope="module")
def tools():
    """Folders of pip and setuptools, to be copied into another environment."""
    home = Path(sysconfig.get_path("purelib"))
    found = [p for p in home.iterdir() if p.name.split("-")[0] in BUILD and p.is_dir()]
    if not {"pip", "setuptools"} <= {p.name for p in found}:
        pytest.skip("this environment has no pip or no setuptools")
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_checkout_that_is_copied_moved_or_a_neighbour(tmp_path, tools):
    first = tmp_path / "first" / "diffnum"  # the name that shadows the package in the parent folder
    (first / "diffnum" / "weights").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, first / name)
    for name in ("", "weights/"):
        (first / f"diffnum/{name}__init__.py").write_text("")
    (first / "diffnum/__main__.py").write_text(
        "def main():\n    print(__file__)\n\nif __name__ == '__main__': main()\n"
    )
    run(sys.executable, "-m", "venv", "--without-pip", ".venv", cwd=first)
    (packages,) = (first / ".venv").glob("lib/python*/site-packages")
    for tool in tools:
        shutil.copytree(tool, packages / tool.name, ignore=shutil.ignore_patterns("__pycache__", "tests"))

    def make(target, where):
        pip = "$(PY) -m pip install --no-deps --no-index --no-build-isolation"
        return run("make", "CONSTRAINTS=", f"PIP={pip}", f"PYTHON={sys.executable}", target, cwd=where)

    def all_run_the_code_of(where):
        own, home = where / "diffnum" / "__main__.py", where / ".venv"
        script = f'. "{home}/bin/activate"; for place in "{where.parent}" "{tmp_path}" /; do cd "$place"; '
        said = run("sh", "-ec", script + "diffnum; python -m diffnum; other; done", cwd=where).splitlines()
        return said == [str(own), str(own), str(home)] * 3  # from wherever Jupyter or a shell starts

    other = first / ".venv/bin/other"
    other.write_text(f"#!{first}/.venv/bin/python\nimport sys\nprint(sys.prefix)\n")  # another tool's script
    other.chmod(0o755)
    assert "== installing" in make("core", first)
    assert all_run_the_code_of(first) and "==" not in make("core", first)

    copy = tmp_path / "second" / "main"
    shutil.copytree(first, copy, symlinks=True)
    assert str(copy / "diffnum" / "__main__.py") in make("sample", copy)
    assert all_run_the_code_of(copy) and all_run_the_code_of(first) and "==" not in make("core", copy)

    moved = tmp_path / "a folder with spaces" / "diffnum"
    moved.parent.mkdir()
    copy.rename(moved)
    assert "moved or copied" in make("core", moved)
    assert all_run_the_code_of(moved) and "==" not in make("core", moved)


@pytest.fixture(scope="module")
def built(tmp_path_factory, tools):
    """The source distribution and the wheel that is built from it, of the package with its weights cut short."""
    place = tmp_path_factory.mktemp("built")
    copy = place / "checkout"
    shutil.copytree(ROOT / "diffnum", copy / "diffnum", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (copy / "diffnum" / "weights").iterdir():
        os.truncate(file, min(file.stat().st_size, 100))
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, copy / name)
    code = "from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

    def build(what, where):
        done = call(sys.executable, "-c", f"import sys; {code}", f"build_{what}", place, cwd=where)
        assert "warning" not in done.stderr.lower() and "deprecat" not in done.stderr.lower(), done.stderr
        return place / done.stdout.splitlines()[-1]

    source = build("sdist", copy)
    with tarfile.open(source) as tar:
        tar.extractall(place, filter="data")
    return source, build("wheel", place / source.name.removesuffix(".tar.gz"))


def test_distributions_hold_the_package_and_no_half_of_its_tests(built):
    source, wheel = built
    tracked = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "diffnum").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts
    }  # fmt: skip
    assert {"diffnum/py.typed", "diffnum/weights/cifar10.safetensors", "diffnum/weights/cifar10.json"} <= tracked
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    assert held == tracked
    with tarfile.open(source) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert tracked <= held and {"pyproject.toml", "README.md", "LICENSE"} <= held
    assert not [name for name in held if name.startswith(("tests", "notebooks", "book"))]


def test_a_package_inside_a_strangers_repository_tells_its_own_version(built, tmp_path):
    from diffnum import __version__

    with zipfile.ZipFile(built[1]) as file:
        file.extractall(tmp_path / "lib")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    run(*git, "init", "-q", cwd=tmp_path)
    run(*git, "add", "-f", "lib/diffnum/__init__.py", cwd=tmp_path)
    run(*git, "commit", "-q", "-m", "theirs", cwd=tmp_path)
    run(*git, "tag", "v9.9", cwd=tmp_path)
    code = (
        "import diffnum; from diffnum.images.train import code_version; print(diffnum.__file__); print(code_version())"
    )
    where, version = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "lib")).splitlines()
    assert where == str(tmp_path / "lib" / "diffnum" / "__init__.py")
    assert version == __version__


def test_a_copy_in_a_repository_that_does_not_track_it_tells_its_own_version(tmp_path):
    from diffnum import __version__

    root = Path(__file__).parents[1]
    shutil.copytree(root / "diffnum", tmp_path / "diffnum", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    run(*git, "init", "-q", cwd=tmp_path)
    run(*git, "commit", "-q", "--allow-empty", "-m", "theirs", cwd=tmp_path)
    run(*git, "tag", "v9.9", cwd=tmp_path)
    code = "from diffnum.images.provenance import code_version; print(code_version())"
    assert run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).strip() == __version__
    run(*git, "add", "diffnum/__init__.py", cwd=tmp_path)
    run(*git, "commit", "-q", "-m", "taken over", cwd=tmp_path)
    told = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).strip()
    assert told.startswith("v9.9-1-g")
