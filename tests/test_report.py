"""The report. Oracles: a run's logs, a real browser without a network."""

import json
import shutil
import time
from pathlib import Path

import pytest
from browser import needs_browser, opened
from helpers.run_contents import SMALL, done_here, main_here

from custom_types import TASKS
from model.eval import report
from model.report.sections import save_report

HOSTILE = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'> $title"
)


def content_of(page: Path) -> dict:
    """What the page's charts and transcripts are drawn from."""
    start = '<script id="content" type="application/json">'
    return json.loads(page.read_text("utf-8").split(start)[1].split("</script>")[0])


# ---------------------------------------------------------------- the page


@pytest.mark.slow
def test_a_run_leaves_a_report_of_its_logs(whole):
    """Every curve's values are the log's, and every evaluation problem is in the last map."""
    content = content_of(whole / "report.html")
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in content["data"]["curves"]] == [row["step"] for row in rows]
    for shown, row in zip(content["data"]["curves"], rows, strict=True):
        for key in shown.keys() - {"group"}:
            logged = row[key] if row[key] is None else pytest.approx(row[key], rel=1e-4)
            assert shown[key] == logged
        known = {
            key
            for key in ("eval/accuracy", "reward/proposer_induction", "loss", "time/update")
            if row.get(key) is not None
        }
        assert known <= shown.keys()
    for task in TASKS:
        cells = content["data"][f"solved 0 {task}"]
        accuracy = sum(cell["solved"] for cell in cells) / len(cells)
        assert accuracy == pytest.approx(rows[-1][f"eval/accuracy_{task}"])
    logged = [json.loads(line) for line in (whole / "rollouts.jsonl").read_text().splitlines()]
    assert [{**row, "run": "whole"} for row in logged] == content["transcripts"]


@pytest.mark.slow
def test_what_is_no_run_is_refused_and_a_report_replaced(whole, tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "must be a run directory" in capsys.readouterr().err
    damaged = Path(shutil.copytree(whole, tmp_path / "damaged"))
    (damaged / "problems.jsonl").write_text('{"step": 1}\n{"step": \n')
    assert report.main([str(damaged)]) == 2
    assert f"{damaged}/problems.jsonl, line 2: must be JSON" in capsys.readouterr().err
    (damaged / "config.json").write_text("{}")
    assert report.main([str(damaged)]) == 2 and len(capsys.readouterr().err.splitlines()) == 1
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "report.html").write_text("old")
    for log in ("rollouts.jsonl", "evaluations.jsonl"):
        (run / log).unlink()
    assert report.main([str(run)]) == 0
    page = (run / "report.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>") and "do not say which problems" in page


@pytest.mark.slow
def test_a_run_of_no_steps_has_a_report_too(tmp_path):
    done_here(*SMALL, "--total-steps", "0", "--run-dir", str(tmp_path / "run"))
    assert content_of(tmp_path / "run" / "report.html")["transcripts"] == []
    done_here(
        *SMALL,
        "--total-steps",
        "1",
        "--proposer",
        "uniform",
        "--run-dir",
        str(tmp_path / "uniform"),
    )


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def hostile(whole, tmp_path_factory) -> Path:
    """The report of a run one of whose transcripts attacks the page."""
    run = Path(shutil.copytree(whole, tmp_path_factory.mktemp("hostile") / "run<b>"))
    row = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0]) | {
        "response": HOSTILE, "prompt": "a lone surrogate: \ud800"
    }  # fmt: skip
    with open(run / "rollouts.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")
    return save_report([run], run / "report.html")


@pytest.fixture(scope="module")
def compared(whole, half, tmp_path_factory) -> Path:
    """The report of two seeds of one run and one of another."""
    folder = tmp_path_factory.mktemp("compared")
    for name, *flags in (("seed1", "--seed", "1"), ("constant", "--reward", "constant")):
        done_here(*SMALL, *flags, "--total-steps", "5", "--run-dir", str(folder / name))
    runs = [whole, folder / "seed1", folder / "constant"]
    return save_report(runs, folder / "report.html")


def settle(driver) -> None:
    """Until every chart is drawn, or the page has said why not."""
    drawn = (
        "return [...document.querySelectorAll('.chart')].every((one) => one.querySelector('svg'))"
    )
    while not driver.execute_script(drawn):
        assert driver.get_log("browser") == []
        time.sleep(0.1)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["hostile", "compared"])
