"""The documentation: all code of the guides and notebooks runs, and every link within it leads somewhere."""

import re
from pathlib import Path

import nbformat
import pytest
import run_notebooks
import typer

from convnext_keras.cli import app

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [*GUIDES, *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.any_backend  # and once more under JAX by .ci/run
@pytest.mark.filterwarnings("ignore::UserWarning")  # Guides show what is told by a warning.
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_guides_runs_in_an_empty_directory(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks or page.parent.name != "guides", "a guide has code"
    namespace = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), namespace)
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.any_backend  # and once more under JAX by .ci/run
@pytest.mark.filterwarnings("ignore")  # as Jupyter does with most
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_of_notebooks_runs_in_an_empty_directory(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    namespace = {}
    for cell in cells:
        exec(compile(cell.source, path.name, "exec"), namespace)
    assert cells[-1].outputs
    assert path.stat().st_size < 400_000


@pytest.mark.any_backend
def test_a_notebook_in_jupyter(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = run_notebooks.executed(ROOT / "notebooks" / "features.ipynb", tmp_path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "(1, 64, 64, 32)" in code[1].outputs[0].text
    assert code[-1].outputs


@pytest.mark.any_backend
@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    text = re.sub(r"`[^`\n]*`", "", page.read_text())  # `blocks[0](x)` in code is not a link
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if "://" not in target and "generated/" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.any_backend
@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_code_fits_the_page(page):
    blocks = re.findall(r"^```(?:python|py|console)\n(.*?)^```", page.read_text(), flags=re.S | re.M)
    assert [line for block in blocks for line in block.splitlines() if len(line) > 88] == []


@pytest.mark.any_backend
def test_every_command_shows_two_examples():
    for name, command in typer.main.get_command(app).commands.items():
        examples = re.findall(rf"convnext-keras {name} ?.*\[/\]", command.help)
        assert len(examples) >= 2, name


@pytest.mark.any_backend
def test_the_site_loads_nothing_from_outside():
    for file in (ROOT / "docs" / "_static").iterdir():
        assert not re.search(r"https?://|@import", file.read_text()), file
