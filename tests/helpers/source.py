"""The package's files and their imports, for tests of the source as a whole."""

import ast
from pathlib import Path

import poisonbench

PACKAGE = Path(poisonbench.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

#: What takes seconds to import.
HEAVY = {"torch", "torchvision", "safetensors", "kornia", "sklearn"}


def module_name(path: Path) -> str:
    parts = ("poisonbench", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports_of(tree: ast.Module):
    """(node, module, runs when the file is imported) for everything a file imports."""

    def walk(node, at_import):
        for child in ast.iter_child_nodes(node):
            inner = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = False
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child, alias.name, inner
            elif isinstance(child, ast.ImportFrom):
                yield from from_import(child, inner)
            else:
                yield from walk(child, inner)

    def from_import(node, at_import):
        base = "." * node.level + (node.module or "")
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield node, full if full in MODULES else base, at_import

    return list(walk(tree, True))
