"""Make the mutants of one module: its source with one small change in the text of one node.

Left alone are: strings (messages), annotations, decorators, docstrings, f-strings and the arguments of calls
that could harm the machine that the tests run on.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

# No argument of these is changed: kill(-1) would end every process of the user.
_HARMFUL = frozenset(("kill", "killpg", "rmtree", "unlink", "rmdir", "rename", "replace", "chown", "chmod"))

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Node = TypeVar("_Node", bound=ast.AST)
_Change = tuple[str, ast.AST, str]
"""Name of the operator, the node whose text is replaced, the new text."""


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        path: of the module, from the top of the tree.
        line: of the changed text.
        column: of the changed text, from 0.
        operator: kind of change.
        number: tells the changes of this kind at this place apart.
        function: the function or class around it, "" for the module.
        at_import: whether it runs when the module is imported, not when a function is called.
        text: the line that the changed text begins in, without indentation.
        before: the text that is replaced, in one line.
        after: the new text.
        lines: first and last line of the statement around it; of a compound statement those of its head.
        span: where the replaced text begins and ends in the module's source, in bytes.
    """

    path: str
    line: int
    column: int
    operator: str
    number: int
    function: str
    at_import: bool
    text: str
    before: str
    after: str
    lines: tuple[int, int]
    span: tuple[int, int]

    @property
    def address(self) -> str:
        """The mutant's name: file, line, column, operator and number."""
        return f"{self.path}:{self.line}:{self.column}:{self.operator}:{self.number}"

    def applied(self, source: str) -> str:
        """Return the module's source with this change."""
        data = source.encode()
        return (data[: self.span[0]] + self.after.encode() + data[self.span[1] :]).decode()


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Return all mutants of a module, in the order of its text."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: list[Mutant] = []
    seen: dict[tuple[int, str], int] = {}
    rows = source.splitlines()
    for statement, function, at_import in _statements(ast.parse(source).body, "", True):
        for operator, node, after in _changes(statement):
            first, last = _range(starts, node)
            assert isinstance(node, (ast.expr, ast.stmt))
            key = (first, operator)
            seen[key] = seen.get(key, -1) + 1
            before = " ".join(source.encode()[first:last].decode().split())
            found.append(
                Mutant(
                    path,
                    node.lineno,
                    node.col_offset,
                    operator,
                    seen[key],
                    function,
                    at_import,
                    rows[node.lineno - 1].strip(),
                    before,
                    after,
                    _head(statement),
                    (first, last),
                )
            )
    return found


def _range(starts: list[int], node: ast.AST) -> tuple[int, int]:
    assert isinstance(node, (ast.expr, ast.stmt, ast.keyword))
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _head(statement: ast.stmt) -> tuple[int, int]:
    body: list[ast.stmt] = getattr(statement, "body", [])
    last = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return statement.lineno, max(statement.lineno, last)


def _statements(body: list[ast.stmt], function: str, at_import: bool) -> Iterator[tuple[ast.stmt, str, bool]]:
    for statement in body:
        if _is_left_alone(statement):
            continue
        yield statement, function, at_import
        inside, once = function, at_import and not isinstance(statement, _FUNCTIONS)
        if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
            inside = f"{function}.{statement.name}".lstrip(".")
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, name, []), inside, once)
        for handler in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
            yield from _statements(handler.body, inside, once)


def _is_left_alone(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.Assert)):
        return True
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return True  # A docstring, or "...".
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


