"""Playing against a policy. Oracles: the space of problems, the model's own forward pass, and what a person
sees in a real terminal and through a pipe."""

import io
import math
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from test_cli import command

from constants import ROOT
from custom_types import TASKS, Problem, TaskType, Verdict
from model import play
from model.checkpoint import save_policy
from model.engine.probe import logprobs_alone
from model.eval.asking import ProblemError, answer, printable, propose, read_problem, right_answers
from model.eval.evaluator import Evaluator
from model.eval.finished import load_asked, load_evaluator, trained_args
from model.run.checkpoints import pointed_at
from prime_inversion import all_problems
from utils.string_formatting import format_answer, format_equation

DEDUCTION = Problem(TaskType.DEDUCTION, 2, 4, 7)
LINES = ["2 * y ≡ 1 (mod 7)", r"\boxed{x * 4 = 1 (mod 7)}", "2 * 4 = 1 (mod p)", "", "rubbish"]
LINES += ["2 * y = 1 (mod 9)", "propose induction", "propose nothing", "help"]


def test_every_problem_is_read_in_each_form():
    for problem in (problem for task in TASKS for problem in all_problems(task, 5, 31)):
        written = format_equation(problem)
        for line in (written, written.replace("≡", "="), format_answer(written), f" {written}\t"):
            assert read_problem(line, 5, 31) == problem


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 * y = 1 (mod 9)", "must have for p a prime from 5 to 31, and a number from 1 to p - 1"),
        ("x * 7 = 1 (mod 7)", "must have for p a prime from 5 to 31, and a number from 1 to p - 1"),
        ("2 * y = 1 (mod 37)", "must have for p a prime from 5 to 31"),
        ("1 * 1 = 1 (mod p)", "must have a prime from 5 to 31 that fits and is larger than both"),
        ("2 * 4 = 1 (mod 7)", "must be a problem as "),
        ("x * y = 1 (mod p)", "must be a problem as "),
        ("2 * z = 1 (mod 7)", "must be a problem as "),
        (r"\boxed{", "must be a problem as "),
        ("9" * 10**6, "must be a problem as "),
        ("\x1b[2J\udc80", "must be a problem as "),
    ],
)
def test_what_is_no_problem_is_one_sentence(line, said):
    with pytest.raises(ProblemError) as caught:
        read_problem(line, 5, 31)
    sentence = str(caught.value)
    assert said in sentence and len(sentence) < 300 and sentence.isprintable()


def test_all_right_answers():
    """By hand: 7 * 8 - 1 = 55 = 5 * 11; 2 * 4 - 1 = 7."""
    assert right_answers(Problem(TaskType.INDUCTION, 7, 8, 11), 5, 31) == (5, 11)
    assert right_answers(Problem(TaskType.INDUCTION, 7, 8, 11), 7, 31) == (11,)
    assert right_answers(DEDUCTION, 5, 31) == (4,)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_probability_is_that_of_the_model_itself(warm_tiny, temperature):
    """Of its greedy answer, of what is right, and of a proposal: whole sequences, without cache. `tiny`
    answers at once, so what it may write adds up to at most 1."""
    policy, renderer, args = warm_tiny
    evaluator = Evaluator(policy, renderer, replace(args, temperature=temperature))

    def own(rollout) -> float:
        (length,) = [len(rollout.response_ids)]
        ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
        with torch.no_grad():
            z = policy.model(input_ids=ids).logits[0, -length - 1 : -1] / temperature
        chosen = z.log_softmax(-1).gather(1, torch.tensor(rollout.response_ids)[:, None])
        return float(chosen.sum().exp())

    found = answer(evaluator, DEDUCTION)
    assert found.probability == pytest.approx(own(found.judged.rollout), rel=1e-4)
    (text,) = found.of_right
    assert text == r"\boxed{4}"
    right = evaluator.written(DEDUCTION, text)
    assert evaluator.judge(right).verdict is Verdict.CORRECT
    assert found.of_right[text] == pytest.approx(own(right), rel=1e-4)
    if temperature == 1:
        alone = sum(logprobs_alone(policy.model, right).tolist())
        assert found.of_right[text] == pytest.approx(math.exp(alone), rel=1e-4)
    every = [evaluator.written(DEDUCTION, format_answer(n)) for n in range(14)]
    total = sum(map(math.exp, evaluator.logprobs(every)))
    assert 0.5 < total <= 1 + 1e-5  # it was taught the form
    proposal = propose(evaluator, TaskType.ABDUCTION)
    assert proposal.probability == pytest.approx(own(proposal.judged.rollout), rel=1e-4)


