"""The report of a run: one HTML file that holds all it shows, made from the run's folder alone."""

import base64
import html
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Union

from cryopares_core.files import write_text
from cryopares_core.plots.confidence import CONFIDENCE_NOTE, draw_confidence, gap_text, has_confidence
from cryopares_core.plots.curves import draw_learning_curves, save_learning_curves
from cryopares_core.plots.defocus import DEFOCUS_NOTE, draw_defocus, has_defocus
from cryopares_core.plots.errors import FAIR_DEGS, GOOD_DEGS, draw_error_histograms
from cryopares_core.plots.figures import new_figure, png_bytes
from cryopares_core.plots.judgement import judge
from cryopares_core.plots.records import HalfRecord, RunRecord, duration_text, read_run, share_under
from cryopares_core.plots.settings import Setting, all_settings, command_line, trained_text
from cryopares_core.plots.sphere import draw_error_maps, draw_view_distribution
from cryopares_core.plots.style import CSS
from cryopares_core.plots.timing import timing_html

HEADINGS = ("Half set", "Training", "Held out", "Best epoch", "Mean error", "Median error", "Under 5°", "Under 10°", "Time")
NO_VALUE = "–"


def write_report(version_dir: Union[str, Path]) -> Path:
    """Write `report.html` and `learning_curves.png` into a run's folder, each all or nothing; returns the report's path."""
    record = read_run(version_dir)
    save_learning_curves(record)
    path = record.folder / "report.html"
    write_text(path, report_html(record))
    return path


