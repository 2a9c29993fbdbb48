"""Where commands write: what they made is replaced, nothing else is. Oracle: the files before."""

import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import vl_convert
from helpers.run_contents import done_here

from constants import ROOT
from custom_types import CELLS
from model.eval import baselines, collapse, plots, report, study
from model.flags import ArgumentError
from model.report.pictures import signed
from model.run.layout import COMPARISON, REPORT
from model.run.outputs import PAGE, PICTURE, output_file, output_folder

PAGES = {"report.html", "comparison.html"}


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command, capsys, *argv: object) -> str:
    assert command([str(one) for one in argv]) == 2
    printed, complained = capsys.readouterr()
    assert printed == ""
    (sentence,) = complained.strip().splitlines()
    return sentence


def changed(folder: Path, before: dict[Path, bytes]) -> set[str]:
    after = files(folder)
    paths = before.keys() | after.keys()
    return {path.name for path in paths if before.get(path) != after.get(path)}


# ---------------------------------------------------------------- reports


@pytest.mark.slow
def test_a_comparison_leaves_every_runs_own_report(half, copy, capsys):
    before = files(copy)
    assert report.main([str(copy), str(half)]) == 0
    assert capsys.readouterr().out.strip() == str(copy / COMPARISON)
    assert changed(copy, before) == {COMPARISON}
    first = (copy / COMPARISON).read_bytes()
    assert report.main([str(copy), str(half), str(half)]) == 0  # its own, again
    assert (copy / COMPARISON).read_bytes() != first
    assert report.main([str(copy)]) == 0
    assert changed(copy, before) <= PAGES
    done_here("--resume", "--run-dir", str(copy))  # the folder is a run's still


def test_a_comparison_of_somebody_else_stays(half, copy, capsys):
    (copy / COMPARISON).write_text("<html>mine</html>")
    said = refused(report.main, capsys, copy, half)
    assert said.startswith(f"{copy / COMPARISON}: must not exist, unless this program made it")
    assert (copy / COMPARISON).read_text() == "<html>mine</html>"


@pytest.mark.parametrize("several", [False, True])
def test_a_report_goes_where_it_is_told(half, copy, tmp_path, capsys, several):
    runs = [copy, half] if several else [copy]
    before, page = files(copy), tmp_path / "page.html"
    for _ in range(2):  # a new file, and one of ours
        assert report.main([*map(str, runs), "--output", str(page)]) == 0
        assert capsys.readouterr().out.strip() == str(page)
    assert PAGE in page.read_text() and files(copy) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes.html", "must not exist, unless this program made it"),
        ("image.png", "must not exist, unless this program made it"),
        ("folder", "must not exist"),
        ("nowhere/page.html", "must be in a folder that exists"),
        ("run/metrics.jsonl", "must be outside of run directories"),
        ("run/page.html", "must be outside of run directories"),
        ("run/report.html", "must be outside of run directories"),
        ("run/plots/page.html", "must be outside of run directories"),
    ],
)
def test_a_report_replaces_nothing_but_reports(copy, half, tmp_path, capsys, name, said):
    (tmp_path / "notes.html").write_text("<!DOCTYPE html><title>Notes</title>")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "folder").mkdir()
    before = files(tmp_path)
    sentence = refused(report.main, capsys, half, "--output", tmp_path / name)
    assert sentence.startswith(f"--output {tmp_path / name}: ") and said in sentence
    assert files(tmp_path) == before and (tmp_path / "folder").is_dir()


def test_wrong_flags_of_a_report(capsys, half):
    assert "RUN_DIR" in refused(report.main, capsys)
    assert "--outptu" in refused(report.main, capsys, half, "--outptu", "x")


# ---------------------------------------------------------------- pictures


