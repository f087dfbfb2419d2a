"""Code in the functions of a module, found as syntax: its format and its comments do not matter."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

MODULE = "<module>"  # what stands in no function and no class


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """All functions and classes by qualified name, but those within functions; and the module."""
    yield MODULE, tree
    yield from _definitions(tree, "")


def endings(name: str) -> list[str]:
    """By which one may know it: `Shard.claim` is `claim` too."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield prefix + child.name, child
            case ast.ClassDef():
                yield prefix + child.name, child
                yield from _definitions(child, f"{prefix}{child.name}.")
            case _:
                yield from _definitions(child, prefix)


def text_of(node: ast.AST) -> str:
    """The same for the same code, however it is formatted."""
    if isinstance(node, ast.Module):
        node = ast.Module([s for s in node.body if not isinstance(s, _DEFINITIONS)], [])
    return ast.dump(node)


def replace(node: ast.AST, old: str, new: str) -> int:
    """Puts new code in the place of the old one, and returns how often that was there."""
    replacing = _Replacing(node, old, new)
    replacing.generic_visit(node)
    return replacing.count


def _parsed(code: str) -> list[ast.stmt]:
    try:
        return ast.parse(code).body
    except SyntaxError:  # an expression over several lines, or one with `:=`
        return ast.parse(f"({code})").body


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class _Replacing(ast.NodeTransformer):
    """Two expressions: the one takes the place of the other, wherever that is. Otherwise the old
    code is statements that follow one another; there may be none in their place."""

    def __init__(self, within: ast.AST, old: str, new: str) -> None:
        self.count = 0
        self._within = within
        olds, self._new = _parsed(old), _parsed(new)
        self._is_expression = [type(s) for s in (*olds, *self._new)] == [ast.Expr, ast.Expr]
        if self._is_expression:
            self._old = [ast.dump(olds[0].value)]
        else:
            self._old = [ast.dump(statement) for statement in olds]

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(self._within, ast.Module) and isinstance(node, _DEFINITIONS):
            return node
        if self._is_expression and isinstance(node, ast.expr) and ast.dump(node) in self._old:
            self.count += 1
            return copy.deepcopy(self._new[0].value)
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not self._is_expression:
            for _, block in ast.iter_fields(node):
                if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                    self._replace_statements(block)
        return node

    def _replace_statements(self, block: list[ast.stmt]) -> None:
        texts = [ast.dump(statement) for statement in block]
        size = len(self._old)
        for start in reversed(range(len(texts) - size + 1)):
            if texts[start : start + size] == self._old:
                self.count += 1
                block[start : start + size] = copy.deepcopy(self._new) or [ast.Pass()]
