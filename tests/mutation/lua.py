"""Code in a Lua script, found as a row of tokens: space, comments and quotes do not matter."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""--\[\[.*?\]\] | --[^\n]* | \s+          # which are left out
    | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*"
    | \w+ | \.{2,3} | [=~<>]= | .""",
    re.VERBOSE | re.DOTALL,
)
_OPENS = {"function", "if", "do", "repeat"}  # `for` and `while` have a `do`
_CLOSES = {"end", "until"}


@dataclass(frozen=True)
class _Token:
    text: str
    start: int
    end: int


def text_of(script: str, function: str) -> str:
    """The same for the same code, however it is formatted; "" where there is no such function."""
    return " ".join(token.text for token in _within(script, function))


def replace(script: str, function: str, old: str, new: str) -> tuple[int, str]:
    """How often the old code is there, and the script with new code in its place.

    That of one function, or, where it has no name, all of it.
    """
    tokens, olds = _within(script, function), [token.text for token in _tokens(old)]
    size, count = len(olds), 0
    for start in reversed(range(len(tokens) - size + 1)):
        found = tokens[start : start + size]
        if [token.text for token in found] == olds:
            count += 1
            script = script[: found[0].start] + new + script[found[-1].end :]
    return count, script


def _within(script: str, function: str) -> list[_Token]:
    tokens = _tokens(script)
    if not function:
        return tokens
    for start, token in enumerate(tokens[:-1]):
        if token.text == "function" and tokens[start + 1].text == function:
            depth = 0
            for end, each in enumerate(tokens[start:], start + 1):
                depth += (each.text in _OPENS) - (each.text in _CLOSES)
                if depth == 0:
                    return tokens[start:end]
    return []


def _tokens(script: str) -> list[_Token]:
    tokens = []
    for match in _TOKEN.finditer(script):
        text = match.group()
        if text.isspace() or text.startswith("--"):
            continue
        if text[0] == '"':
            text = "'" + text[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
        tokens.append(_Token(text, match.start(), match.end()))
    return tokens