def test_one_runs_pictures_are_drawn_again_in_its_own_folder(copy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = files(copy)
    for picture in (copy / "plots").iterdir():
        picture.unlink()
    assert plots.main([str(copy)]) == 0
    assert not (tmp_path / "diagrams").exists() and changed(copy, before) == set()
    assert len(capsys.readouterr().out.splitlines()) == len(CELLS) + 2
    assert set(plots.NAMES) == {path.name for path in (copy / "plots").iterdir()}


@pytest.mark.slow
def test_several_runs_pictures_need_a_folder(half, copy, tmp_path, capsys):
    before = files(copy)
    assert "--output: must name a folder" in refused(plots.main, capsys, copy, half)
    inside = copy / "plots"
    said = refused(plots.main, capsys, half, copy, "--output", inside)
    assert said == f"--output {inside}: must be outside of run directories, and {copy} is one"
    assert files(copy) == before
    for _ in range(2):
        assert plots.main([str(half), str(copy), "--output", str(tmp_path / "pictures")]) == 0


@pytest.mark.parametrize("name", ["accuracy.png", "solver_deduction.png", "curriculum.png"])
def test_somebodys_picture_is_not_drawn_over(half, tmp_path, capsys, name):
    """Drawn by the same library."""
    chart = {"data": {"values": [{"a": 1}]}, "mark": "point", "encoding": {"x": {"field": "a"}}}
    (tmp_path / name).write_bytes(vl_convert.vegalite_to_png(chart))
    before = files(tmp_path)
    said = refused(plots.main, capsys, half, "--output", tmp_path)
    assert said == (
        f"--output {tmp_path}: must be a folder without {name}, unless this program made it"
    )
    assert files(tmp_path) == before


def test_a_signed_picture_is_the_picture():
    """Its pixels are those that were drawn, and each chunk of the file has the checksum that the PNG
    specification asks for: CRC-32 of kind and content."""
    chart = {"data": {"values": [{"a": 1}]}, "mark": "point", "encoding": {"x": {"field": "a"}}}
    drawn = vl_convert.vegalite_to_png(chart)

    def chunks(png: bytes) -> dict[bytes, bytes]:
        found, at = {}, 8
        while at < len(png):
            length = int.from_bytes(png[at : at + 4], "big")
            kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
            checksum = int.from_bytes(png[at + 8 + length : at + 12 + length], "big")
            assert checksum == zlib.crc32(kind + content)
            found[kind] = content
            at += 12 + length
        return found

    before, after = chunks(drawn), chunks(signed(drawn))
    assert after.pop(b"tEXt") == b"Software\0" + PICTURE.encode()
    assert list(before) == list(after) and list(after)[-1] == b"IEND"
    assert zlib.decompress(before.pop(b"IDAT")) == zlib.decompress(after.pop(b"IDAT"))
    assert before == after


def test_a_run_that_cannot_be_read_makes_no_folder(half, tmp_path, capsys):
    refused(plots.main, capsys, half, tmp_path / "none", "--output", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_the_pictures_of_the_readme_are_known_as_ours():
    """Else its command could not draw them again."""
    output_folder(ROOT / "diagrams", plots.NAMES, PICTURE)
    output_file(ROOT / "diagrams" / "cost.png", PICTURE)


# ---------------------------------------------------------------- experiments


@pytest.mark.parametrize("name", ["collapse.md", "collapse.jsonl", "collapse.png"])
def test_an_experiment_is_not_begun_where_another_one_is_kept(tmp_path, capsys, name):
    (tmp_path / name).write_text("of last week")
    said = refused(collapse.main, capsys, "--output", tmp_path)
    assert said == f"--output {tmp_path}: must be a folder without {name}"
    assert files(tmp_path) == {tmp_path / name: b"of last week"}


@pytest.mark.parametrize("folder", ["", "plots", "checkpoints/step_000020"])
@pytest.mark.parametrize("main", [collapse.main, baselines.main])
def test_a_run_directory_is_no_place_for_them(copy, capsys, main, folder):
    before = files(copy)
    said = refused(main, capsys, "--output", copy / folder)
    assert said.endswith(f"must be outside of run directories, and {copy} is one")
    assert files(copy) == before


def test_pages_of_a_run_have_names_of_their_own():
    assert {REPORT, COMPARISON} == PAGES


@pytest.mark.slow
@pytest.mark.parametrize("script", ["study", "collapse", "report"])
def test_a_folder_that_is_no_text_is_refused_in_a_sentence(script):
    """A name with a byte that no UTF-8 text has, as a command line brings it."""
    command = [sys.executable.encode(), str(ROOT / "model" / "eval" / f"{script}.py").encode()]
    result = subprocess.run([*command, b"--output", b"out\xff"], capture_output=True)
    said = result.stderr.decode()
    assert result.returncode == 2 and "must be text in UTF-8" in said and "\\udcff" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_share_above_one_is_refused():
    command = [sys.executable, str(ROOT / "model" / "eval" / "collapse.py"), "--unclosed"]
    for value in ("2", "nan", "-0.1"):
        said = subprocess.run([*command, value], capture_output=True, text=True)
        assert said.returncode == 2 and "must be a number from 0 to 1" in said.stderr


@pytest.mark.parametrize("given", ["", " "])
def test_no_name_is_not_the_current_folder(given, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command, logs in ((collapse, "collapse.jsonl.gz"), (study, "controls.jsonl.gz")):
        said = refused(command.main, capsys, "--from", ROOT / "diagrams" / logs, "--output", given)
        assert said == f"--output {given!r}: must be a path"
    assert refused(study.main, capsys, "--output", given) == said
    for named in (output_file, lambda one: output_folder(one, ["a"])):
        with pytest.raises(ArgumentError, match="must be a path"):
            named(given)
    assert not list(tmp_path.iterdir())
