"""nbgrader grades with this in place of its kernel: the student's cells become a file that runs in a sandbox.

In ``nbgrader_config.py``, as ``diffnum course`` writes it::

    c.Autograde.autograde_preprocessors = [
        "diffnum.classroom.nbgrader.Check",
        "nbgrader.preprocessors.SaveAutoGrades",
        "nbgrader.preprocessors.AssignLatePenalties",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]

Nothing of a submission runs in the grader's process, so it can neither read the hidden tests nor replace what judges.
"""

from pathlib import Path
from typing import Any

from nbformat.v4 import new_output
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Integer, Unicode

from diffnum.classroom.find import cell_of
from diffnum.classroom.marks import marks
from diffnum.classroom.problems import Problems, read
from diffnum.classroom.sandbox import Limits, Sandbox


class Check(NbGraderPreprocessor):
    """Runs a submission outside of any kernel and writes report and points into its test cells."""

    problems = Unicode("", help="A file made by `diffnum problems`; by default the public problems.").tag(config=True)
    solutions = Unicode("solutions", help="Folder with a file NAME.py for each notebook, if any.").tag(config=True)
    seconds = Integer(60, help="Seconds of computing that one solver may take.").tag(config=True)
    memory = Integer(1024, help="Megabytes that one solver may take.").tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Grade one notebook."""
        codes = [cell for cell in nb.cells if cell.cell_type == "code"]
        pieces = [cell_of(f"cell {i}", cell) for i, cell in enumerate(codes, 1)]
        tests = [cell for cell, piece in zip(codes, pieces, strict=True) if piece.test]
        worth = [float(cell.metadata.nbgrader.points) for cell in tests]
        problems = read(Path(self.problems)) if self.problems else Problems()
        solution = Path(self.solutions) / f"{resources['metadata']['name']}.py"
        with Sandbox(Limits(seconds=self.seconds, memory=self.memory << 20)) as sandbox:
            found = marks(pieces, worth, problems, sandbox, solution if solution.exists() else None)
        for cell, mark in zip(tests, found, strict=True):
            _put(cell, mark.points, mark.text)
        return nb, resources


def _put(cell: Any, points: float, text: str) -> None:
    """Write what nbgrader reads: the text, and the points as the value of the cell."""
    cell.execution_count = 1
    cell.outputs = [new_output("stream", name="stdout", text=text.rstrip("\n") + "\n")] if text.strip() else []
    cell.outputs.append(new_output("execute_result", {"text/plain": f"{points:.6g}"}, execution_count=1))
