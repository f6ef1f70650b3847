"""The core's files import each other in one direction: kernels know no schemes."""

from __future__ import annotations

import re
from pathlib import Path

CORE = Path(__file__).parents[1] / "rust" / "core" / "src"
ORDER = ["lanes", "kernel", "scheme", "relation", "plan", "quantize"]
"""Nothing in one of these imports from a later one."""


def modules() -> dict[tuple[str, ...], str]:
    """The text of each file without its tests, by the path of its module."""
    found = {}
    for file in CORE.rglob("*.rs"):
        path = file.relative_to(CORE).with_suffix("").parts
        if path[-1] == "tests" or path in {("lib",), ("scheme", "conformance")}:
            continue
        text = re.sub(r"#\[cfg\(test\)\]\s*mod tests \{.*\Z", "", file.read_text(), flags=re.S)
        text = re.sub(r"#\[cfg\(test\)\][^;{]*;", "", text)
        found[path[:-1] if path[-1] == "mod" else path] = re.sub(r"//.*", "", text)
    return found


def used(tree: str) -> list[list[str]]:
    """The paths of what follows `use`: `a::{b, c::{d, e}}`."""
    tree = tree.strip()
    if "{" not in tree:
        return [[part.strip() for part in tree.split(" as ")[0].split("::")]]
    head, _, rest = tree.partition("{")
    inner, depth, start = rest[: rest.rindex("}")], 0, 0
    parts = []
    for at, letter in enumerate(inner + ","):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(inner[start:at])
            start = at + 1
    prefix = [part.strip() for part in head.split("::") if part.strip()]
    return [prefix + path for part in parts if part.strip() for path in used(part)]


def imports(
    module: tuple[str, ...], text: str, known: set[tuple[str, ...]]
) -> set[tuple[str, ...]]:
    """The modules that a module imports."""
    paths = [path for tree in re.findall(r"\buse ([^;]+);", text) for path in used(tree)]
    paths += [path.split("::") for path in re.findall(r"\b((?:crate|super)(?:::\w+)+)", text)]
    found = set()
    for path in paths:
        if path[0] == "crate":
            absolute = tuple(path[1:])
        elif path[0] in {"super", "self"}:
            ups = sum(part == "super" for part in path)
            absolute = (*module[: len(module) - ups], *path[max(ups, 1) :])
        else:
            absolute = (*module, *path)
        while absolute and absolute not in known:
            absolute = absolute[:-1]
        if absolute and absolute != module:
            found.add(absolute)
    return found


def graph() -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    texts = modules()
    return {module: imports(module, text, set(texts)) for module, text in texts.items()}


def test_the_parser_sees_what_is_imported() -> None:
    assert used("a::{b, c::{d, e as f}}") == [["a", "b"], ["a", "c", "d"], ["a", "c", "e"]]
    edges = graph()
    assert ("kernel", "affine") in edges["kernel", "dispatch"]
    assert ("kernel", "affine", "parameters") in edges["kernel", "affine", "run"]
    assert ("scheme",) in edges["plan", "asked"]


def test_no_circle_of_imports() -> None:
    edges, state, stack = graph(), {}, []

    def visit(module: tuple[str, ...]) -> None:
        state[module] = "open"
        stack.append(module)
        for other in sorted(edges[module]):
            if state.get(other) == "open":
                circle = stack[stack.index(other) :]
                raise AssertionError(" -> ".join("::".join(part) for part in [*circle, other]))
            if other not in state:
                visit(other)
        stack.pop()
        state[module] = "done"

    for module in sorted(edges):
        if module not in state:
            visit(module)


def test_nothing_points_upwards() -> None:
    for module, others in graph().items():
        if module[0] not in ORDER:
            continue
        for other in others:
            if other[0] in ORDER:
                assert ORDER.index(other[0]) <= ORDER.index(module[0]), (module, other)


def test_no_scheme_is_named_outside_its_folder() -> None:
    from arrowquant import _core

    names = _core.schemes()[:-1]
    for module, text in modules().items():
        # What other tools write is told apart where it is read.
        if module[0] not in {"dtype", "scheme", "export"} and module[:2] != (
            "container",
            "foreign",
        ):
            assert not re.findall(rf'"({"|".join(names)})"', text), module
