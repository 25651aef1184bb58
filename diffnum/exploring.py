"""Labs that can be changed: in the exploring mode an assertion that fails is a remark, and the lab goes on.

A lab asserts what its text says, so that the text cannot outlive the fact. A reader who changes the target, the grid or
a solver wants to see the new number, not a stop. The mode rewrites the *cells*, not the library: tests and grading,
which call the same checks, are as strict as ever.
"""

import ast
import linecache
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from diffnum.errors import DiffnumError, NotCaught

#: The environment variable that turns the mode on for every notebook that imports diffnum.
VARIABLE = "DIFFNUM_EXPLORE"

Measured = Callable[[], Sequence[tuple[str, Any]]]

_JUDGE, _CHECK = "__diffnum_judge__", "__diffnum_check__"

_HINTS = {
    KeyError: "Nothing stands under this name any more: what was renamed or left out above must change here too",
    NameError: "The name is misspelt, or a cell above stopped before it made it; mend that one first",
    IndexError: "There are fewer entries than this line counts on: a list above became shorter",
    AttributeError: "`dir(...)` of what stands before the dot lists what it has; was it made as this line expects?",
    TypeError: "`help(...)` of the function lists what it takes",
    RuntimeError: "Two things that met here differ in shape, dtype or kind; look for the change that made them so",
    Exception: "Undo the last change and run the cells from the top; then change one thing at a time",
}


def explore(on: bool = True) -> None:
    """From the next cell on, turn the assertions of a notebook into remarks with the measured value.

    Call it in the first cell of a lab, or set the environment variable ``DIFFNUM_EXPLORE=1`` before the notebook
    starts. Then ``assert`` and the calls of :mod:`diffnum.measure.checks` that stand in a cell print what was expected
    and what was found, and the cell goes on. Any other error is told in one sentence that names the line; ``%tb``
    shows the traceback. Checks inside ``try`` or ``lambda`` are left alone: there a failure is what is looked for.

    Args:
        on: ``explore(False)`` makes assertions stop again.

    Raises:
        DiffnumError: outside a notebook, where there are no cells to rewrite.
    """
    shell = _shell()
    if shell is None:
        raise DiffnumError(
            "explore() rewrites the cells of a notebook, and this is none; call it in a lab's first cell"
        )
    shell.ast_transformers[:] = [t for t in shell.ast_transformers if not isinstance(t, _Remarks)]
    shell.set_custom_exc((), None)
    if on:
        shell.ast_transformers.append(_Remarks())
        shell.user_ns.update({_JUDGE: judge, _CHECK: check})
        shell.set_custom_exc((Exception,), _one_sentence)


def asked_for() -> bool:
    """Whether the environment asks for the mode, and there is a notebook to explore."""
    return os.environ.get(VARIABLE, "0") not in ("", "0") and _shell() is not None


def judge(parts: Sequence[tuple[Callable[[], Any], Measured]], message: Callable[[], str]) -> None:
    """What an assertion of a cell becomes: the first part that fails is told with its measured values."""
    for test, measured in parts:
        try:
            if test():
                continue
            found = ", ".join(f"{name} = {_short(value)}" for name, value in measured())
        except Exception as error:  # the edit may have taken away what is compared
            found = f"nothing that could be compared ({type(error).__name__}: {error})"
        return _remark(f"expected: {message()}. Measured: {found}")


def check(call: Callable[[], Any]) -> Any:
    """What a call of `checks` in a cell becomes: its value, or a remark and nan, or the text where one is expected."""
    try:
        return call()
    except AssertionError as error:
        _remark(str(error))
        return getattr(error, "result", float("nan"))
    except NotCaught as error:  # of `assert_catches`, which returns what the check said
        _remark(str(error))
        return str(error)


def _remark(text: str) -> None:
    print(f"REMARK  {text}")


def _short(value: Any) -> str:
    """A measured value in three digits."""
    if isinstance(value, bool | int):
        return str(value)
    try:
        return f"{float(value):.3g}"
    except Exception:  # not one number
        pass
    if isinstance(value, list | tuple) and len(value) <= 8:
        return "(" + ", ".join(_short(v) for v in value) + ")"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


