"""Signs that a run has gone wrong. Oracles: rows by hand, runs that really collapse, whose logs of problems
are counted anew, and the committed logs, of which model/eval/README.md says which collapsed."""

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.run_contents import assert_equal_runs, done_here
from test_report import content_of
from test_report_data import made_up

from compute.symptoms import LEAST_ENTROPY, STEPS, SYMPTOMS, Watch, warned_steps
from constants import ROOT
from custom_types import CELLS, ROLES, TASKS
from model.args import AZRArgs
from model.flags import flag_name
from model.recording.follower import panels
from model.report.charts import shade
from model.report.data import warned_stretches, warning_rows
from model.report.panels import UPDATE

B = 8
NAN = float("nan")


def healthy(step: int, **changes) -> dict:
    """A row of a run that goes well, half done. changes: keys with __ in the place of a slash."""
    row: dict = {"step": step}
    for role, task in CELLS:
        row[f"malformed_frac/{role}_{task}"] = 0.25
    for task in TASKS:
        row |= {f"valid_frac/{task}": 0.75, f"distinct_frac/{task}": 0.5}
        row |= {f"solve_rate/{task}": 0.5, f"learnable_frac/{task}": 0.5}
    row |= {f"entropy/{role}": 0.5 for role in ROLES}
    return row | {key.replace("__", "/"): value for key, value in changes.items()}


EVALUATED = {"step": 0, "eval/accuracy": 0.5}
EVERYWHERE = {f"learnable_frac__{task}": 0.0 for task in TASKS}
NONE_LEGAL = {f"learnable_frac__{task}": NAN for task in TASKS} | {
    f"valid_frac__{task}": 0.0 for task in TASKS
}

# What a row has while a sign is seen.
SIGNS = (
    [(f"malformed_{role}_{task}", {f"malformed_frac__{role}_{task}": 1.0}) for role, task in CELLS]
    + [(f"never_solved_{task}", {f"solve_rate__{task}": 0.0}) for task in TASKS]
    + [(f"one_problem_{task}", {f"distinct_frac__{task}": 1 / B}) for task in TASKS]
    + [(f"low_entropy_{role}", {f"entropy__{role}": LEAST_ENTROPY - 1e-9}) for role in ROLES]
    + [("no_learnability", EVERYWHERE), ("no_learnability", NONE_LEGAL)]
)

# What is no sign, though it is near one.
NO_SIGNS = [
    {f"malformed_frac__{CELLS[0][0]}_{TASKS[0]}": 7 / 8},
    {f"malformed_frac__{CELLS[0][0]}_{TASKS[0]}": NAN, f"solve_rate__{TASKS[0]}": None},
    {"solve_rate__abduction": 1 / 64},
    {"distinct_frac__abduction": 1 / B, "valid_frac__abduction": 1 / B},
    {"distinct_frac__abduction": 2 / B},
    {"distinct_frac__abduction": 0.0, "valid_frac__abduction": 0.0},
    {"entropy__proposer": LEAST_ENTROPY, "entropy__solver": NAN},
    EVERYWHERE | {"learnable_frac__induction": 1 / 64},
    NONE_LEGAL | {f"valid_frac__{task}": NAN for task in TASKS}
    | {f"malformed_frac__proposer_{task}": NAN for task in TASKS},
]  # fmt: skip


def warned(rows: list[dict]) -> list[set[str]]:
    """The warnings after each row."""
    watch = Watch(B)
    found = []
    for row in rows:
        values = watch.add(row)
        assert set(values) == set(SYMPTOMS) and set(values.values()) <= {0, 1}
        found.append({key.removeprefix("warning/") for key, value in values.items() if value})
    return found


@pytest.mark.parametrize("name, changes", SIGNS, ids=[name for name, _ in SIGNS])
def test_it_begins_at_the_tenth_step_and_ends_when_it_ends(name, changes):
    """Seen in steps 3 to 14, so warned of in 12 to 14; and in 16 to 24, which are nine."""
    seen = {*range(3, 15), *range(16, 25)}
    rows = [EVALUATED, *(healthy(k, **changes) if k in seen else healthy(k) for k in range(1, 30))]
    assert warned(rows) == [{name} if step in (12, 13, 14) else set() for step in range(30)]
    assert warned_steps(rows, B) == {f"warning/{name}": [(12, 14)]}
    read = json.loads(json.dumps(rows).replace("NaN", "null"))  # as metrics.jsonl has it
    assert warned(read) == warned(rows)