def _changes(statement: ast.stmt) -> Iterator[_Change]:
    """Yield the changes of a statement and its expressions, without those of the statements in it."""
    yield from _whole_statement(statement)
    for root in _expressions(statement):
        for node in _walk(root):
            for rule in _RULES:
                yield from rule(node)


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    if isinstance(statement, _FUNCTIONS):
        yield from statement.args.defaults
        yield from (default for default in statement.args.kw_defaults if default is not None)
        return
    for name, value in ast.iter_fields(statement):
        if name in ("annotation", "decorator_list", "bases", "keywords", "body", "orelse", "finalbody"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.match_case):
                yield from [child.guard] if child.guard is not None else []
            elif isinstance(child, ast.AST) and not isinstance(child, (ast.ExceptHandler, ast.stmt)):
                yield child


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and those in it whose text may be replaced."""
    if isinstance(node, ast.JoinedStr):
        return  # Before Python 3.12 nodes in an f-string have no place in the text.
    yield node
    if isinstance(node, ast.Call) and _name(node.func) in _HARMFUL:
        return
    for child in ast.iter_child_nodes(node):
        yield from _walk(child)


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _edited(node: _Node, edit: Callable[[_Node], None]) -> str:
    changed = copy.deepcopy(node)
    edit(changed)
    return f"({ast.unparse(changed)})"


def _whole_statement(statement: ast.stmt) -> Iterator[_Change]:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, (ast.Call, ast.Await)):
        yield "drop-call", statement, "pass"
    elif isinstance(statement, ast.Raise):
        yield "drop-raise", statement, "pass"
    elif isinstance(statement, (ast.AugAssign, ast.Delete)) or _stores_into(statement):
        yield "drop-statement", statement, "pass"
    elif isinstance(statement, ast.Break):
        yield "break", statement, "continue"
    elif isinstance(statement, ast.Continue):
        yield "continue", statement, "break"
        yield "continue", statement, "pass"
    elif isinstance(statement, ast.Return) and ast.unparse(statement) not in ("return", "return None"):
        yield "return", statement, "return None"
    if isinstance(statement, ast.AugAssign) and type(statement.op) in _ARITHMETIC:
        text = _edited(statement, lambda node: setattr(node, "op", _ARITHMETIC[type(node.op)]()))
        yield "arithmetic", statement, text[1:-1]
    if isinstance(statement, (ast.If, ast.While)):
        yield from _negated(statement.test)


def _stores_into(statement: ast.stmt) -> bool:
    """Return whether this assigns to an attribute or an item; dropping another assignment is a NameError."""
    return isinstance(statement, ast.Assign) and isinstance(
        statement.targets[0], (ast.Attribute, ast.Subscript)
    )


def _negated(test: ast.expr) -> Iterator[_Change]:
    # Comparisons and "not" have rules of their own.
    if not isinstance(test, (ast.Compare, ast.UnaryOp, ast.Constant)):
        yield "negate", test, f"(not ({ast.unparse(test)}))"


def _comparisons(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Compare):
        for index, old in enumerate(node.ops):
            for new in _COMPARE[type(old)]:
                yield "compare", node, _edited(node, lambda one, i=index, n=new: one.ops.__setitem__(i, n()))  # type: ignore[misc]


def _constants(node: ast.AST) -> Iterator[_Change]:
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield "constant", node, repr(not node.value)
    elif isinstance(node.value, (int, float)):
        yield "constant", node, f"({node.value + 1!r})"
        yield "constant", node, f"({node.value - 1!r})"
    elif isinstance(node.value, bytes) and node.value:
        yield "constant", node, "b''"


def _logic(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield "and-or", node, _edited(node, lambda one: setattr(one, "op", other()))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not", node, f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.IfExp):
        yield from _negated(node.test)
    elif isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield from _negated(test)


def _arithmetic(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _has_text(node):
        yield "arithmetic", node, _edited(node, lambda one: setattr(one, "op", _ARITHMETIC[type(one.op)]()))


def _has_text(node: ast.BinOp) -> bool:
    """Return whether this joins strings."""
    return any(
        isinstance(one, ast.JoinedStr) or (isinstance(one, ast.Constant) and isinstance(one.value, str))
        for one in ast.walk(node)
    )


def _keywords(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Call) and _name(node.func) not in _HARMFUL:
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                yield "keyword", node, _edited(node, lambda one, i=index: one.keywords.pop(i))  # type: ignore[misc]


def _slices(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        for name in ("lower", "upper"):
            if getattr(node.slice, name) is not None:
                yield "slice", node, _edited(node, lambda one, n=name: setattr(one.slice, n, None))  # type: ignore[misc]


_RULES: tuple[Callable[[ast.AST], Iterator[_Change]], ...] = (
    _comparisons,
    _constants,
    _logic,
    _arithmetic,
    _keywords,
    _slices,
)
