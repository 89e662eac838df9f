"""The report of a run: one HTML file that holds all it shows, made from the run's folder alone."""

import html
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from cryopares_core.files import write_text
from cryopares_core.plots.confidence import CONFIDENCE_NOTE, draw_confidence, gap_text, has_confidence
from cryopares_core.plots.confidence import PANELS as CONFIDENCE_PANELS
from cryopares_core.plots.curves import PANELS, draw_learning_curves, save_learning_curves
from cryopares_core.plots.defocus import DEFOCUS_NOTE, draw_defocus, has_defocus
from cryopares_core.plots.errors import FAIR_DEGS, GOOD_DEGS, draw_error_histograms
from cryopares_core.plots.figures import new_figure
from cryopares_core.plots.judgement import judge
from cryopares_core.plots.page import figures_html, page_html, picture_html, table_html
from cryopares_core.plots.records import HalfRecord, RunRecord, duration_text, read_run, share_under
from cryopares_core.plots.settings import Setting, all_settings, command_line, trained_text
from cryopares_core.plots.sphere import draw_error_maps, draw_view_distribution
from cryopares_core.plots.timing import timing_html

HEADINGS = ("Half set", "Training", "Held out", "Best epoch", "Mean error", "Median error", "Under 5°", "Under 10°", "Time")
NO_VALUE = "–"
Draw = Callable[..., None]


def write_report(version_dir: Union[str, Path]) -> Path:
    """Write `report.html` and `learning_curves.png` into a run's folder, each all or nothing; returns the report's path."""
    record = read_run(version_dir)
    save_learning_curves(record)
    path = record.folder / "report.html"
    write_text(path, report_html(record))
    return path


def report_html(record: RunRecord) -> str:
    """The whole page: no scripts, and nothing that it would fetch."""
    sections = [
        ("What was trained", _trained(record)),
        ("Result", _headline(record) + _judgement(record)),
        ("Learning curves", _figures(record, draw_learning_curves, _curves(record), 4.3, 4.0, LEARNING_NOTE)),
        ("Errors of the particles held out", _of_halves(record, draw_error_histograms, 6.0, 3.6, HISTOGRAM_NOTE)),
        ("Error by view direction", _of_halves(record, draw_error_maps, 6.2, 4.0, _map_note(record))),
        ("Error by defocus", _figure(record, draw_defocus, 8.0, 3.8, DEFOCUS_NOTE) if has_defocus(record) else ""),
        ("Confidence and its calibration", _confidence(record)),
        ("Views of the training set", _figure(record, draw_view_distribution, 6.6, 4.3, VIEWS_NOTE)),
        ("Particles as the network gets them", _gallery(record)),
        ("Time and memory", timing_html(record)),
        ("Warnings", _warnings(record)),
        ("Settings", _settings(record)),
    ]
    return page_html("CryoPARES training", str(record.folder.resolve()), _facts(record), sections)


LEARNING_NOTE = (
    "Training loss is measured on augmented pictures, so validation loss may lie below it. "
    "Rings mark the best epoch, whose model is kept."
)
HISTOGRAM_NOTE = "Angular distance between predicted and known pose, the smallest under the symmetry; shaded up to 5° and 10°."
VIEWS_NOTE = "Poses as in the STAR file. Views that are not in the training set cannot be learned."


def _map_note(record: RunRecord) -> str:
    note = "Each place on the map is a direction from which the particle was seen, as in the STAR file."
    return note if record.symmetry == "C1" else f"{note} Symmetry {record.symmetry} shows the same view in several places."


def _facts(record: RunRecord) -> List[Tuple[str, Any]]:
    pictures = f"{record.image_size_px} px at {record.sampling_rate_angs:.4g} Å/px" if record.sampling_rate_angs else NO_VALUE
    return [
        ("Symmetry", record.symmetry),
        ("Particles", _count(record.n_particles)),
        ("Pictures", pictures),
        ("Epochs", record.n_epochs or NO_VALUE),
        ("Started", record.started.replace("T", " ")[:16] or NO_VALUE),
        ("State", "finished" if record.finished else "not finished"),
    ]


def _trained(record: RunRecord) -> str:
    return f"<p>{html.escape(trained_text(record))}</p>" if record.halves else ""


def _headline(record: RunRecord) -> str:
    if not record.halves:
        return "<p>No half set has been started.</p>"
    return table_html(HEADINGS, [_half_row(half) for half in record.halves.values()])


def _half_row(half: HalfRecord) -> List[str]:
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


def _curves(record: RunRecord) -> Sequence[str]:
    """The panels that there is something to draw on; one that says so where there is none."""
    return PANELS if any(half.epochs or half.simulation for half in record.halves.values()) else PANELS[:1]


def _of_halves(record: RunRecord, draw: Draw, width: float, height: float, note: str) -> str:
    """A figure for each half set that has been validated; one that says so where there is none."""
    validated = [half.name for half in record.halves.values() if half.validation is not None and half.views is not None]
    return _figures(record, draw, validated, width, height, note) if validated else _figure(record, draw, width, height, note)


def _figures(record: RunRecord, draw: Draw, names: Sequence[str], width: float, height: float, note: str) -> str:
    """Figures that are drawn one by one, so that they find room on a narrow page too."""
    figures = [new_figure(width, height) for _ in names]
    for figure, name in zip(figures, names):
        draw(figure, record, names=[name])
    return figures_html(figures, note)


def _figure(record: RunRecord, draw: Draw, width: float, height: float, note: str) -> str:
    figure = new_figure(width, height)
    draw(figure, record)
    return figures_html([figure], note)


def _confidence(record: RunRecord) -> str:
    if not has_confidence(record):
        return ""
    gaps = "<br>".join(html.escape(text) for text in map(gap_text, record.halves.values()) if text)
    return _figures(record, draw_confidence, CONFIDENCE_PANELS, 6.2, 4.2, CONFIDENCE_NOTE) + f"<p>{gaps}</p>"


def _gallery(record: RunRecord) -> str:
    try:
        content = (record.folder / "gallery.png").read_bytes()
    except OSError:
        return ""
    return f"<div class=figures>{picture_html(content, 12.5)}</div>"


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
    return table_html(("Setting", "Value", "Default", "Meaning"), rows, "settings") if rows else ""


def _count(number: Optional[int]) -> str:
    return NO_VALUE if number is None else f"{number:,}"


def _degrees(value: Optional[float]) -> str:
    return NO_VALUE if value is None else f"{value:.2f}°"


def _share(value: Optional[float]) -> str:
    return NO_VALUE if value is None else f"{value:.0%}"