@pytest.mark.parametrize("changes", NO_SIGNS)
def test_what_is_near_a_sign_is_none(changes):
    rows = [EVALUATED, *(healthy(step, **changes) for step in range(1, 30))]
    assert not any(warned(rows)) and warned_steps(rows, B) == {}


@pytest.mark.parametrize("name, changes", SIGNS[-4:])
def test_who_has_learned_nearly_all_may_be_sure(name, changes):
    """Entropy and learnability are looked at beside the last evaluation, of the same row or before."""
    rows = [EVALUATED, *(healthy(step, **changes) for step in range(1, 30))]
    rows[20]["eval/accuracy"] = 0.9
    rows[21]["eval/accuracy"] = 0.8
    assert [step for step, found in enumerate(warned(rows)) if found] == list(range(10, 20))
    assert not any(warned([row | {"eval/accuracy": NAN} for row in rows]))
    assert not any(warned(rows[1:20]))  # no evaluation is known


def test_a_missing_row_ends_what_was_seen():
    rows = [healthy(step, solve_rate__abduction=0.0) for step in range(1, 40) if step != 15]
    found = dict(zip([row["step"] for row in rows], warned(rows), strict=True))
    assert [step for step, names in found.items() if names] == [*range(10, 15), *range(25, 40)]


def test_a_warning_that_comes_again_is_another_stretch():
    bad = {step for step in range(1, 40) if step != 20}
    rows = [
        healthy(step, solve_rate__abduction=0.0 if step in bad else 0.5) for step in range(1, 40)
    ]
    assert warned_steps(rows, B) == {"warning/never_solved_abduction": [(10, 19), (30, 39)]}
    watch, begun = Watch(B), []
    for row in rows:
        watch.add(row)
        begun += [row["step"]] * len(watch.begun)
    assert begun == [10, 30]


def test_logs_without_the_share_of_learnable_problems_say_nothing_of_it():
    rows = [EVALUATED, *(healthy(step, **EVERYWHERE) for step in range(1, 30))]
    old = [{k: v for k, v in row.items() if not k.startswith("learnable")} for row in rows]
    assert any(warned(rows)) and not any(warned(old))


def test_what_to_try_are_flags():
    known = {flag_name(name) for name in AZRArgs.__dataclass_fields__}
    for symptom in SYMPTOMS.values():
        named = [word.strip(",") for word in symptom.advice.split() if word.startswith("--")]
        assert named and set(named) <= known


# ---------------------------------------------------------------- committed logs


def with_learnable(rows: list[dict], problems: list[dict]) -> list[dict]:
    """Rows of before that key was logged, with what problems.jsonl says of it."""
    rates = {row["step"]: {t: [item[-1] for item in row[t]] for t in TASKS} for row in problems}
    for row in rows:
        for task, own in rates.get(row["step"], {}).items():
            share = sum(0 < rate < 1 for rate in own) / len(own) if own else None
            row[f"learnable_frac/{task}"] = share
    return rows


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("seed", range(5))
def test_the_five_default_runs_give_no_alarm(seed):
    folder = ROOT / "diagrams" / "runs" / f"seed{seed}"
    rows = with_learnable(lines(folder / "metrics.jsonl"), lines(folder / "problems.jsonl"))
    assert len(rows) == 201 and warned_steps(rows, 128) == {}


@pytest.mark.parametrize("seed", range(2))
def test_smollm2_is_warned_of_where_the_page_says_it_tries_too_little(seed):
    folder = ROOT / "diagrams" / "runs" / f"smollm2_seed{seed}"
    rows = with_learnable(lines(folder / "metrics.jsonl"), lines(folder / "problems.jsonl"))
    assert set(warned_steps(rows, 8)) == {"warning/low_entropy_solver"}