def report_html(record: RunRecord) -> str:
    """The whole page: no scripts, and nothing that it would fetch."""
    n_halves = max(1, len(record.halves))
    sections = [
        ("What was trained", _trained(record)),
        ("Result", _headline(record) + _judgement(record)),
        ("Learning curves", _picture(record, draw_learning_curves, 12.5, 4.0, LEARNING_NOTE)),
        ("Errors of the particles held out", _picture(record, draw_error_histograms, 6.0 * n_halves, 3.6, HISTOGRAM_NOTE)),
        ("Error by view direction", _picture(record, draw_error_maps, 6.2 * n_halves, 4.0, _map_note(record))),
        ("Error by defocus", _picture(record, draw_defocus, 8.0, 3.8, DEFOCUS_NOTE) if has_defocus(record) else ""),
        ("Confidence", _confidence(record)),
        ("Views of the training set", _picture(record, draw_view_distribution, 6.6, 4.3, VIEWS_NOTE)),
        ("Particles as the network gets them", _gallery(record)),
        ("Time and memory", timing_html(record)),
        ("Warnings", _warnings(record)),
        ("Settings", _settings(record)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>\n" for title, content in sections if content)
    title = html.escape(f"CryoPARES training {record.folder.resolve().name}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{CSS}</style>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><header>{_heading(record)}</header>\n{body}</body></html>\n'
    )


LEARNING_NOTE = (
    "Training loss is measured on augmented pictures, so validation loss may lie below it. "
    "Rings mark the best epoch, whose model is kept."
)
HISTOGRAM_NOTE = "Angular distance between predicted and known pose, the smallest under the symmetry; shaded up to 5° and 10°."
VIEWS_NOTE = "Poses as in the STAR file. Views that are not in the training set cannot be learned."


def _map_note(record: RunRecord) -> str:
    note = "Each place on the map is a direction from which the particle was seen, as in the STAR file."
    return note if record.symmetry == "C1" else f"{note} Symmetry {record.symmetry} shows the same view in several places."


def _heading(record: RunRecord) -> str:
    facts = [
        ("Symmetry", record.symmetry),
        ("Particles", _count(record.n_particles)),
        (
            "Pictures",
            f"{record.image_size_px} px at {record.sampling_rate_angs:.4g} Å/px" if record.sampling_rate_angs else NO_VALUE,
        ),
        ("Epochs", record.n_epochs or NO_VALUE),
        ("Started", record.started.replace("T", " ")[:16] or NO_VALUE),
        ("State", "finished" if record.finished else "not finished"),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in facts)
    return f"<h1>CryoPARES training</h1><p class=path>{html.escape(str(record.folder.resolve()))}</p><dl>{items}</dl>"


def _trained(record: RunRecord) -> str:
    return f"<p>{html.escape(trained_text(record))}</p>" if record.halves else ""


def _headline(record: RunRecord) -> str:
    if not record.halves:
        return "<p>No half set has been started.</p>"
    return _table(HEADINGS, [_half_row(half, record) for half in record.halves.values()], "numbers")


def _half_row(half: HalfRecord, record: RunRecord) -> List[str]:
    best = half.best or {}
    shares = [_share(share_under(half, limit)) for limit in (GOOD_DEGS, FAIR_DEGS)]
    epoch = f"{best['epoch']} of {len(half.epochs)}" if best else NO_VALUE
    time = duration_text(half.seconds) if half.seconds else NO_VALUE
    errors = [_degrees(best.get(name)) for name in ("val_geo_degs", "val_median_geo_degs")]
    return [half.name, _count(half.n_train), _count(half.n_val), epoch, *errors, *shares, time]


def _judgement(record: RunRecord) -> str:
    """Remarks of half sets that follow from the same rule stand together."""
    by_rule: Dict[Tuple[str, str], List[str]] = {}
    for remark in judge(record):
        by_rule.setdefault((remark.level, remark.rule), []).append(html.escape(remark.text))
    items = "".join(
        f"<li class={level}>{'<br>'.join(texts)}<small>Rule: {html.escape(rule)}.</small></li>"
        for (level, rule), texts in by_rule.items()
    )
    return f"<ul class=judgement>{items}</ul>" if items else ""


def _picture(record: RunRecord, draw: Callable[..., None], width: float, height: float, note: str) -> str:
    figure = new_figure(width, height)
    draw(figure, record)
    return _image(png_bytes(figure), width) + f"<p class=note>{html.escape(note)}</p>"


def _confidence(record: RunRecord) -> str:
    if not has_confidence(record):
        return ""
    gaps = " ".join(filter(None, map(gap_text, record.halves.values())))
    return _picture(record, draw_confidence, 12.5, 4.4, CONFIDENCE_NOTE) + f"<p>{html.escape(gaps)}</p>"


def _gallery(record: RunRecord) -> str:
    try:
        content = (record.folder / "gallery.png").read_bytes()
    except OSError:
        return ""
    return _image(content, 12.5)


def _image(content: bytes, width_inches: float) -> str:
    coded = base64.b64encode(content).decode("ascii")
    return f'<img alt="" style="max-width:{min(100.0, 8 * width_inches):.0f}%" src="data:image/png;base64,{coded}">'


def _warnings(record: RunRecord) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in record.warnings) + "</ul>" if record.warnings else ""


def _settings(record: RunRecord) -> str:
    settings = all_settings(record)
    changed = [setting for setting in settings if setting.changed]
    parts = [f"<h3>Other than the defaults</h3>{_settings_table(changed)}" if changed else ""]
    parts.append(f"<h3>Command</h3><pre>{html.escape(command_line(record))}</pre>")
    versions = {"CryoPARES": record.settings.get("cryopares", NO_VALUE), **(record.settings.get("versions") or {})}
    parts.append("<p class=note>" + html.escape(", ".join(f"{name} {version}" for name, version in versions.items())) + "</p>")
    if settings:
        parts.append(f"<details><summary>All settings</summary>{_settings_table(settings)}</details>")
    return "".join(parts)


def _settings_table(settings: Iterable[Setting]) -> str:
    rows = [[item.name, item.value, item.default, item.help] for item in settings]
    return _table(("Setting", "Value", "Default", "Meaning"), rows, "settings") if rows else ""


def _table(headings: Tuple[str, ...], rows: List[List[Any]], kind: str) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _count(number: Optional[int]) -> str:
    return NO_VALUE if number is None else f"{number:,}"


def _degrees(value: Optional[float]) -> str:
    return NO_VALUE if value is None else f"{value:.2f}°"


def _share(value: Optional[float]) -> str:
    return NO_VALUE if value is None else f"{value:.0%}"
