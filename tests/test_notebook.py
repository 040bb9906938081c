"""The notebook runs from its first cell to its last, with one method and a short epoch."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples/demo.ipynb"


def test_the_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the kernel shares the cores with other tests
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    options = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "EPOCHS = 3" in options.source
    assert '["CE", "KD", "CMKD"]' in options.source
    options.source = options.source.replace("= 3", "= 1").replace('["CE", "KD", "CMKD"]', '["CMKD"]')
    training = next(cell for cell in notebook.cells if "epochs=EPOCHS" in cell.source)
    training.source = training.source.replace("epochs=EPOCHS", "epochs=EPOCHS, validation=0.9")
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    shown = [json.dumps(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("image/png" in output for output in shown) == 2
    assert sum("text/markdown" in output for output in shown) == 2
    assert "| CMKD" in shown[2]
    assert (tmp_path / "runs/CMKD/student.safetensors").is_file()


def test_the_notebook_holds_what_it_showed():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output["output_type"] in ("error", "stream")]
    text = json.dumps(outputs)
    assert all(f"| {method} " in text for method in ("CE", "KD", "CMKD"))
    assert NOTEBOOK.stat().st_size < 200_000