@pytest.mark.parametrize(
    "file, condition, wanted",
    [
        ("arms", "self", {13: ["deduction", "induction"]}),
        ("controls", "self", {20: ["abduction"]}),
    ],
)
def test_the_collapsed_runs_of_self_play_and_no_other_are_found(file, condition, wanted):
    """`model/eval/README.md` names seeds 13 and 20, in one or two tasks each."""
    found = {}
    with gzip.open(ROOT / "diagrams" / f"{file}.jsonl.gz", "rt", encoding="utf-8") as log:
        for run in map(json.loads, log):
            if run["condition"] == condition:
                found[run["seed"]] = sorted(warned_steps(run["metrics"], run["args"]["batch_size"]))
    keys = {s: [f"warning/malformed_proposer_{t}" for t in tasks] for s, tasks in wanted.items()}
    assert len(found) in (3, 10)
    assert {seed: keys for seed, keys in found.items() if keys} == keys


# ---------------------------------------------------------------- runs that collapse

SMALL = [
    "--model", "tiny", "--max-prime", "13", "--batch-size", "16", "--n-attempts", "4", "--minibatches", "4",
    "--warm-start-steps", "40", "--no-eval-uniform", "--eval-every", "6", "--checkpoint-every", "12",
]  # fmt: skip
# All proposals become malformed; or one legal problem that is never solved, by a policy that is sure.
MALFORMED = [
    "--invalid-reward",
    "-1",
    "--extreme-reward",
    "-1",
    "--entropy-coef",
    "0",
    "--lr",
    "0.01",
]
ONE = ["--reward", "constant", "--crowding-cost", "0", "--entropy-coef", "0", "--lr", "0.003"]


def collapsed(folder: Path, *flags: str) -> tuple[Path, str]:
    done = done_here(*SMALL, "--proposer-weight", "3", *flags, "--run-dir", str(folder))
    return folder, done.stdout


