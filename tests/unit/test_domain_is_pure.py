"""The domain does no I/O and reads no clock: all that it imports, and all that this imports, is on a short list."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
OURS: Final = ("agent", "coordinator", "hostler", "protos", "providers")
PURE: Final = {
    "__future__", "bisect", "collections", "dataclasses", "datetime", "enum", "functools", "hashlib", "heapq",
    "ipaddress", "itertools", "math", "msgspec", "operator", "re", "typing",
}  # fmt: skip


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not used here"
            assert node.module is not None
            yield node.module
            # What is named may be a module of its own.
            yield from (f"{node.module}.{name.name}" for name in node.names if file_of(f"{node.module}.{name.name}"))


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def impure(start: set[Path]) -> Iterator[str]:
    """Everything that is reached from these files and is not pure, with who imports it."""
    seen: set[Path] = set()
    new = set(start)
    while new:
        path = new.pop()
        seen.add(path)
        for module in imported(path):
            if module.split(".")[0] in OURS:
                file = file_of(module)
                assert file is not None, f"{path}: {module} is not found"
                new |= {file} - seen
            elif module.split(".")[0] not in PURE:
                yield f"{path.relative_to(ROOT)} imports {module}"


def calls_of_the_clock(path: Path) -> Iterator[str]:
    """`datetime.now()` and its like need no import of their own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "fromtimestamp"}:
            name = node.value.id if isinstance(node.value, ast.Name) else ""
            if name in {"datetime", "date"}:
                yield f"{path.relative_to(ROOT)}:{node.lineno}"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"open", "print", "input"}
        ):
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


def domain() -> set[Path]:
    return set((ROOT / "coordinator" / "domain").rglob("*.py"))


def test_the_domain_imports_nothing_that_could_do_io() -> None:
    assert len(domain()) > 15
    assert sorted(impure(domain())) == []


def test_the_domain_reads_no_clock_and_opens_nothing() -> None:
    assert [found for path in sorted(domain()) for found in calls_of_the_clock(path)] == []


def test_what_is_impure_would_be_found() -> None:
    engine = ROOT / "coordinator" / "engine"
    assert "coordinator/engine/engine.py imports asyncio" in impure({engine / "engine.py"})
    # Through another module of ours: errands imports asyncio, hands imports errands.
    assert "coordinator/engine/errands.py imports structlog" in impure({engine / "hands.py"})
    assert list(calls_of_the_clock(ROOT / "coordinator" / "coordinator.py"))