def test_the_page_is_whole_at_any_width(page, width, request):
    with opened(request.getfixturevalue(page), width) as driver:
        settle(driver)
        assert driver.get_log("browser") == []
        root = "document.documentElement"
        assert driver.execute_script(f"return {root}.scrollWidth <= window.innerWidth")
        resources = "performance.getEntriesByType('resource')"
        urls = driver.execute_script(f"return {resources}.map((one) => one.name)")
        assert [url for url in urls if not url.startswith("data:")] == []
        marks = ".mark-line path, .mark-rect path, .mark-area path"
        empty = f"[...document.querySelectorAll('.chart')].filter((one) => !one.querySelector('{marks}'))"
        names = driver.execute_script(f"return {empty}.map((one) => one.ariaLabel)")
        assert names == []
        wide = "[...document.querySelectorAll('.chart svg')].filter((one) => one.getBoundingClientRect().right > innerWidth)"
        assert driver.execute_script(f"return {wide}.length") == 0
        assert driver.execute_script("return window.broken") is None
        colour = "return getComputedStyle(document.body).backgroundColor"
        assert driver.execute_script(colour) == "rgb(255, 255, 255)"


@pytest.mark.slow
@needs_browser
def test_filters_leave_what_was_asked_for(hostile):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    logged = content_of(hostile)["transcripts"]
    with opened(hostile, 800) as driver:
        settle(driver)

        def choose(name: str, value: str) -> None:
            Select(driver.find_element(By.NAME, name)).select_by_visible_text(value)

        def shown() -> list[str]:
            boxes = driver.find_elements(By.CSS_SELECTOR, ".transcript .answer")
            return [box.get_property("textContent") for box in boxes]

        assert len(shown()) == 20
        wanted = {"role": "solver", "task": "deduction", "verdict": "wrong", "step": "3"}
        for count in range(1, len(wanted) + 1):
            chosen = dict(list(wanted.items())[:count])
            choose(*list(chosen.items())[-1])
            own = [row for row in logged if all(str(row[k]) == v for k, v in chosen.items())]
            assert shown() == [row["response"] for row in own[:20]]
            text = f"{min(20, len(own))} of {len(own)} transcripts"
            assert driver.find_element(By.ID, "shown").text == text
        for name in wanted:
            choose(name, "all")
        more = driver.find_element(By.ID, "more")
        while more.is_displayed():
            driver.execute_script("arguments[0].click()", more)
        assert len(shown()) == len(logged) and HOSTILE in shown()
        assert driver.execute_script("return window.broken") is None
        assert driver.title == "Self-play report: run<b>"


@pytest.mark.slow
@needs_browser
def test_pointing_at_a_chart_says_its_values(whole):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    with opened(whole / "report.html", 1000) as driver:
        settle(driver)
        chart = driver.find_element(By.ID, "chart0")
        ActionChains(driver).scroll_to_element(chart).move_to_element(chart).perform()
        tip = driver.find_element(By.ID, "vg-tooltip-element")
        assert {"step", "abduction", "deduction", "induction", "mean"} <= set(tip.text.split())


@pytest.mark.slow
@needs_browser
def test_compared_groups_have_colours_of_their_own(compared):
    """In a chart of one quantity, and dashes where the colours are the quantities'."""
    strokes = """
      const chart = document.querySelector(`[aria-label="${arguments[0]}"]`);
      const lines = [...chart.querySelectorAll('.mark-line path')].map((one) => getComputedStyle(one));
      return lines.map((one) => [one.stroke, one.strokeDasharray]);"""
    with opened(compared, 1280) as driver:
        settle(driver)
        (one, dash), (other, other_dash) = driver.execute_script(strokes, "Loss")
        assert one != other and dash == other_dash
        many = driver.execute_script(strokes, "Greedy accuracy")
        assert len(many) == 8 == len(set(map(tuple, many))) and len({own for own, _ in many}) == 4


@pytest.mark.slow
@needs_browser
def test_dark_screens_and_white_paper(whole):
    """Text is told from its ground by a contrast of at least 4.5 in either; paper is never dark."""
    look = """
      const [ground, ink, label] = [
        getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
        getComputedStyle(document.querySelector('.chart svg text')).fill];
      return [ground, ink, label];"""

    def light(colour: str) -> float:
        """Relative luminance, as WCAG 2 defines it."""
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    with opened(whole / "report.html", 1000, "dark") as driver:
        settle(driver)
        for media in ("screen", "print"):
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
                "media": media, "features": [{"name": "prefers-color-scheme", "value": "dark"}]
            })  # fmt: skip
            ground, *inks = map(light, driver.execute_script(look))
            assert (ground > 0.9) == (media == "print")
            for ink in inks:
                assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 4.5


@pytest.mark.slow
def test_the_command_says_where_the_report_is(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    assert report.main([str(run), str(whole)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "comparison.html")
    (run / ".report.html.partial").write_text("half a page, and then a power cut")
    assert (
        main_here("--resume", "--run-dir", str(run), "--total-steps", "41", *SMALL).returncode == 0
    )
