"""The name of a dimension may be arithmetic over other names: `past_sequence_length + 1`, `2*s0`, `(height//32)*8`.

Only sums, differences, products and quotients of names and whole numbers are arithmetic; everything else, `batch-size`
and `floor(h/2)` included, is a plain name.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}
_HYPHENATED = re.compile(r"\w[-/]\w")
"""Exporters put blanks around a minus and write `//`; without them it is a name, such as `batch-size`."""


def names(symbol: str) -> tuple[str, ...]:
    """The plain names that a symbol is made of: itself, unless it is arithmetic."""
    tree = _parse(symbol)
    if tree is None:
        return (symbol,)
    return tuple(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))


def evaluate(symbol: str, sizes: Mapping[str, int]) -> int:
    """Its value, at least 1, where `sizes` holds every name of `names(symbol)`."""
    tree = _parse(symbol)
    try:
        return sizes[symbol] if tree is None else max(1, _value(tree, sizes))
    except ZeroDivisionError:
        return 1


def _parse(symbol: str) -> ast.BinOp | None:
    if _HYPHENATED.search(symbol):
        return None
    try:
        tree = ast.parse(symbol.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return tree if isinstance(tree, ast.BinOp) and all(_arithmetic(node) for node in ast.walk(tree)) else None


def _arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) is int
    return isinstance(node, (ast.BinOp, ast.Name, ast.Load, *_OPERATORS))


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.BinOp):
        return int(_OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes)))
    return sizes[node.id] if isinstance(node, ast.Name) else int(ast.literal_eval(node))
