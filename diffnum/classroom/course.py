"""A course repository: assignments, secret problems, a grading script and a CI file, written by one command."""

import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from diffnum.classroom.assignments import build, parts, rubric, sources
from diffnum.classroom.marks import asked
from diffnum.classroom.problems import make
from diffnum.errors import DiffnumError
from diffnum.files import write

README = """# {name}

Assignments on diffusion samplers as numerical methods, graded by a machine. Made by `diffnum course`.

| folder or file | what | who sees it |
|---|---|---|
| `student/` | the notebooks to hand out | students |
| `source/` | the same with solutions and hidden checks, for nbgrader | instructors |
| `solutions/` | the worked solutions as Python files; what is asked of students is what these claim | instructors |
| `secret.toml` | the problems on which hand-ins are graded | instructors |
| `submitted/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb` | what comes back | instructors |

Keep this repository private. `{name}` holds everything; students get `student/` alone.

## With nbgrader

```bash
pip install '.[classroom]'                              # in a clone of diffnum
nbgrader generate_assignment --create a01_midpoint      # once for each assignment
nbgrader autograde a01_midpoint
nbgrader generate_feedback a01_midpoint
nbgrader export                                         # grades.csv
```

No submission runs in the grader's process. Answers in words are graded by eye with `nbgrader formgrader`.

## Without

```bash
sh grade.sh a01_midpoint midpoint     # the assignment, and the name of its solver, from the list below
```

grades `submitted/*/a01_midpoint/` into `a01_midpoint.csv` and `.html`, and goes on where it was stopped. With the
address of the book in the variable `BOOK`, each reason links to its section.

## Assignments

{assignments}
"""

NBGRADER = '''"""Configuration of nbgrader: grading happens outside of the kernel, see diffnum.classroom.nbgrader."""

from pathlib import Path

here = Path(__file__).parent
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = {name!r}
c.CourseDirectory.root = str(here)
c.Autograde.autograde_preprocessors = [
    "diffnum.classroom.nbgrader.Check",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Check.problems = str(here / "secret.toml")
c.Check.solutions = str(here / "solutions")
c.ClearSolutions.code_stub = {{"python": "# YOUR CODE HERE\\nraise NotImplementedError()"}}
'''

GRADE = """#!/bin/sh
# Grade what was handed in for one assignment: sh grade.sh ASSIGNMENT SOLVER
set -eu
cd "$(dirname "$0")"
test $# -eq 2 || { echo "usage: sh grade.sh ASSIGNMENT SOLVER, such as a01_midpoint midpoint" >&2; exit 2; }
rm -rf "graded/$1"
mkdir -p "graded/$1"
for folder in submitted/*/"$1"; do
  student="$(basename "$(dirname "$folder")")"
  for file in "$folder"/*.ipynb "$folder"/*.py; do
    if test -e "$file"; then mkdir -p "graded/$1/$student" && cp "$file" "graded/$1/$student/"; fi
  done
done
exec diffnum check "graded/$1" "$2" --out "$1.csv" --problems secret.toml --solution "solutions/$1.py" \\
  ${BOOK:+--book "$BOOK"}
"""

WORKFLOW = """# The worked solutions must pass on the secret problems: if one does not, no student can.
name: solutions
on: [push]
jobs:
  solutions:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {python-version: "3.12"}
      # Where the library comes from: set the variable DIFFNUM of this repository to the address of its repository.
      - run: pip install "diffnum @ git+$DIFFNUM"
        env: {DIFFNUM: "${{ vars.DIFFNUM }}"}
      - run: for file in solutions/*.py; do diffnum check "$file" --problems secret.toml || exit 1; done
"""


def create(folder: Path, seed: int | None = None, tell: Callable[[str], None] = lambda text: None) -> Path:
    """Write a course into a new folder.

    Args:
        folder: it must not exist, or be empty.
        seed: of the secret problems; by default it is drawn.
        tell: called with what is being made.

    Raises:
        DiffnumError: the folder holds something, or the assignments are not there.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DiffnumError(f"{folder} exists already; name a new folder")
    origins = sources()
    (folder / "solutions").mkdir(parents=True)
    (folder / "submitted").mkdir()
    (folder / ".github" / "workflows").mkdir(parents=True)
    tell("notebooks for students and for nbgrader")
    build(folder / "student")
    build(folder / "source", student=False, within=True)
    for origin in origins:
        shutil.copyfile(origin, folder / "solutions" / origin.name)
    tell("secret problems, drawn until solvers of the library show their orders on them")
    make(folder / "secret.toml", secrets.randbelow(2**31) if seed is None else seed)
    lines = []
    for origin in origins:
        text = origin.read_text(encoding="utf-8")
        title = next(line.removeprefix("# # ") for line in text.splitlines() if line.startswith("# # "))
        requests = [asked(part.text) for part in parts(text) if part.test]
        names = dict.fromkeys(f"`{request.solver}`" for request in requests if request)
        lines.append(f"- `{origin.stem}` ({', '.join(names)}): {title}, {sum(rubric(text).values()):g} points")
    files = {
        "README.md": README.format(name=folder.name, assignments="\n".join(lines)),
        "nbgrader_config.py": NBGRADER.format(name=folder.name),
        "grade.sh": GRADE,
        ".github/workflows/solutions.yml": WORKFLOW,
        ".gitignore": "gradebook.db\nautograded/\ngraded/\nfeedback/\n*.jsonl\n.ipynb_checkpoints/\n",
    }
    for name, text in files.items():
        write(folder / name, partial(_put, text))
    return folder


def _put(text: str, file: object) -> None:
    file.write(text.encode())  # type: ignore[attr-defined]
