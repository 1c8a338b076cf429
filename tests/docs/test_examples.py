"""Examples in docstrings: every class that configs name has one, and the models' are run."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [
    (".".join(path.relative_to(ROOT).with_suffix("").parts), node)
    for path in sorted((ROOT / "mmvitconv").rglob("*.py"))
    for node in ast.parse(path.read_text("utf-8")).body
    if isinstance(node, ast.ClassDef)
    and any("register_module" in ast.unparse(decorator) for decorator in node.decorator_list)
]


@pytest.mark.parametrize(("module", "node"), CLASSES, ids=[node.name for _, node in CLASSES])
def test_example_of_a_registered_class(module: str, node: ast.ClassDef):
    """It is there and runs, with the names of its module and torch at hand."""
    names = {**vars(importlib.import_module(module)), "torch": torch}
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(names[node.name], node.name, globs=names)
    assert test.examples, f"{node.name} has no Examples"
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.failed == 0
