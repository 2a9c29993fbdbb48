"""Tokenizers and templates that lose what a prompt says, and templates with a clock. Oracles: what was
done to a folder, the text of a rendered prompt, and a run on another day."""

import json
import re
import shutil
from datetime import date, datetime, time

import pytest
from helpers.chat_models import byte_tokenizer
from helpers.odd_models import SHAPE, SHORT, odd_model, said_of
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from model import train
from model.args import parse_args
from model.eval import baselines
from model.eval.finished import load_evaluator
from model.eval.study import conflict
from model.report.data import groups
from model.run.finished import read_runs
from prime_inversion import all_problems
from utils.template_clock import standing_clock

TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ BODY }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"  # fmt: skip
CLOCK = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y, %H:%M') }}<|im_end|>\n"


def turns(body: str = "m['content']") -> str:
    return TURNS.replace("BODY", body)


LOSSES = "its tokenizer and chat template must keep what a prompt says, and lose 'x * "
TEMPLATES = {
    "parts of content": (turns("(m['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join)"), LOSSES),
    "a loop over parts": (TURNS.replace("{{ BODY }}", "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"), LOSSES),
    "nothing of the user": (turns("m['content'] if m['role'] != 'user' else ''"), LOSSES),
    "upper case": (turns("m['content'] | upper"), "lose 'x * "),
    "without the sign": (turns("m['content'] | replace('≡', '=')"), "lose 'x * "),
    "cut off": (turns("m['content'][-300:]"), "must keep what a prompt says, and lose"),
    "a syntax error": ("{% for m in messages %}{{ m['content'] ", "cannot write a prompt (TemplateSyntaxError"),
    "an error": ("{{ raise_exception('only tools\nare served') }}", "cannot write a prompt (TemplateError: only tools)"),
    "an unknown filter": ("{{ messages | no_such_filter }}", "cannot write a prompt (TemplateAssertionError"),
    "chance": (turns() + "{{ range(10000) | random }}", "must write the same prompt each time"),
    "an end token": (turns() + "Go.<|im_end|>", "a prompt must not end as a response does, and its tokenizer ends one with '<|im_end|>'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_that_changes_what_is_asked_is_refused(tmp_path, capsys, kind):
    template, reason = TEMPLATES[kind]
    folder = odd_model(tmp_path / "model", "qwen2", template, **SHAPE)
    status, said = said_of(capsys, folder)
    assert status == 2 and said.startswith(f"--model {folder}: ") and reason in said
    assert baselines.main(["--model", str(folder), "--max-prime", "5"]) == 2
    assert reason.split(" (")[0].split("lose")[0] in capsys.readouterr().err


def test_named_templates_without_a_default_are_refused(tmp_path, capsys):
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"tool_use": turns(), "rag": turns()}
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    status, said = said_of(capsys, folder)
    assert status == 2 and "cannot write a prompt (ValueError" in said


def test_a_folder_without_its_tokenizer_is_refused(tmp_path, capsys):
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    for file in (*folder.glob("tokenizer*"), *folder.glob("chat*"), *folder.glob("special*")):
        file.unlink()
    assert said_of(capsys, folder)[0] == 2


def test_a_tokenizer_without_the_sign_is_refused(tmp_path, capsys):
    """Its words are the characters of ASCII."""
    folder = odd_model(tmp_path / "model", "llama", **SHAPE)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
    words = [*special, "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        unk_token="<unk>", additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    fast.chat_template = turns()
    fast.save_pretrained(folder)
    status, said = said_of(capsys, folder)
    assert status == 2 and LOSSES in said


@pytest.mark.slow
def test_a_tokenizer_that_appends_an_end_is_refused(tmp_path, capsys):
    """Where a template does not write it, a tokenizer adds it; with one it is not asked to."""
    folder = odd_model(tmp_path / "model", "llama", **SHAPE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [("<|im_end|>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "$A <|im_end|>", special_tokens=ids
    )
    for template, allowed in ((None, False), (turns(), True)):
        tokenizer.chat_template = template
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
        status, said = said_of(capsys, folder)
        assert (status == 0) == allowed, said
        assert allowed or "ends one with '<|im_end|>'" in said


def test_an_answer_that_holds_an_end_token_is_refused(tmp_path, capsys):
    """As one whose end token is a closing brace: every answer would lose it."""
    folder = odd_model(tmp_path / "model", "llama", **SHAPE)
    brace = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("}")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(
        json.dumps(settings | {"eos_token_id": [2, brace]})
    )
    status, said = said_of(capsys, folder)
    assert status == 2 and "its tokenizer must read '\\\\boxed{" in said


@pytest.mark.slow
def test_a_model_without_a_template_reads_the_text_itself(tmp_path, capsys):
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    assert said_of(capsys, folder) == (0, "")


# ---------------------------------------------------------------- a clock


@pytest.fixture
def clocked(tmp_path):
    return odd_model(tmp_path / "model", "qwen2", CLOCK + turns(), **SHAPE)


def first_prompt(run) -> str:
    return json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])["prompt"]


def short(run, *flags: str) -> int:
    return train.main([*SHORT, "--run-dir", str(run), "--quiet", *flags])


@pytest.mark.slow
def test_the_clock_of_a_template_stands_at_midnight_of_the_runs_date(clocked, tmp_path):
    run = tmp_path / "run"
    assert short(run, "--model", str(clocked), "--prompt-date", "2001-02-03") == 0
    assert "Today is 03 Feb 2001, 00:00<" in first_prompt(run)
    config = json.loads((run / "config.json").read_text())
    assert config["args"]["prompt_date"] == "2001-02-03"
    # It is resumed with its date, and evaluated with it.
    assert train.main(["--resume", str(run), "--total-steps", "2", "--quiet"]) == 0
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {1, 2}
    assert all("03 Feb 2001, 00:00" in row["prompt"] for row in rows)
    evaluator = load_evaluator(run)
    (problem, *_) = all_problems("deduction", 5, 5)
    ids = evaluator.renderer.solver(problem).ids
    assert "03 Feb 2001" in evaluator.policy.tokenizer.decode(ids)


@pytest.mark.slow
def test_a_run_keeps_the_day_it_began(clocked, tmp_path):
    """Without the flag it is today, and in the files; a run with yesterday's in its files stays there."""
    run = tmp_path / "run"
    before = date.today()
    assert short(run, "--model", str(clocked)) == 0
    kept = json.loads((run / "config.json").read_text())["args"]["prompt_date"]
    assert before <= date.fromisoformat(kept) <= date.today()
    day = date.fromisoformat(kept).strftime("%d %b %Y")
    assert f"Today is {day}, 00:00<" in first_prompt(run)
    trainer = json.loads((run / "checkpoints" / "step_000001" / "trainer.json").read_text())
    assert trainer["args"]["prompt_date"] == kept


@pytest.mark.slow
def test_another_date_is_another_run(clocked, tmp_path, capsys):
    run = tmp_path / "run"
    assert short(run, "--model", str(clocked), "--prompt-date", "2001-02-03") == 0
    again = ["--resume", str(run), "--total-steps", "2", "--quiet", "--prompt-date"]
    capsys.readouterr()
    assert train.main([*again, "2001-02-04"]) == 2
    assert capsys.readouterr().err == "--prompt-date 2001-02-04: must be 2001-02-03, as in the run that goes on\n"  # fmt: skip
    assert train.main([*again, "2001-02-03"]) == 0


@pytest.mark.parametrize(
    "text",
    ["yesterday", "2001-02-30", "20010203", "2001-2-3", "2001-W05-6", "03.02.2001", "", "2001-02-03T00:00"],
)  # fmt: skip
def test_what_is_no_date_is_refused(text, capsys):
    assert train.main(["--prompt-date", text]) == 2
    assert capsys.readouterr().err == f"--prompt-date {text}: must be a date as YYYY-MM-DD\n"


CLOCKS = {
    "many directives": "{{ strftime_now('%Y-%m-%d %B %a %j %H:%M:%S 100%% %-d') }}",
    "in a macro and a loop": "{% macro day() %}{{ strftime_now('%A') }}{% endmacro %}{% for n in range(2) %}{{ day() }}{{ strftime_now(format='%e') }}{% endfor %}",
    "guarded": "{% if strftime_now is defined %}{% set today = strftime_now('%d %b') %}{% else %}{% set today = '26 Jul' %}{% endif %}{{ today }}",
    "indented": "  {% if true %}\n{{ strftime_now('%x') }}\n  {% endif %}\n\n  -",
    "a first line that is empty": "\n\n  {{- strftime_now('%d') }}",
}  # fmt: skip


@pytest.mark.parametrize("kind", CLOCKS)
def test_a_standing_clock_shows_what_the_machines_would(kind):
    """Against transformers' own rendering of the same template on the same day, whose own clock has no
    midnight: formats with a time are compared with Python's."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CLOCKS[kind] + turns()
    messages = [{"role": "user", "content": "x"}]
    theirs = tokenizer.apply_chat_template(messages, tokenize=False)
    day = date.today()
    now = datetime.combine(day, time())
    ours = tokenizer.apply_chat_template(
        messages, tokenize=False, **standing_clock(tokenizer.chat_template, day)
    )
    assert re.sub(r"\d\d:\d\d:\d\d", "00:00:00", theirs) == ours
    if kind == "many directives":
        assert ours.startswith(now.strftime("%Y-%m-%d %B %a %j %H:%M:%S 100%% %-d"))


def test_a_template_without_a_clock_is_given_nothing():
    assert standing_clock(turns(), date.today()) == standing_clock(None, date.today()) == {}
    assert standing_clock({"rag": CLOCK}, date.today()) == {}


def test_runs_of_two_days_are_one_group_and_no_conflict(half, tmp_path):
    other = shutil.copytree(half, tmp_path / "other", symlinks=True)
    config = json.loads((other / "config.json").read_text())
    argv = ["--prompt-date", config["args"]["prompt_date"]]
    config["args"]["prompt_date"] = "2001-02-03"
    config["args"]["seed"] = 7
    (other / "config.json").write_text(json.dumps(config))
    assert len(groups(read_runs([half, other]))) == 1
    flags = [("--max-prime", "13"), ("--seed", "7")]
    wanted = parse_args([*sum(map(list, flags), []), *argv])
    for name, value in wanted.as_dict().items():
        if name not in ("run_dir", "quiet", "prompt_date"):
            config["args"][name] = value
    (other / "config.json").write_text(json.dumps(config))
    assert conflict(other, [*sum(map(list, flags), []), *argv]) is None