def test_what_a_model_writes_does_not_move_the_cursor():
    assert printable("a\x1b[2Jb\r\nc ≡\u202e") == "a\\x1b[2Jb\\r\nc ≡\\u202e"


def test_ctrl_c_stops_an_answer_and_not_the_game(warm_tiny, monkeypatch, capsys):
    class Interrupted(Evaluator):
        def solve(self, problems, *, temperature=0.0):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.StringIO("2 * y = 1 (mod 7)\nhelp\n"))
    assert play.play(play.Player(Interrupted(*warm_tiny), None)) == 0
    stopped, *rest = capsys.readouterr().out.splitlines()
    assert stopped == "stopped" and "\n".join(rest) == play.HELP


@pytest.mark.slow
def test_a_run_a_checkpoint_and_a_pointer_are_one_policy(half):
    checkpoint = half / "checkpoints" / "step_000020"
    found = []
    for model in (half, checkpoint, half / "checkpoints" / "latest"):
        assert trained_args(model) == trained_args(half)
        evaluator = load_evaluator(model)
        rollouts = evaluator.solve(all_problems(TaskType.DEDUCTION, 5, 13))
        found.append([rollout.text for rollout in rollouts])
    assert found[0] == found[1] == found[2] and pointed_at(half / "checkpoints" / "best") != half
    policy, args = load_asked(checkpoint, max_prime=11, seed=3)
    assert (args.max_prime, args.seed, args.min_prime) == (11, 3, 5)
    assert policy.name == str(checkpoint)


@pytest.mark.slow
def test_through_a_pipe(half, tmp_path):
    """No prompt is printed; each line has its reply, and the end of the input is the end."""
    process = subprocess.run(
        [sys.executable, str(ROOT / "model" / "play.py"), str(half)], cwd=tmp_path,
        input="\n".join(LINES).encode() + b"\n\xff\xfe\n", capture_output=True,
    )  # fmt: skip
    out = process.stdout.decode()
    assert (process.returncode, process.stderr) == (0, b"") and "> " not in out
    assert out.startswith(f"{half}: primes 5 to 13; ")
    asked = re.findall(r"^asked +(.+)$", out, re.M)
    assert asked[:3] == ["2 * y ≡ 1 (mod 7)", "x * 4 ≡ 1 (mod 7)", "2 * 4 ≡ 1 (mod p)"]
    assert len(asked) == 5 and asked[4] == "a problem of induction, in which p is asked"
    right = re.findall(r"^right +(.+)$", out, re.M)
    assert right[:3] == ["y = 4", "x = 2", "p = 7"]
    shares = [float(share) for share in re.findall(r"^probability +(\S+) of this", out, re.M)]
    assert len(shares) == 5 and all(0 < share <= 1 for share in shares)
    for verdict, wrote in re.findall(r"^answer +(.*)\nverdict +(\w+)", out, re.M):
        assert wrote in {"correct", "wrong", "malformed"}, verdict
    assert "rubbish: must be a problem as " in out and "propose nothing: must be propose " in out
    assert "2 * y = 1 (mod 9): must have for p a prime from 5 to 13" in out and play.HELP in out
    again = command(str(half), "--seed", "3", cwd=tmp_path, script="model/play.py")
    assert (again.returncode, again.stderr) == (0, "")  # an empty input


