"""MODEL_CARD.md: what the report says, in short and in Markdown (Mitchell et al. 2019, Model Cards).

The front matter follows the Hugging Face Hub's, so that model registries can index the card. Every string
from outside is escaped: a class called `# Title` stays a class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from tunesmith_trainer.publish.report import commands, formats, summary
from tunesmith_trainer.publish.report.data import Estimate, ReportData

MOST_CLASSES = 30
MOST_FINDINGS = 20
# What has a meaning in CommonMark or GitHub's Markdown: markup anywhere, lists and headings at the beginning,
# addresses and mentions that would become links.
_SPECIAL = re.compile(r"([\\`*_\[\]<>|&~$@]|^[#+=-]|(?<=^\d)[.)]|:(?=//)|(?<=www)\.)")


def render_card(data: ReportData) -> str:
    """Render MODEL_CARD.md from what the report is drawn from.

    Args:
        data: As for `render_report`.

    Returns:
        Markdown (CommonMark with tables) with a YAML front matter.
    """
    sections = (
        f"---\n{_front_matter(data)}---",
        f"# {_safe(data.name)}",
        _verdict(data),
        _model(data),
        _use(data),
        _measured(data),
        _weak_points(data),
        _training_data(data),
        _search(data),
        _reproduction(data),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _safe(text: str) -> str:
    """A stranger's string as Markdown text: one line, nothing in it has a meaning."""
    line = " ".join(formats.printable(text, 300).split())
    return _SPECIAL.sub(r"\\\1", line)


