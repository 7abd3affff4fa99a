"""A YAML file as plain data, with the place of every value.

ruamel.yaml reads YAML 1.2 (``no`` is text, not false) and keeps line and column of every key and item. The rest of
the playbook room works on plain dictionaries and asks :class:`Document` where a path stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from harness.errors import PlaybookError, Problem

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """``data`` holds only dict, list, str, int, float, bool and None."""

    path: Path
    data: Any
    positions: dict[Place, tuple[int, int]]

    def problem(self, place: Place, what: str, *, hint: str = "") -> Problem:
        """A mistake at ``place``; where the place itself does not exist, at the nearest place around it."""
        while place and place not in self.positions:
            place = place[:-1]
        line, column = self.positions.get(place, (1, 1))
        return Problem(line=line, column=column, what=what, hint=hint)

    def line(self, place: Place) -> int:
        return self.problem(place, "").line


def read_document(path: Path) -> Document:
    """Raises :class:`PlaybookError` for what is not YAML, or not a mapping at the top."""
    try:
        tree = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        what = f"not valid YAML: {error.problem or error.context}"
        raise PlaybookError(path, [Problem(line=line, column=column, what=what)]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PlaybookError(path, [Problem(line=1, column=1, what=f"cannot be read: {error}")]) from error
    if not isinstance(tree, CommentedMap):
        problem = Problem(line=1, column=1, what="a playbook is a mapping", hint="begin with 'name: …'")
        raise PlaybookError(path, [problem])
    positions: dict[Place, tuple[int, int]] = {(): (1, 1)}
    return Document(path=path, data=_plain(tree, place=(), positions=positions), positions=positions)


def _plain(node: Any, *, place: Place, positions: dict[Place, tuple[int, int]]) -> Any:
    if isinstance(node, CommentedMap):
        for key in node:
            line, column = node.lc.key(key)
            positions[(*place, str(key))] = (line + 1, column + 1)
        return {str(key): _plain(value, place=(*place, str(key)), positions=positions) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            line, column = node.lc.item(index)
            positions[(*place, index)] = (line + 1, column + 1)
        return [_plain(value, place=(*place, index), positions=positions) for index, value in enumerate(node)]
    return _scalar(node)


def _scalar(node: Any) -> Any:
    if node is None or isinstance(node, bool):
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)
