"""Calibration, errors by defocus, time and memory, as the report tells them."""

import json

import numpy as np
import pytest
from test_plots import add_half, make_run

from cryopares_core.plots.calibration import calibration_gap, cross_fitted, equal_bins, fit_isotonic
from cryopares_core.plots.confidence import draw_confidence, gap_text, has_confidence
from cryopares_core.plots.defocus import draw_defocus, group_by_defocus, has_defocus
from cryopares_core.plots.figures import new_figure, png_bytes
from cryopares_core.plots.records import VALIDATION_COLUMNS, read_run
from cryopares_core.plots.report import report_html
from cryopares_core.plots.timing import particles_per_second, read_timing, timing_html
from cryopares_core.training.phases import Phases


def drawn(count, true=lambda stated: stated, seed=0):
    """Stated confidences, and whether they came true with a probability that depends on them."""
    rng = np.random.default_rng(seed)
    stated = rng.uniform(0, 1, count)
    return stated, rng.uniform(0, 1, count) < true(stated)


def test_a_curve_that_rises_is_left_as_it_is():
    stated, true = np.array([0.1, 0.2, 0.5, 0.9]), np.array([0.0, 0.3, 0.4, 1.0])
    curve = fit_isotonic(stated, true)
    np.testing.assert_allclose(curve(stated), true)
    np.testing.assert_allclose(curve(np.array([0.0, 1.0])), [0.0, 1.0])