class _Remarks(ast.NodeTransformer):
    """Rewrite ``assert`` and ``checks.assert_...(...)`` of a cell."""

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        for part in (*node.handlers, *node.orelse, *node.finalbody):
            self.visit(part)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name.startswith("checks.assert_") or name == "checks.measure":
            return _at(node, ast.Call(ast.Name(_CHECK, ast.Load()), [_later(node)], []))
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(n, ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr) for n in ast.walk(node.test)):
            return node
        test = node.test
        ands = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
        parts: list[ast.expr] = [ast.Tuple([_later(part), _later(_measured(part))], ast.Load()) for part in ands]
        message = node.msg if node.msg is not None else ast.Constant(ast.unparse(node.test))
        text = ast.Call(ast.Name("str", ast.Load()), [message], [])
        call = ast.Call(ast.Name(_JUDGE, ast.Load()), [ast.List(parts, ast.Load()), _later(text)], [])
        return _at(node, ast.Expr(call))


def _later(value: ast.expr) -> ast.Lambda:
    """``lambda: value``: nothing is computed before it is asked for."""
    return ast.Lambda(ast.arguments([], [], None, [], [], None, []), value)


def _measured(test: ast.expr) -> ast.expr:
    """An expression for the pairs (source, value) that a failed test should show.

    The sides of a comparison; of ``all(... for ...)`` the loop's names and the sides for its first failure.
    """
    if isinstance(test, ast.Call) and ast.unparse(test.func) == "all" and len(test.args) == 1:
        (each,) = test.args
        if isinstance(each, ast.GeneratorExp):
            names = [n for g in each.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)]
            loop: list[ast.expr] = [ast.Name(n.id, ast.Load()) for n in names]
            last = each.generators[-1]
            failing = [*last.ifs, ast.UnaryOp(ast.Not(), each.elt)]
            generators = [*each.generators[:-1], ast.comprehension(last.target, last.iter, failing, last.is_async)]
            pairs = ast.GeneratorExp(_pairs([*loop, *_sides(each.elt)]), generators)
            return ast.Call(ast.Name("next", ast.Load()), [pairs], [])
    return _pairs(_sides(test))


def _sides(test: ast.expr) -> list[ast.expr]:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _sides(test.operand)
    if isinstance(test, ast.BoolOp):
        return [side for value in test.values for side in _sides(value)]
    sides = [test.left, *test.comparators] if isinstance(test, ast.Compare) else [test]
    return [side for side in sides if not isinstance(side, ast.Constant)] or [test]


def _pairs(values: Sequence[ast.expr]) -> ast.expr:
    pairs: list[ast.expr] = []
    for value in {ast.unparse(value): value for value in values}.values():
        pairs.append(ast.Tuple([ast.Constant(ast.unparse(value)), value], ast.Load()))
    return ast.List(pairs, ast.Load())


def _at(old: ast.AST, new: ast.AST) -> ast.AST:
    return ast.fix_missing_locations(ast.copy_location(new, old))


def _one_sentence(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None) -> list[str]:
    """Tell an error by the line of the cell where it began; the traceback is kept for ``%tb``."""
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
    number, line, ours = 0, "", False
    while trace is not None:
        code, globals_ = trace.tb_frame.f_code, trace.tb_frame.f_globals
        last = linecache.getline(code.co_filename, trace.tb_lineno).strip()
        if globals_ is shell.user_ns:
            number, line = trace.tb_lineno, last
        # A refusal of the library says itself what to do.
        ours = globals_.get("__name__", "").startswith("diffnum") and last.startswith("raise ")
        trace = trace.tb_next
    said = " ".join(str(error.args[0] if isinstance(error, KeyError) and ours else error).split()) or "no message"
    text = f"STOPPED in line {number} of this cell, `{line}`: {kind.__name__}: {_ended(said)}"
    if not ours:
        text += f" {_ended(next(hint for family, hint in _HINTS.items() if issubclass(kind, family)))}"
    text += " (%tb shows the whole traceback.)"
    shell._showtraceback(kind, error, [text])
    return [text]


def _ended(sentence: str) -> str:
    """With a full stop, if it has no end of its own."""
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def _shell() -> Any:
    """The running IPython, or None; IPython itself is imported by the notebook, never here."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