@pytest.fixture(scope="module")
def malformed(tmp_path_factory):
    return collapsed(
        tmp_path_factory.mktemp("malformed") / "run", *MALFORMED, "--total-steps", "48"
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return collapsed(tmp_path_factory.mktemp("one") / "run", *ONE, "--total-steps", "48")


def counted(folder: Path) -> dict[str, list[int]]:
    """The steps after which a sign had been seen for ten steps, from the log of problems where it tells."""
    metrics, problems = lines(folder / "metrics.jsonl"), lines(folder / "problems.jsonl")
    seen: dict[str, set[int]] = defaultdict(set)
    accuracy = metrics[0]["eval/accuracy"]
    for row, asked in zip(metrics[1:], problems, strict=True):
        step = row["step"]
        assert step == asked["step"]
        accuracy = row.get("eval/accuracy", accuracy)
        for role, task in CELLS:
            if row[f"malformed_frac/{role}_{task}"] == 1:
                seen[f"malformed_{role}_{task}"].add(step)
        for task in TASKS:
            times = [times for *_, times, _ in asked[task] if times]
            if len(times) == 1 and times[0] > 1:
                seen[f"one_problem_{task}"].add(step)
            if asked[task] and max(rate for *_, rate in asked[task]) == 0:
                seen[f"never_solved_{task}"].add(step)
        for role in ROLES:
            if row[f"entropy/{role}"] < 0.05 and accuracy < 0.9:
                seen[f"low_entropy_{role}"].add(step)
        rates = [rate for task in TASKS for *_, rate in asked[task]]
        all_lost = all(row[f"malformed_frac/proposer_{task}"] == 1 for task in TASKS)
        if accuracy < 0.9 and not all_lost and not any(0 < rate < 1 for rate in rates):
            seen["no_learnability"].add(step)
    last = metrics[-1]["step"]
    held = {
        name: [k for k in range(1, last + 1) if set(range(k - 9, k + 1)) <= steps]
        for name, steps in seen.items()
    }
    return {name: steps for name, steps in held.items() if steps}


def logged(folder: Path) -> dict[str, list[int]]:
    """The same from the keys in metrics.jsonl."""
    found = defaultdict(list)
    for row in lines(folder / "metrics.jsonl"):
        for key in SYMPTOMS if row["step"] else ():
            if row[key]:
                found[key.removeprefix("warning/")].append(row["step"])
    return dict(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, expected",
    [
        ("malformed", {f"malformed_proposer_{task}" for task in TASKS}),
        ("one", {"one_problem_induction", "never_solved_induction", "low_entropy_solver", "no_learnability"}),
    ],
)  # fmt: skip
def test_a_run_that_collapses_says_so(name, expected, request):
    folder, said = request.getfixturevalue(name)
    assert logged(folder) == counted(folder) and expected <= logged(folder).keys()
    begun = sum(
        step - before > 1
        for steps in logged(folder).values()
        for before, step in pairwise([-1, *steps])
    )
    assert said.count(f"warning: for the last {STEPS} steps ") == begun
    for key in expected:
        symptom = SYMPTOMS[f"warning/{key}"]
        assert f"{symptom.said}; try {symptom.advice}\n" in said


@pytest.mark.slow
def test_one_attempt_leaves_nothing_to_learn(tmp_path):
    """Its solve rate is 0 or 1. No reward tells one proposal from another."""
    folder, _ = collapsed(tmp_path / "run", "--n-attempts", "1", "--total-steps", "12")
    assert logged(folder) == counted(folder)
    assert logged(folder)["no_learnability"] == [10, 11, 12]


@pytest.mark.slow
def test_the_steps_before_the_checkpoint_count(one, tmp_path):
    """Resumed in the middle of a stretch, and before one: the same rows, and each line once."""
    folder, said = one
    parts = [
        collapsed(tmp_path / "run", *ONE, "--total-steps", "12")[1],
        *(
            done_here("--resume", "--run-dir", str(tmp_path / "run"), "--total-steps", steps).stdout
            for steps in ("24", "36", "48")
        ),
    ]
    assert_equal_runs(folder, tmp_path / "run")
    wanted = [line for line in said.splitlines() if line.startswith("warning")]
    assert wanted and wanted == [
        line for part in parts for line in part.splitlines() if line.startswith("warning")
    ]


@pytest.mark.slow
def test_quiet_logs_it_and_says_nothing(one, tmp_path):
    folder, said = collapsed(tmp_path / "run", *ONE, "--total-steps", "48", "--quiet")
    assert said == "" and logged(folder) == logged(one[0])
    values = lines(folder / "metrics.jsonl")[-1]
    assert {panels(values)[key] for key in SYMPTOMS} <= {0, 1}  # as wandb gets them


# ---------------------------------------------------------------- the report


def test_what_the_page_says_of_a_stretch():
    rows = [EVALUATED] + [healthy(step, solve_rate__abduction=0.0) for step in range(1, 16)]
    rows += [healthy(step) for step in range(16, 31)]
    rows += [healthy(step, entropy__solver=0.0) for step in range(31, 45)]
    runs = [made_up(args=dict(batch_size=B), metrics=rows[:end]) for end in (31, 45)]
    table = [(row["what was seen"][:12], row["in steps"]) for row in warning_rows(runs)]
    never, sure = "no valid proposal of"[:12], "the solver's"
    assert table == [(never, "10 to 15"), (never, "10 to 15"), (sure, "40 to 44")]
    assert warned_stretches(runs) == [(10, 15), (40, 44)]
    assert warned_stretches(runs[:0]) == [] and warning_rows([made_up(metrics=rows[:3])]) == []


def test_stretches_that_touch_are_one():
    rows = [healthy(step, solve_rate__abduction=0.0) for step in range(1, 16)]
    rows += [healthy(step) for step in range(16, 45)]
    late = [
        healthy(step, solve_rate__abduction=0.0 if 7 <= step < 30 else 0.5) for step in range(1, 45)
    ]
    runs = [made_up(args=dict(batch_size=B), metrics=one) for one in (rows, late)]
    assert warned_stretches(runs) == [(10, 29)]


def test_a_band_covers_its_steps():
    layer = shade(UPDATE[0], [{"step": 0}, {"step": 20}], [(10, 15)])
    assert layer["data"]["values"] == [{"from": 9, "to": 15}]
    assert layer["encoding"]["x"]["field"] == "from" and layer["encoding"]["x2"]["field"] == "to"


@pytest.mark.slow
def test_the_report_has_a_band_in_every_chart_of_curves(one):
    folder, _ = one
    steps = {step for held in logged(folder).values() for step in held}
    charts = content_of(folder / "report.html")["charts"]
    curves = [chart for chart in charts if "layer" in chart and chart["layer"][-1].get("params")]
    assert len(curves) > 10
    for chart in curves:
        bands = chart["layer"][0]["data"]["values"]
        assert {step for band in bands for step in range(band["from"] + 1, band["to"] + 1)} == steps
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Warnings</h2>" in page
    assert SYMPTOMS["warning/one_problem_induction"].said in page