def test_violators_are_pooled_to_their_mean():
    curve = fit_isotonic(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 0.5]))
    np.testing.assert_allclose(curve.true, [0.0, 0.5])
    assert (np.diff(curve.true) >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_that_of_the_minimax_formula(seed):
    """The least squares fit at point i is the largest over j <= i of the smallest over k >= i of the mean from j to k."""
    stated, hit = drawn(60, seed=seed)
    hits = hit[np.argsort(stated)].astype(float)
    means = np.array([[hits[j : k + 1].mean() if k >= j else np.inf for k in range(60)] for j in range(60)])
    fitted = np.array([max(means[j, i:].min() for j in range(i + 1)) for i in range(60)])
    values, where = np.unique(fitted.round(12), return_inverse=True)
    curve = fit_isotonic(stated, hit)
    np.testing.assert_allclose(curve.true, values, atol=1e-9)
    np.testing.assert_allclose(curve.stated, [np.sort(stated)[where == place].mean() for place in range(len(values))])


def test_equal_confidences_are_one_point_whatever_their_order():
    stated, hit = np.array([0.5, 0.5, 0.5, 0.9]), np.array([1.0, 0.0, 0.0, 1.0])
    for order in ([0, 1, 2, 3], [2, 1, 0, 3]):
        np.testing.assert_allclose(fit_isotonic(stated[order], hit[order]).true, [1 / 3, 1])


def test_correction_mends_confidence_that_is_off_but_in_order():
    stated, hit = drawn(4000, true=lambda stated: np.sqrt(stated))
    corrected = cross_fitted(stated, hit)
    assert calibration_gap(stated, hit) > 0.14
    assert calibration_gap(corrected, hit) < 0.03
    assert abs(corrected - np.sqrt(stated)).mean() < 0.04


def test_correction_finds_nothing_where_there_is_nothing():
    """Each particle is corrected without itself: chance is not taken for knowledge."""
    stated, hit = drawn(2000, true=lambda stated: 0.3 + 0 * stated)
    corrected = cross_fitted(stated, hit)
    assert np.corrcoef(corrected, hit)[0, 1] < 0.07
    assert abs(corrected.mean() - 0.3) < 0.03


def test_intervals_hold_what_is_true():
    low, high = equal_bins(*drawn(5000)).interval
    assert ((low >= 0) & (high <= 1) & (low < high)).all()
    held = [high_ > 0.4 and low_ < 0.4 for low_, high_ in (_interval_of_share(seed) for seed in range(300))]
    assert 0.9 < np.mean(held) < 0.99


def _interval_of_share(seed):
    hit = np.random.default_rng(seed).uniform(size=39) < 0.4
    low, high = equal_bins(np.zeros(39), hit).interval
    return low[0], high[0]


@pytest.mark.parametrize("count", [1, 19, 20, 21, 399, 400])
def test_bins_hold_every_particle_once(count):
    bins = equal_bins(*drawn(count))
    assert bins.count.sum() == count and len(bins.count) == np.clip(count // 20, 1, 10)


@pytest.fixture
def record(tmp_path):
    """Errors that fall with the tilt, and with it the defocus."""
    folder = make_run(tmp_path / "version_0", half_sets=["half1"])
    add_half(folder / "half1", error_degs=lambda eulers: 0.5 + 20 * (1 - eulers[:, 1] / 180))
    return read_run(folder)


def test_groups_of_defocus_follow_the_errors(record):
    groups = group_by_defocus(record.halves["half1"], 5)
    assert (np.diff(groups.defocus_um) > 0).all() and (np.diff(groups.median) < 0).all()
    assert 0.1 < groups.defocus_um[0] < 0.7 and 1.3 < groups.defocus_um[-1] < 1.9
    assert (groups.lower <= groups.median).all() and (groups.median <= groups.upper).all()


def test_pictures_and_sentences(record):
    for draw in (draw_confidence, draw_defocus):
        figure = new_figure(6, 3)
        draw(figure, record)
        assert png_bytes(figure).startswith(b"\x89PNG")
    assert "after the correction" in gap_text(record.halves["half1"])


def test_files_of_earlier_versions_show_what_they_have(record):
    path = record.folder / "half1/validation.csv"
    rows = [line.split(",", len(VALIDATION_COLUMNS)) for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join([*row[:-3], row[-1]]) for row in rows) + "\n")
    old = read_run(record.folder)
    assert len(old.halves["half1"].validation["error_degs"]) == 2000
    assert not has_confidence(old) and not has_defocus(old) and gap_text(old.halves["half1"]) == ""
    page = report_html(old)
    assert "<h2>Confidence" not in page and "<h2>Error by defocus" not in page and "<h2>Errors of the particles" in page


def test_a_defocus_that_is_not_known_is_an_empty_cell(tmp_path, monkeypatch):
    monkeypatch.setattr("test_plots.ValidationRecords", _without_defocus)
    folder = make_run(tmp_path / "version_0", half_sets=["half1"])
    add_half(folder / "half1")
    assert (folder / "half1/validation.csv").read_text().splitlines()[1].split(",")[-3:-1] == ["", '"0']
    assert not has_defocus(read_run(folder)) and has_confidence(read_run(folder))


def _without_defocus(folder, train, val, names, defocus):
    from cryopares_core.training.records import ValidationRecords

    return ValidationRecords(folder, train, val, names)


def test_time_and_memory_over_all_starts(record):
    assert read_timing(record) is None and timing_html(record) == ""
    first, second = Phases(), Phases()
    first.seconds, second.seconds = {"reading": 1.0, "training <steps>": 90.0}, {"training <steps>": 30.0, "saving": 2.0}
    for phases in (first, first, second):  # a start writes several times
        phases.write(record.folder)
    timing = read_timing(record)
    assert timing.seconds == {"reading": 1.0, "training <steps>": 120.0, "saving": 2.0} and timing.starts == 2
    assert 0.05 < timing.peak_memory_gb < 50
    page = timing_html(record)
    assert "training &lt;steps&gt;" in page and "in 2 starts" in page and "98%" in page
    assert particles_per_second(record.halves["half1"]) == pytest.approx(3000 / 60)


@pytest.mark.parametrize("text", ["", "[]", '{"starts": 3}', '{"starts": [1]}', '{"starts": [{"seconds": {"x": "y"}}]}'])
def test_timing_that_cannot_be_read_is_left_out(record, text):
    (record.folder / "timing.json").write_text(text)
    assert timing_html(read_run(record.folder)) == ""
    Phases().write(record.folder)
    assert len(json.loads((record.folder / "timing.json").read_text())["starts"]) >= 1
