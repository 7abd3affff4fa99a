"""HTML and SVG elements as values; text is escaped unless it is markup already."""

from __future__ import annotations

from html import escape

_VOID = frozenset({"meta", "img", "br", "input", "col"})
_SELF_CLOSED = frozenset({"rect", "line", "use", "path", "circle"})


class Markup(str):
    """Text that is HTML already; everything else that reaches a page is escaped."""

    __slots__ = ()


Child = str | None


def el(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """One element: ``el("a", "text", href="#x", class_="y")``.

    Attributes that are None or False are left out, True has no value; a trailing ``_`` is dropped and other ``_``
    become ``-``.
    """
    opened = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{opened}>")
    if name in _SELF_CLOSED and not children:
        return Markup(f"<{opened}/>")
    return Markup(f"<{opened}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Several pieces after each other; None is nothing."""
    return Markup("".join(text(child) for child in children if child is not None))


def text(child: str) -> Markup:
    """``child`` escaped, unless it is markup."""
    return child if isinstance(child, Markup) else Markup(escape(encodable(child)))


def encodable(said: str) -> str:
    """``said`` without halves of surrogate pairs, which a peer's bytes may hold and no file can."""
    return said if said.isascii() else said.encode(errors="replace").decode()


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{escape(encodable(str(value)))}"'
