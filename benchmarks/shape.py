"""How the package is built, in numbers: python benchmarks/shape.py [--question RUN]

Code lines have no docstring, comment or blank. A circle is a group of modules that import each other, inside functions too.
Floors are the longest chain of top-level modules and packages, each importing the next. With --question a finished run answers
a question, and the package's functions that are called on the way are counted.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median, quantiles
from types import FrameType
from typing import Any

SOURCE = Path(__file__).parent.parent / "src"
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Imports = Mapping[str, set[str]]


def main(run: Path | None) -> None:
    """Print what was counted, and one JSON object in the last line."""
    files = {module_name(path): path for path in sorted((SOURCE / "kard").rglob("*.py"))}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    lines = {name: code_lines(path, trees[name]) for name, path in files.items()}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, Function)]
    sizes = [
        len({line for line in lines[name] if node.lineno <= line <= (node.end_lineno or 0)})
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    ]
    raw = [len(path.read_text(encoding="utf-8").splitlines()) for path in files.values()]
    modules = {name: imported(tree, name, files) for name, tree in trees.items()}
    measured: dict[str, Any] = {
        "code_lines": sum(map(len, lines.values())),
        "raw_lines": sum(raw),
        "files": len(files),
        "longest_file": max(raw),
        "function_median": median(sizes),
        "function_p95": quantiles(sizes, n=20)[-1],
        "function_max": max(sizes),
        "typed": sum(map(is_typed, functions)) / len(functions),
        "bare_except": sum(
            isinstance(n, ast.ExceptHandler) and n.type is None for t in trees.values() for n in ast.walk(t)
        ),
        "print": sum(is_print(node) for tree in trees.values() for node in ast.walk(tree)),
        "recipe_keys": recipe_keys(),
        "circles": len(circles(modules)),
        "floors": floors(by_package(modules)),
    }
    if run is not None:
        called = question(run)
        measured |= {"question_functions": len(called), "question_files": len({file for file, _ in called})}
    for name, value in measured.items():
        shown = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
        print(f"{name.replace('_', ' '):<20} {shown}")
    for group in circles(modules):
        print(f"circle: {', '.join(sorted(group))}")
    print(json.dumps(measured))


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def code_lines(path: Path, tree: ast.Module) -> set[int]:
    """Numbers of the lines that hold code."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in _NO_CODE:
            held |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            held -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return held


def is_typed(function: Function) -> bool:
    """Whether every parameter but self and cls, and what is returned, has a type."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    starred = [one for one in (function.args.vararg, function.args.kwarg) if one is not None]
    own = [one for place, one in enumerate([*named, *starred]) if place or one.arg not in ("self", "cls")]
    return function.returns is not None and all(one.annotation is not None for one in own)


def is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def recipe_keys() -> int:
    """Keys of a recipe, the sections themselves not counted."""
    from kard.recipe.base import Section
    from kard.recipe.recipe import Recipe

    def count(section: type[Section]) -> int:
        kinds = [field.annotation for field in section.model_fields.values()]
        return sum(count(kind) if isinstance(kind, type) and issubclass(kind, Section) else 1 for kind in kinds)

    return count(Recipe)


def imported(tree: ast.Module, name: str, files: Mapping[str, Path]) -> set[str]:
    """Modules of the package that a module imports when it runs; what types alone need does not count."""
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = [f"{node.module}.{one.name}" for one in node.names]
            found |= {part if part in files else node.module for part in parts}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
    return {one for one in found if one in files and one != name}


def by_package(modules: Imports) -> Imports:
    """The same between top-level modules and packages."""
    packages: dict[str, set[str]] = {}
    for name, others in modules.items():
        own = top(name)
        packages.setdefault(own, set()).update(top(other) for other in others if top(other) != own)
    return packages


def top(name: str) -> str:
    return ".".join(name.split(".")[:2])


def reached(modules: Imports, begin: str) -> set[str]:
    seen: set[str] = set()
    rest = list(modules[begin])
    while rest:
        name = rest.pop()
        if name not in seen:
            seen.add(name)
            rest += modules[name]
    return seen


def circles(modules: Imports) -> set[frozenset[str]]:
    """Groups of modules that reach each other."""
    after = {name: reached(modules, name) for name in modules}
    return {
        frozenset(other for other in after[name] if name in after[other]) for name in modules if name in after[name]
    }


def floors(packages: Imports) -> int:
    """The longest chain; packages in a circle stand on one floor."""
    after = {name: reached(packages, name) for name in packages}
    known: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in known:
            below = [other for other in after[name] if name not in after[other]]
            known[name] = 1 + max(map(floor, below), default=0)
        return known[name]

    return max(map(floor, packages))


def question(run: Path) -> set[tuple[str, str]]:
    """The package's functions that are called from ``kard answer`` to the answer: file and name."""
    from kard.cli.main import answer

    called: set[tuple[str, str]] = set()
    for file, name in calls(lambda: answer(run, "Which of these is it?", ["this one", "that one"])):
        if not name.startswith("<"):
            called.add((file, name))
    return called


def calls(work: Any) -> Iterator[tuple[str, str]]:
    """Each call of a function of the package while `work` runs."""
    seen: list[tuple[str, str]] = []
    root = str(SOURCE / "kard")

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(root):
            seen.append((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    yield from seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--question", metavar="RUN", type=Path, help="a finished run, which answers a question")
    main(parser.parse_args().question)