def _code(text: str) -> str:
    """A stranger's string as code: fenced by one more backtick than it holds in a row."""
    line = " ".join(formats.printable(text, 300).split()) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _block(language: str, text: str) -> str:
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    body = formats.printable(text, 40_000).replace(commands.DIGEST, commands.DIGEST_WORD).rstrip()
    return f"{fence}{language}\n{body}\n{fence}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _front_matter(data: ReportData) -> str:
    """Metadata that model registries read."""
    metrics = [
        {"type": estimate.metric, "value": round(estimate.value, 6), "verified": data.verified}
        for estimate in data.quality.metrics
        if formats.known(estimate.value)
    ]
    front: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": [
            "tunesmith",
            "image-classification",
            "transfer-learning",
            formats.printable(data.model.backbone, 60),
        ],
        "model-index": [
            {
                "name": formats.printable(data.name, 60),
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "name": formats.printable(data.dataset.uri, 200),
                            "type": "image-classification",
                            "split": "test",
                            "revision": formats.printable(data.dataset.digest, 80),
                        },
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def _verdict(data: ReportData) -> str:
    state = "Verified." if data.verified else "**Not verified: nothing will serve this model.**"
    gates = () if data.verified else data.unexplained_gates
    failed = "".join(f"\n- {_safe(gate.message)}" for gate in gates)
    return f"{state} {_safe(data.verdict)}{failed and chr(10) + failed}\n\n{_safe(summary.lede(data))}"


def _model(data: ReportData) -> str:
    model = data.model
    weights = f", pretrained weights {_code(model.weights)}" if model.weights else ""
    classes = formats.plural(len(data.dataset.classes), "class", "classes")
    resize = "the middle square" if model.resize == "CenterCrop" else "squashed to a square"
    return "\n".join(
        (
            "## Model",
            "",
            f"- Backbone: {_code(model.backbone)}{weights}, {formats.strategy_label(model.strategy)}",
            f"- Input: RGB, {model.image_size} x {model.image_size} pixels, {resize}",
            f"- Output: one probability for each of {classes}",
            f"- Size: {formats.size(model.onnx_bytes)} as ONNX",
            f"- Made by {_safe(data.created_by)} on {_safe(data.created)} from trial {_code(model.trial)}",
            f"- Why this one: {_safe(model.selection)}",
        )
    )


def _use(data: ReportData) -> str:
    text = (
        "Made to tell the classes below apart in photos like those it was trained on. It always answers with "
        "one of them, also for a photo of something else, so watch the probability and the drift. It was not "
        "examined for photos of people, nor for decisions about them."
    )
    how = "It missed its gates: keep it for study."
    if data.verified:
        digest = f"`{commands.DIGEST_WORD}` is the digest of this package: the name of its folder."
        how = f"{_block('sh', commands.predict_command(data))}\n\n{digest}"
    return f"## Use\n\n{text}\n\n{how}"


def _measured(data: ReportData) -> str:
    if not data.quality.metrics:
        return "## Quality\n\nNot measured."
    bounds: dict[str, list[str]] = {}
    for gate in data.gates:
        mark = "passed" if gate.passed else "**failed**"
        bounds.setdefault(gate.metric, []).append(f"{_safe(gate.limit)}: {mark}")
    rows = (_metric_row(estimate, bounds.get(estimate.metric, [])) for estimate in data.quality.metrics)
    photos = formats.plural(data.quality.images, "test photo")
    latency = _safe(data.quality.latency_note)
    intervals = formats.intervals_note(data.quality.metrics)
    note = f"On {photos}, read once, after the search. {intervals} {latency}".rstrip()
    return f"## Quality\n\n{note}\n\n{_table(('Metric', 'Value', '95 % interval', 'Gate'), rows)}"


def _metric_row(estimate: Estimate, gates: Sequence[str]) -> tuple[str, str, str, str]:
    return (
        formats.metric_label(estimate.metric)
        if estimate.metric in formats.METRICS
        else _safe(estimate.metric),
        formats.metric_value(estimate.metric, estimate.value),
        formats.metric_interval(estimate) or formats.UNKNOWN,
        "; ".join(gates) or formats.UNKNOWN,
    )


def _weak_points(data: ReportData) -> str:
    remarks = summary.worth_knowing(data)
    if not remarks:
        return ""
    return "## Worth knowing\n\n" + "\n".join(f"- {_safe(remark.sentence)}" for remark in remarks)


def _training_data(data: ReportData) -> str:
    dataset = data.dataset
    splits = ", ".join(f"{name} {formats.count(images)}" for name, images in dataset.splits)
    names = ", ".join(_code(each.name) for each in dataset.classes[:MOST_CLASSES])
    more = len(dataset.classes) - MOST_CLASSES
    found = [f"- {_safe(each.sentence)}" for each in dataset.findings if each.count][:MOST_FINDINGS]
    lines = [
        "## Data",
        "",
        f"- Source: {_code(dataset.uri)}, {_code(dataset.digest)}",
        f"- {formats.plural(dataset.images, 'image')} ({splits}); {formats.count(dataset.skipped)} left out",
        f"- Classes: {names}{f' and {more} more' if more > 0 else ''}",
        f"- Labels suspected to be wrong: {formats.count(data.suspect_count)}",
        *found,
    ]
    return "\n".join(lines)


def _search(data: ReportData) -> str:
    search = data.search
    if not search.trials:
        return ""
    saving = summary.early_stopping_saving(search.trials)
    saved = (
        f" {_safe(search.early_stopping)} spared {saving.saved} of {formats.plural(saving.budget, 'epoch')}."
        if saving.saved
        else ""
    )
    trials = f"{formats.plural(len(summary.proposed(search.trials)), 'trial')} by {_safe(search.algorithm)}"
    return f"## Search\n\n{trials}, {saving.tuned} of them fine-tunes.{saved} {_safe(search.ended)}"


def _reproduction(data: ReportData) -> str:
    facts = data.reproduction
    pairs = (*facts.seeds, *facts.versions, *facts.machine)
    lines = "\n".join(f"- {_safe(name)}: {_code(value)}" for name, value in pairs)
    command = _block("sh", commands.run_command())
    spec = _block("yaml", facts.spec_yaml)
    return (
        f"## Reproduction\n\nSave the spec as `job.yaml` and run:\n\n{command}\n\n{spec}\n\n{lines}".rstrip()
    )
