"""The notebooks run from top to bottom, use the interface alone, and are committed without outputs."""

from __future__ import annotations

import ast
import importlib
import json
import os
from pathlib import Path

import pytest

import san_tf

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_of(path: Path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["evaluate_features", "gallery", "san_in_keras"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path):
    assert path.stat().st_size < 20_000
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None and not cell["metadata"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_the_interface_is_used(path):
    tree = ast.parse("\n".join(code_of(path)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("san_tf.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("san_tf"):
            listed = importlib.import_module(node.module).__all__
            assert {alias.name for alias in node.names} <= set(listed), node.module
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "san_tf":
            assert node.attr in san_tf.__all__


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    # The kernel imports the checkout, wherever it is started, and leaves nothing behind in the folder.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(cell.outputs for cell in code)
    assert not list(tmp_path.iterdir())
