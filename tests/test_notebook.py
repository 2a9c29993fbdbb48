"""The notebook, executed as a person would. Oracles: nbformat's own rules, the run's logs, what the same
functions say of the same checkpoint."""

import ast
import base64
import json
import re

import pytest

from constants import ROOT

NOTEBOOK = ROOT / "model" / "eval" / "notebook.ipynb"
STEPS = 10  # instead of the notebook's own


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def printed(cell) -> str:
    """Of a cell's standard output: its standard error has the progress bars of libraries."""
    return "".join(out.text for out in cell.outputs if out.get("name") == "stdout")


def test_it_has_ten_cells_without_outputs_whose_code_is_python():
    assert len(cells()) == 10
    for cell in cells():
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))


@pytest.mark.slow
def test_it_trains_draws_and_plays(tmp_path):
    """From a folder of its own, as Jupyter starts it, with fewer steps."""
    nbformat = pytest.importorskip("nbformat", reason="pip install nbclient ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="pip install nbclient ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if "STEPS = 60" in cell.source:
            cell.source = cell.source.replace("STEPS = 60", f"STEPS = {STEPS}")
            cell.source = re.sub(
                r"RUN = .*", f"RUN = Path({str(tmp_path / 'first')!r})", cell.source
            )
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
    log = (tmp_path / "first" / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    said = printed(code[1])
    assert "tiny: 60,672 parameters on cpu" in said and f"\n  {STEPS:>4}" in said
    pictures = [out.data["image/png"] for out in code[2].outputs]
    assert [base64.b64decode(one)[:4] for one in pictures] == [b"\x89PNG"] * 2
    replies = printed(code[3])
    asked = re.findall(r"^asked +(.+)$", replies, re.M)
    assert asked == ["2 * y ≡ 1 (mod 7)", "x * 4 ≡ 1 (mod 7)", "7 * 8 ≡ 1 (mod p)"]
    assert re.findall(r"^right +(.+)$", replies, re.M) == ["y = 4", "x = 2", "p = 5 or 11"]
    assert re.search(r"^probability +\S+ of this proposal$", printed(code[4]), re.M)
