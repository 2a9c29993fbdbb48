"""Chat templates that show a date get a clock that stands still, instead of the machine's.

A template asks `strftime_now("%d %B %Y")`, so its prompts would change at midnight, with the time zone,
and when a run resumes on another day. transformers gives templates only plain data, no functions. So the
clock is a macro of the same name, put in front of a template, that looks up each directive of a format.
"""

import re
from datetime import date, datetime, time

# On a line of its own, which Jinja removes: the template begins as it did.
_MACRO = (
    "{%- macro strftime_now(format) -%}{%- set shown = namespace(text=format) -%}"
    "{%- for directive, text in standing_clock -%}"
    "{%- set shown.text = shown.text | replace(directive, text) -%}"
    "{%- endfor -%}{{- shown.text -}}{%- endmacro %}\n"
)
_DIRECTIVE = r"%[-_0^#]?[A-Za-z]"
_PERCENT = "\0"  # for %%, while directives are replaced


def standing_clock(template: str | dict | None, day: date) -> dict:
    """Arguments for `apply_chat_template` with which a template's clock shows midnight of `day`; none if
    the template has no clock."""
    text = template.get("default") if isinstance(template, dict) else template
    if text is None or "strftime_now" not in text:
        return {}
    midnight = datetime.combine(day, time())
    directives = sorted(set(re.findall(_DIRECTIVE, text)))
    shown = [[directive, midnight.strftime(directive)] for directive in directives]
    clock = [["%%", _PERCENT], *shown, [_PERCENT, "%"]]
    return {"chat_template": _MACRO + text, "standing_clock": clock}
