"""The README against the program. Oracle: the dataclass, the presets, the files it names."""

import re
from dataclasses import fields
from textwrap import indent

from constants import CARDS, ROOT, SMOLLM2_INSTALL
from model.args import AZRArgs, parse_args
from model.plan.plan import plan
from model.presets import CHAT_PRESET, LORA_PRESET, SMOLLM2_PRESET

README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown(value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def flag_table() -> str:
    """The README's table of flags: what each preset has, and the help."""
    lines = ["| flag | tiny | smollm2 | chat models | |", "|---|---|---|---|---|"]
    for item in fields(AZRArgs):
        presets = ({}, SMOLLM2_PRESET, CHAT_PRESET)
        values = [shown(preset.get(item.name, item.default)) for preset in presets]
        if item.name == "model":
            values[1:] = ["smollm2", ""]
        flag = f"`--{item.name.replace('_', '-')}`"
        lines.append(f"| {flag} | {' | '.join(values)} | {item.metadata['help']} |")
    return "\n".join(lines)


def test_the_table_of_flags_is_that_of_the_dataclass():
    assert flag_table() in README


def test_cards_and_their_presets_are_named():
    assert all(f"`{card}`" in README for card in CARDS)
    for name, value in LORA_PRESET.items():
        assert f"`--{name.replace('_', '-')} {shown(value)}`" in README, name


def test_the_line_that_installs_smollm2_is_there():
    assert f"    {SMOLLM2_INSTALL}\n" in README


def test_every_picture_and_folder_it_names_exists():
    named = re.findall(r'src="([^"]+)"', README) + re.findall(r"`(diagrams/[\w./]+)`", README)
    assert len(named) > 5
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_plan_it_shows_is_the_plan():
    text, fits = plan(parse_args(["--plan"]))
    assert fits and indent(text, "    ") in README