def heed_ctrl_c() -> None:
    """In a new process, whose parent may ignore it, as what a shell started in the background does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """play.py in a terminal of its own, where Ctrl-C is a signal."""

    def __init__(self, *argv: str):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            heed_ctrl_c()
            os.environ["TERM"] = "dumb"
            program = str(ROOT / "model" / "play.py")
            os.execv(sys.executable, [sys.executable, program, *argv])

    def until(self, sign: str, patience: float = 120) -> str:
        """What it shows up to a sign, and the sign."""
        seen, end = "", time.monotonic() + patience
        while sign not in seen:
            assert time.monotonic() < end, seen
            if select.select([self.file], [], [], 1)[0]:
                seen += os.read(self.file, 4096).decode(errors="replace")
        return seen

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def ended(self, typed: str, patience: float = 240) -> int:
        """Its exit status after what is typed; typed again where nothing follows for half a minute, as a
        person would: Python misses a Ctrl-C that comes between its prompt and its wait for a line."""
        end = time.monotonic() + patience
        while True:
            self.type(typed)
            while select.select([self.file], [], [], 30)[0]:
                try:
                    gone = not os.read(self.file, 4096)
                except OSError:  # the other side is gone
                    gone = True
                if gone:
                    _, status = os.waitpid(self.pid, 0)
                    os.close(self.file)
                    return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "status"), [("\x04", 0), ("\x03", 128 + signal.SIGINT), ("quit\r", 0)]
)
def test_in_a_terminal(half, typed, status):
    """A prompt, a reply with its title's column, a sentence, and each way out."""
    terminal = Terminal(str(half))
    assert "type a problem, or help" in terminal.until(play.PROMPT)
    terminal.type("2 * y = 1 (mod 7)\r")
    shown = terminal.until("\n" + play.PROMPT)
    assert "asked        2 * y ≡ 1 (mod 7)\r\nanswer       " in shown
    assert "\r\nright        y = 4\r\n" in shown
    assert re.search(r"probability  \S+ of this answer; of \\boxed\{4\} \S+\r\n", shown)
    terminal.type("propose deduction\r")
    shown = terminal.until("\n" + play.PROMPT)
    assert "proposal     " in shown and "of this proposal" in shown
    terminal.type("what?\r")
    assert "what?: must be a problem as " in terminal.until("\n" + play.PROMPT)
    assert terminal.ended(typed) == status


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "RUN: must be given"),
        (["a", "b"], "RUN a b: must be one of them"),
        (["no/such-model"], "RUN no/such-model: is no local folder and cannot be had from"),
        (["/no/such"], "use tiny, a local folder, or a hub id"),
        (["x" * 300], "RUN xxx"),
        (
            ["tiny", "--temperature", "1e-39"],
            "--temperature 1e-39: must be a number from 0.01 to 100 or 0",
        ),
        ([str(ROOT / "diagrams/runs/seed0")], "seed0: is no run directory with a finished"),
        (["tiny", "--max-prime", "618"], "--max-prime 618: must be an integer from 5 to 617"),
        (["tiny", "--min-prime", "24", "--max-prime", "28"], "28: there must be a prime"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(argv, said, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read once, at import
    assert play.main(argv) == 2
    out, error = capsys.readouterr()
    assert out == "" and said in error and len(error.strip().splitlines()) == 1


def test_a_folder_as_it_is_uploaded_is_asked_in_the_range_of_its_words(warm_tiny, tmp_path, capsys):
    """Without the arguments of its run, which had primes to 13."""
    policy, _, args = warm_tiny
    save_policy(policy, tmp_path, lora_rank=0)
    evaluator = load_evaluator(tmp_path)
    assert evaluator.args.max_prime == args.max_prime == 13
    assert len(evaluator.solve(all_problems(TaskType.DEDUCTION, 5, 13))) > 0
    assert play.main([str(tmp_path), "--max-prime", "17"]) == 2
    assert "--max-prime 17: must be at most 13, the largest prime that " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("around", "status", "said"),
    [
        ("yes '' | {} | head -1", 0, ""),
        ("{} < /dev/null > /dev/full", 2, "stdout: No space left on device"),
        ("{} < /dev/null >&-", 2, "stdout: must be open"),
        ("{} <&-", 2, "stdin: must be open"),
    ],
)
def test_whatever_becomes_of_its_words_it_leaves_no_traceback(half, around, status, said):
    program = f"{shlex.quote(sys.executable)} {ROOT / 'model' / 'play.py'} {half}"
    done = subprocess.run(
        ["sh", "-c", around.format(program)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr.strip()) == (status, said)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["model/play.py", "model/train.py"])
def test_ctrl_c_while_it_loads_says_nothing(command, tmp_path):
    """At the first import of torch, where a module of its name waits for the signal."""
    (tmp_path / "torch.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(300)\n")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / command), "--help"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=300) == ("", "") and process.returncode == -signal.SIGINT


def test_a_checkpoint_of_another_version_is_one_sentence(tmp_path, capsys):
    for text, said in (
        ('{"args": {"no_such": 1}}', "trainer.json: has no_such, which this version does not know"),
        ('{"args": {"max_prime": "auto"}}', "has max_prime auto, which the run had not yet decided"),
        ("{}", "trainer.json: must hold the arguments of a run"),
        ("[", "trainer.json: cannot be read"),
    ):  # fmt: skip
        (tmp_path / "trainer.json").write_text(text)
        assert play.main([str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
