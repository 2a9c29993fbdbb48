"""The rooms: who may import whom. Oracle: the order of layers, written out below."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the ground up: each layer may import itself and what stands before it. A name stands for a file
# or for a room with all that is in it; the longest name that fits decides.
LAYERS = [
    ("constants",),
    ("custom_types",),
    ("prompts", "prime_inversion"),
    ("compute", "utils"),
    ("utils.environments",),
    ("buffer",),
    ("model.flags", "model.presets", "model.args"),
    ("model.policy",),
    ("model.engine",),
    ("model.inference",),
    ("model.optimizer", "model.learner", "model.measures", "model.proposers", "model.trainer"),
    ("model.plan", "model.eval.evaluator", "model.eval.scores", "model.eval.prime_range"),
    ("model.checkpoint",),
    ("model.run",),
    ("model.report",),
    ("model.recording",),
    ("model.train", "model.play", "model.eval"),
]


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


def layer(module: str) -> int:
    """The number of a module's layer, 0 at the ground."""
    named = {name: number for number, names in enumerate(LAYERS) for name in names}
    fits = [name for name in named if module == name or module.startswith(f"{name}.")]
    assert fits, f"{module} has no place in the list of layers"
    return named[max(fits, key=len)]


def test_the_reader_of_imports_sees_them():
    # By hand, so that an empty answer cannot let everything pass.
    assert imports("compute.reward") == {"custom_types"}
    assert {"model.trainer", "model.run.resumption"} <= imports("model.train")
    assert len(project()) >= 20


def test_the_longest_name_decides():
    # By hand: the evaluator stands below the commands of its room.
    assert layer("model.eval.evaluator") < layer("model.run.logs") < layer("model.eval.baselines")
    assert layer("constants") == 0


@pytest.mark.parametrize("module", sorted(project()))
def test_no_import_runs_upward(module):
    upward = {name for name in imports(module) if layer(name) > layer(module)}
    assert not upward, f"{module} stands below {sorted(upward)}"


def test_every_layer_holds_something():
    named = [name for names in LAYERS for name in names]
    empty = [n for n in named if not any(m == n or m.startswith(f"{n}.") for m in project())]
    assert not empty and len(set(named)) == len(named)


def test_nobody_imports_a_command_or_a_mock():
    def is_command(module: str) -> bool:
        return "__main__" in project()[module].read_text(encoding="utf-8")

    commands = {module for module in project() if is_command(module)}
    assert {"model.train", "model.play", "model.eval.baselines"} <= commands
    closed = commands | {name for name in project() if name.startswith("utils.mocks.")}
    importers = {module: imports(module) & closed for module in project()}
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
     "utils.string_formatting", "utils.validate_by_executing", "utils.environments.environment",
     "utils.environments.for_trl"],
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
