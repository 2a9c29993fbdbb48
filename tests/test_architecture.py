"""The rooms: who may import whom. Oracle: the design's table, written out below."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAXIMUM_LINES = 300

TYPES = {"constants", "custom_types"}  # what the rooms above share
UTILS = TYPES | {"model.args"}
METHOD = {  # "all of the above" for the trainer: every room up to model/inference.py
    *TYPES, "prompts", "prime_inversion", "utils.string_formatting", "utils.validate_by_executing",
    "compute.reward", "compute.advantages", "compute.objective", "compute.schedule", "compute.estimates", "buffer.base_buff",
    "model.adapters", "model.args", "model.optimizer", "model.policy", "model.presets", "model.warm_start",
    "model.prefill", "model.likelihood", "model.inference", "model.proposers", "model.loading",
    "model.modes", "model.limits", "model.prompt_check", "model.probe", "model.origin",
}  # fmt: skip
ANY_UTILS = {
    "utils.allocator", "utils.checkpoints", "utils.commands", "utils.console", "utils.curriculum", "utils.curves", "utils.debug_grads", "utils.files",
    "utils.log_rows", "utils.logs",
    "utils.metrics", "utils.plots", "utils.prefix_tree", "utils.processes", "utils.random_states",
    "utils.recorder", "utils.report", "utils.report_charts", "utils.report_data", "utils.report_page", "utils.resumption", "utils.run_directory", "utils.signals", "utils.tables",
    "utils.threads", "utils.trackers",
}  # fmt: skip
NOBODYS = {
    "model.train", "model.eval.baselines", "model.eval.summary", "model.eval.study",
    "model.eval.collapse", "model.eval.report",
}  # fmt: skip

# module -> the project modules that it may import, as the design has them.
ROOMS = {
    "constants": set(),
    "custom_types": {"constants"},
    "prompts": {"custom_types"},
    "prime_inversion": TYPES,
    "utils.string_formatting": TYPES | {"prompts", "utils.template_clock"},
    "utils.template_clock": set(),
    "utils.validate_by_executing": TYPES | {"prime_inversion"},
    "compute.reward": {"custom_types"},
    "compute.advantages": {"custom_types"},
    "compute.objective": {"custom_types"},
    "compute.schedule": set(),
    "compute.estimates": set(),
    "buffer.base_buff": {"custom_types"},
    "model.flags": set(),
    "model.adapters": {"model.loading"},
    "model.origin": {"model.loading"},
    "model.args": {"constants"},
    "model.presets": {"constants"},
    "model.loading": {"constants"},
    "model.modes": set(),
    "model.limits": METHOD,
    "model.prompt_check": METHOD,
    "model.probe": METHOD,
    "model.policy": {"constants", "model.args", "prompts"},
    "model.warm_start": TYPES | {"prime_inversion", "utils.string_formatting", "model.args"},
    "model.prefill": set(),
    "model.likelihood": set(),
    "model.inference": {"custom_types", "model.args"},
    "model.optimizer": {"model.args"},
    "model.checkpoint": METHOD
    | ANY_UTILS
    | {"model.trainer", "model.eval.evaluator"},  # holds both
    "model.memory": {
        "model.inference",
        "model.prefill",
        "utils.prefix_tree",
    },  # counts what those hold
    "model.plan": METHOD | ANY_UTILS | {"model.memory"},
    "model.proposers": {*TYPES, "prime_inversion", "model.args", "utils.run_directory"},
    "model.trainer": METHOD | ANY_UTILS,
    "model.eval.evaluator": METHOD | ANY_UTILS,  # all but the trainer
    "model.eval.scores": METHOD | ANY_UTILS,
    "model.eval.contrasts": set(),
    "model.eval.study_results": METHOD | ANY_UTILS | {"model.eval.contrasts"},
    "utils.allocator": set(),
    "utils.checkpoints": set(),
    "utils.commands": UTILS | {"model.flags"},
    "utils.console": UTILS,
    "utils.curriculum": UTILS,
    "utils.curves": set(),
    "utils.debug_grads": UTILS,
    "utils.files": set(),
    "utils.log_rows": UTILS,
    "utils.logs": UTILS,
    "utils.metrics": UTILS,
    "utils.prefix_tree": set(),
    "utils.processes": set(),
    "utils.random_states": set(),
    "utils.signals": set(),
    "utils.plots": UTILS,
    "utils.recorder": UTILS,
    "utils.report": UTILS,
    "utils.report_charts": set(),
    "utils.report_data": UTILS,
    "utils.report_page": UTILS,
    "utils.resumption": UTILS,
    "utils.run_directory": UTILS,
    "utils.tables": UTILS,
    "utils.threads": set(),
    "utils.trackers": UTILS,
    "utils.mocks.mock_transformer": UTILS,
} | dict.fromkeys(
    NOBODYS,
    METHOD
    | ANY_UTILS
    | {"model.trainer", "model.plan", "model.checkpoint", "model.eval.evaluator"}
    | {"model.eval.scores", "model.eval.study_results", "model.flags"},
)

# What the code needs beyond that table, each with its reason.
ADDITIONS = {
    "buffer.base_buff": {
        "utils.prefix_tree",  # what rows share is packed once, here and ...
        "utils.random_states",  # its generator is part of its state
    },
    "model.prefill": {"utils.prefix_tree"},  # ... when prompts are read
    "model.inference": {
        "model.likelihood",  # what its distribution is, with its gradient
        "model.prefill",
        "utils.processes",  # which split the rows
    },
    "model.args": {"model.flags", "model.presets"},  # the general part, and the defaults
    "model.policy": {
        "custom_types",
        "model.adapters",  # returns a `Policy`, with adapters
        "model.loading",  # of which it is all there
        "model.modes",
        "model.origin",  # and what it was before it had adapters
        "model.presets",  # knows by the language what a policy needs
    },
    "model.warm_start": {
        "prompts"
    },  # writes equations of arbitrary numbers, which are no `Problem`
    "utils.validate_by_executing": {
        "utils.string_formatting"
    },  # text in: it parses before it judges
    "utils.metrics": {"prime_inversion"},  # shows the guess rate beside the solve rate
    "utils.checkpoints": {"utils.files"},  # a folder is complete or not there
    "utils.log_rows": {"prime_inversion"},  # a problem has one of the run's primes
    "utils.logs": {"utils.files"},  # keeps what it wrote
    "utils.plots": {
        "utils.commands",  # where it may write
        "utils.curriculum",
        "utils.curves",
        "utils.run_directory",
        "prime_inversion",
    },  # draws what a run directory holds, and the chance level
    "utils.recorder": {
        "utils.checkpoints",
        "utils.console",
        "utils.log_rows",
        "utils.logs",
        "utils.plots",
        "utils.report",
        "utils.resumption",
        "utils.run_directory",
        "utils.trackers",
    },  # one object for all that a run writes
    "utils.report": {
        "prime_inversion",  # its maps have a row for each prime of the range
        "utils.files",  # replaces a file at one blow
        "utils.report_charts",
        "utils.report_data",
        "utils.report_page",
    },
    "utils.report_page": {"utils.report_charts", "utils.report_data"},  # holds both
    "utils.report_charts": {
        "utils.curriculum",  # the same scale of shares
        "utils.plots",  # marks points as few
        "utils.report_data",  # draws cells of its grid
    },
    "utils.report_data": {
        "compute.reward",  # what a solve rate earns
        "utils.curriculum",  # the phases of a run
        "utils.run_directory",
        "utils.tables",  # names of blocks
    },
    "utils.run_directory": {
        "utils.checkpoints",
        "utils.files",
        "utils.log_rows",
        "utils.logs",
    },  # the parts of the folder
    "utils.resumption": {
        "utils.checkpoints",
        "utils.log_rows",
        "utils.logs",
        "utils.run_directory",
    },  # where there is a run
    "utils.curriculum": {"prime_inversion"},  # has a row for each prime of the range
}


@cache
def project() -> dict[str, Path]:
    """Every module of the program by its dotted name; tests are not among them."""
    packages = [folder for folder in ROOT.iterdir() if (folder / "__init__.py").exists()]
    files = [*ROOT.glob("*.py"), *(file for folder in packages for file in folder.rglob("*.py"))]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name: file for name, file in names.items() if file.name != "__init__.py"}


@cache
def imports(module: str) -> set[str]:
    """The project modules that a module imports anywhere in its text, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(project()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    packages = {name.rpartition(".")[0] for name in project()}
    assert not {name for name in found if name.endswith(".*") and name[:-2] in packages}
    return found & project().keys()


def test_the_reader_of_imports_sees_them():
    # By hand, so that an empty answer cannot let everything pass.
    assert imports("compute.reward") == {"custom_types"}
    assert "model.trainer" in imports("model.train") and "buffer.base_buff" in imports(
        "model.trainer"
    )
    assert len(project()) >= 20


@pytest.mark.parametrize("module", sorted(project()))
def test_each_file_imports_what_its_room_may(module):
    assert module in ROOMS, f"{module} has no row in the table of rooms"
    extra = imports(module) - ROOMS[module] - ADDITIONS.get(module, set())
    assert not extra, f"{module} may not import {sorted(extra)}"


def test_every_addition_to_the_table_is_in_use():
    unused = {module: names - imports(module) for module, names in ADDITIONS.items()}
    assert not any(unused.values()), unused
    assert not any(names & ROOMS[module] for module, names in ADDITIONS.items())


def test_every_file_of_the_table_exists():
    planned = {"model.eval.study", "model.eval.report"}
    assert set(ROOMS) - planned <= project().keys()


def test_nobody_imports_the_commands_or_the_mocks():
    mocks = {name for name in project() if name.startswith("utils.mocks.")}
    importers = {module: imports(module) & (NOBODYS | mocks) for module in project()}
    assert not any(importers.values()), importers


def test_data_moves_in_one_direction():
    # Raises CycleError where two files import each other, directly or through others.
    order = list(
        TopologicalSorter({module: imports(module) for module in project()}).static_order()
    )
    assert (
        order.index("custom_types") < order.index("compute.reward") < order.index("model.trainer")
    )


@pytest.mark.parametrize(
    "module",
    ["constants", "custom_types", "prompts", "prime_inversion", "compute.reward", "model.args",
     "utils.string_formatting", "utils.validate_by_executing"],
)  # fmt: skip
def test_rooms_without_tensors_load_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_model_text_is_never_executed():
    for module, file in project().items():
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        called = {
            node.func.id
            for node in nodes
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "sympify", "parse_expr"}, module


def test_no_file_is_too_long():
    files = [*project().values(), *(ROOT / "tests").rglob("*.py")]
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in files
    }
    assert not {name: count for name, count in lines.items() if count > MAXIMUM_LINES}
