"""From `ReportData` to one HTML file: no network, no outside files, below 5 MB.

The page is rendered twice: first without pictures, to see how much room the text takes, then with as many
pictures as fit into what is left.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from tunesmith_trainer.publish.report import commands, figures, formats, pictures, summary, tables
from tunesmith_trainer.publish.report.charts import glyphs
from tunesmith_trainer.publish.report.charts import search as charts
from tunesmith_trainer.publish.report.data import GateResult, ReportData
from tunesmith_trainer.publish.report.palette import THEMES

LARGEST_BYTES = 4_900_000
"""The page is smaller than this, whatever is in it: a little below the promised 5 MB."""
MOST_CONFUSED = 10
MOST_FINDINGS = 40
IMAGE_ELEMENT_BYTES = 200
"""An <img> takes fewer bytes than this, its data apart, beyond the words that stand in its place."""
LONGEST_CODE = 40_000

SECTIONS = (
    ("summary", "Summary"),
    ("data", "What went in"),
    ("search", "The search"),
    ("quality", "How good it is"),
    ("mistakes", "Worst mistakes"),
    ("suspects", "Suspected labels"),
    ("gates", "Gates"),
    ("serve", "How to use it"),
    ("reproduce", "How to get it again"),
)


class ReportTooLarge(ValueError):
    """The text alone takes more room than the page may have."""


@dataclass(frozen=True)
class Detail:
    """How much of an enormous run the page tells: characters of a string, rows of a table."""

    text: int
    rows: int


DETAILS = (Detail(600, 500), Detail(160, 200), Detail(48, 60))
"""An ordinary run, even of ten thousand trials, gets the first; the others are for names of absurd length."""


def render_report(data: ReportData, *, largest_bytes: int = LARGEST_BYTES) -> str:
    """Render the report.

    Args:
        data: Everything it says.
        largest_bytes: The page takes fewer bytes than this as UTF-8. Pictures that do not fit are left out,
            the least telling first; text is cut where it would leave them less than half of the page.

    Returns:
        A whole HTML document.

    Raises:
        ReportTooLarge: Not even the shortest text fits, which takes a limit far below the default.
    """
    template = _environment().get_template("report.html")
    for detail in DETAILS:
        context = _context(data, detail)
        bare = len(template.render(context, pictures={}).encode())
        if bare < largest_bytes / 2:
            break
    if bare >= largest_bytes:
        raise ReportTooLarge(f"the report's text takes {bare} bytes, and the page may have {largest_bytes}")
    wanted = pictures.wanted_pictures(data)
    budget = largest_bytes - bare - IMAGE_ELEMENT_BYTES * len(wanted)
    return template.render(context, pictures=pictures.embed(wanted, max(budget, 0)))


def _context(data: ReportData, detail: Detail) -> dict[str, Any]:
    style, script = _style(), _asset("report.js")
    return {
        "data": data,
        "detail": detail,
        "style": Markup(style),
        "script": Markup(script),
        "policy": content_security_policy(style, script),
        "sections": SECTIONS,
        "absent": dict(data.absent),
        "commands": commands,
        "digest_word": commands.DIGEST_WORD,
        "mark": figures.legend_mark,
        "charts": figures.draw(data),
        **_summary(data),
        **_dataset(data),
        **_search(data, detail),
        **_quality(data, detail),
        **_photos(data),
        "reproduction": (
            (data.reproduction.digests, "Digests"),
            (_seeds(data), "Seeds"),
            (data.reproduction.versions, "Versions"),
            (data.reproduction.machine, "Machine"),
        ),
    }


def _summary(data: ReportData) -> dict[str, Any]:
    gates_of: dict[str, list[GateResult]] = {}
    for gate in data.gates:
        gates_of.setdefault(gate.metric, []).append(gate)
    return {
        "lede": summary.lede(data),
        "remarks": summary.worth_knowing(data),
        "intervals_note": formats.intervals_note(data.quality.metrics),
        "gates_of": gates_of,
        "bounds": {gate.metric: gate.bound for gate in reversed(data.gates) if gate.bound is not None},
    }


def _dataset(data: ReportData) -> dict[str, Any]:
    findings = list(enumerate(data.dataset.findings))
    return {
        "samples": data.dataset.samples[: pictures.MOST_SAMPLES],
        "findings": [(index, finding) for index, finding in findings if finding.count][:MOST_FINDINGS],
        "clean_checks": [formats.words(finding.check) for _, finding in findings if not finding.count][
            :MOST_FINDINGS
        ],
    }


def _search(data: ReportData, detail: Detail) -> dict[str, Any]:
    search = data.search
    tuned = figures.fine_tunes(data)
    _, (_, highest_loss) = figures.curve_ranges(tuned)
    varied = summary.varied_parameters(search.trials)
    first = search.trials[0].parameters if search.trials else ()
    tried = summary.proposed(search.trials)
    states = Counter(trial.state for trial in tried)
    return {
        "tried": len(tried),
        "trials": tables.trial_table(search, data.model.trial, detail.rows),
        "states": [(state.lower(), number) for state, number in states.most_common()],
        "saving": summary.early_stopping_saving(search.trials),
        "curves_left_out": max(len(tuned) - figures.MOST_CURVES, 0),
        "marks_thinned": len(search.trials) > charts.MOST_MARKS,
        "beyond": any(charts.beyond_scale(search, metric) for metric in tables.trial_metrics(search)[:2]),
        "losses_cut": formats.number(highest_loss, 2) if charts.beyond_losses(tuned, highest_loss) else "",
        "parallel_note": _parallel_note(data),
        "constant": [(name, formats.setting(value)) for name, value in first if name not in varied][:20],
        "total_time": formats.seconds(sum(value for _, value in search.timings)),
    }


def _parallel_note(data: ReportData) -> str:
    """What the parallel coordinates leave out, a sentence or nothing."""
    measured, trials = len(figures.drawn_trials(data)), len(data.search.trials)
    notes = []
    if measured < trials:
        notes.append(f"{formats.plural(trials - measured, 'trial')} without a result cannot be drawn.")
    if measured > figures.MOST_LINES:
        notes.append(f"Drawn are the best {figures.MOST_LINES}.")
    return " ".join(notes)


def _quality(data: ReportData, detail: Detail) -> dict[str, Any]:
    quality = data.quality
    confused = summary.confused_pairs([each.name for each in data.dataset.classes], quality.confusion)
    return {
        "shown_classes": len(figures.shown_classes(data)),
        "confused": confused[:MOST_CONFUSED],
        "confused_left_out": max(len(confused) - MOST_CONFUSED, 0),
        "reliability": tables.reliability_table(quality.reliability),
        "classes": tables.class_table(quality, detail.rows),
        "slices": tables.slice_table(quality, detail.rows),
        "corruptions": tables.corruption_table(quality.corruptions, quality.clean_accuracy),
    }


def _photos(data: ReportData) -> dict[str, Any]:
    names = {
        "cam": "class activation mapping (Zhou et al. 2016)",
        "occlusion": "occlusion (Zeiler and Fergus 2014)",
    }
    mistakes, suspects = data.mistakes[: pictures.MOST_MISTAKES], data.suspects[: pictures.MOST_SUSPECTS]
    return {
        "mistakes": mistakes,
        "mistakes_left_out": max(summary.mistake_count(data) - len(mistakes), 0),
        "methods": sorted(
            {names.get(mistake.method, mistake.method) for mistake in mistakes if mistake.method}
        ),
        "suspects": suspects,
        "suspects_left_out": data.suspect_count - len(suspects),
    }


def _seeds(data: ReportData) -> tuple[tuple[str, str], ...]:
    run_key = data.reproduction.run_key
    return (*((("run key", run_key),) if run_key else ()), *data.reproduction.seeds)


def content_security_policy(style: str, script: str) -> str:
    """A policy that allows this style sheet, this script and embedded pictures, and nothing else.

    Hashes instead of 'unsafe-inline': even a script that slipped through the escaping would not run.
    """
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)
    )
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'"
    )


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def _style() -> str:
    """The colours of both themes, then the style sheet."""

    def variables(theme: str) -> str:
        return f"color-scheme:{theme};" + "".join(
            f"--{name}:{value};" for name, value in THEMES[theme].items()
        )

    steps = range(7)
    heat = "".join(
        f".{short}{step}{{fill:var(--{name}-{step})}}.{short}t{step}{{fill:var(--on-{name}-{step})!important}}"
        for short, name in (("h", "heat"), ("w", "warm"))
        for step in steps
    )
    cells = "".join(
        f".wb{step}{{background:var(--warm-{step});color:var(--on-warm-{step})}}" for step in steps
    )
    return (
        f":root{{{variables('light')}}}\n"
        f"@media (prefers-color-scheme: dark){{:root:not([data-theme=light]){{{variables('dark')}}}}}\n"
        f":root[data-theme=dark]{{{variables('dark')}}}\n"
        f"{heat}\n{cells}\n{_asset('report.css')}"
    )


def _code(text: str) -> Markup:
    """Escape code to be copied; the digest's place becomes an element that the script can fill."""
    slot = Markup("<span data-digest>{}</span>").format(commands.DIGEST_WORD)
    return escape(formats.printable(text, LONGEST_CODE)).replace(commands.DIGEST, slot)


def _breakable(path: str, limit: int) -> Markup:
    """A path cut to `limit` characters that may be broken after its separators."""
    shown = escape(formats.printable(formats.clip_middle(path, limit)))
    return Markup(re.sub(r"(?<=[/_-])(?=[^/_-])", "<wbr>", str(shown)))


def _moment(iso: str) -> str:
    """2026-01-31T12:00:00Z -> 31 January 2026, 12:00 UTC; anything else stays as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".rstrip()


@pass_context
def _shown(context: Context, value: object) -> object:
    """What every `{{ }}` passes through: strangers' strings are cut to a length and made printable."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return formats.printable(value, context["detail"].text)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    filters: Mapping[str, Any] = {
        "code": _code,
        "moment": _moment,
        "count": formats.count,
        "plural": formats.plural,
        "percent": formats.percent,
        "number": formats.number,
        "seconds": formats.seconds,
        "size": formats.size,
        "words": formats.words,
        "title_words": formats.title,
        "breakable": _breakable,
        "name": formats.name,
        "strategy_label": formats.strategy_label,
        "metric_label": formats.metric_label,
        "metric_value": formats.metric_value,
        "metric_interval": formats.metric_interval,
        "estimate_value": lambda estimate: formats.metric_value(estimate.metric, estimate.value),
        "interval_glyph": glyphs.interval,
        "lower_first": lambda text: text[:1].lower() + text[1:],
    }
    environment.filters.update(filters)
    return environment
