"""Each rule of the report's advice: where it speaks, and where it is silent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryopares_core.plots import judgement
from cryopares_core.plots.curve_rules import (
    MANY_EPOCHS,
    errors_grow,
    falls_together,
    gap_of_losses,
    high_after_many_epochs,
    jumps,
    learned_nothing,
    no_longer_better,
    rate_fell_early,
    training_stands_still,
)
from cryopares_core.plots.judgement import judge, judge_half
from cryopares_core.plots.particle_rules import bad_defocus, bad_views, few_particles, too_sure
from cryopares_core.plots.records import HalfRecord, RunRecord
from cryopares_core.plots.remarks import GOOD, NOTE, WARNING

COUNT = 10


def curve(first, last, count=COUNT):
    """A loss that falls fast at first."""
    return [last + (first - last) * 0.6**n for n in range(count)]


def half_of(loss, val_loss, error=4.0, lr=1e-3, noise=None, **more):
    """A half set with these curves; a number stands for a curve that does not move."""
    columns = {"loss": loss, "val_loss": val_loss, "val_geo_degs": error, "lr": lr, "noise": 1.0 if noise is None else noise}
    lists = {name: values if isinstance(values, list) else [values] * COUNT for name, values in columns.items()}
    epochs = [dict(zip(lists, row, strict=True), epoch=n) for n, row in enumerate(zip(*lists.values(), strict=True), 1)]
    epochs = [line | {"val_median_geo_degs": 0.7 * line["val_geo_degs"]} for line in epochs]
    return HalfRecord("half1", Path("half1"), epochs, [], None, None, 5000, 1000, 0.0, **more)


WELL = half_of(curve(9, 4), curve(9, 4.1), curve(90, 3))
MEMORISED = half_of(curve(9, 2), curve(9, 6), curve(90, 20))
LOST = half_of([9 - 0.01 * n for n in range(COUNT)], 9.0, 120.0)
STUCK = half_of(7.0, 7.0, [40.0 - n for n in range(COUNT)])
IDLE = half_of([6 - 0.1 * n for n in range(COUNT)], [5.0] * 3 + [4.9] + [5.0] * 6)
GROWING = half_of(curve(9, 5), curve(9, 5.1), [20.0, 8, 5, 4, 4.2, 4.5, 4.8, 5, 5.2, 5.4])
RESTLESS = half_of(curve(9, 4), [6, 5, 6, 5, 6, 5, 6, 5, 6, 5], 8.0)
EARLY_FALL = half_of(curve(9, 6), curve(9, 6), 30.0, [1e-3, 1e-3, 5e-4] + [5e-4] * 7)


@pytest.mark.parametrize(
    "rule, speaks, level, word",
    [
        (learned_nothing, LOST, WARNING, "starting_map.mrc"),
        (gap_of_losses, MEMORISED, WARNING, "overfitting"),
        (no_longer_better, IDLE, NOTE, "since epoch 5"),
        (errors_grow, GROWING, WARNING, "from 4.0° in epoch 4 to 5.4°"),
        (training_stands_still, STUCK, WARNING, "learning_rate (5e-3)"),
        (jumps, RESTLESS, NOTE, "val_fraction"),
        (falls_together, WELL, GOOD, "fell together"),
    ],
)
def test_a_rule_speaks_where_it_should_and_only_there(rule, speaks, level, word):
    remark = rule(speaks, speaks.epochs)
    assert remark.level == level and word in remark.text and remark.text.startswith("half1: ") and remark.rule
    alike = (LOST, STUCK) if rule in (learned_nothing, training_stands_still) else (speaks,)
    for half in (WELL, MEMORISED, LOST, STUCK, RESTLESS, GROWING):
        if not any(half is other for other in alike):
            assert rule(half, half.epochs) is None, half


def test_a_rate_that_fell_early():
    remark = rate_fell_early(EARLY_FALL, EARLY_FALL.epochs, COUNT)
    assert "in epoch 3" in remark.text and "patient_reduce_lr_plateau_n_epochs" in remark.text
    late = half_of(curve(9, 6), curve(9, 6), 30.0, [1e-3] * 7 + [5e-4] * 3)
    good = half_of(curve(9, 6), curve(9, 6), 3.0, [1e-3, 1e-3, 5e-4] + [5e-4] * 7)
    rising = half_of(curve(9, 6), curve(9, 6), 30.0, [2e-4, 8e-4] + [1e-3] * 8)
    for half in (late, good, rising):
        assert rate_fell_early(half, half.epochs, COUNT) is None


def test_errors_that_stay_high_for_many_epochs():
    """Also where the loss still falls."""
    many = MANY_EPOCHS + 1
    slow = [[9 - 0.05 * n for n in range(many)], [9 - 0.04 * n for n in range(many)], [60.0 - n for n in range(many)]]
    names = ("loss", "val_loss", "val_geo_degs")
    epochs = [dict(zip(names, row, strict=True), epoch=n) for n, row in enumerate(zip(*slow, strict=True), 1)]
    half = replace(WELL, epochs=epochs)
    assert "after 31 epochs the error is still 30.0°" in high_after_many_epochs(half, epochs).text
    assert high_after_many_epochs(half, epochs[: MANY_EPOCHS - 1]) is None
    assert high_after_many_epochs(half, [line | {"val_geo_degs": 9.0} for line in epochs]) is None
    assert any("sampling_rate_angs_for_nnet" in remark.text for remark in judge_half(half, many))
    assert not any("sampling_rate_angs_for_nnet" in remark.text for remark in judge_half(half, many + 1)), "it goes on"


def test_few_particles_matter_where_errors_are_high():
    few, many = replace(LOST, n_train=900), replace(LOST, n_train=90_000)
    assert "900 particles only" in few_particles(few, 40.0).text
    assert few_particles(many, 40.0) is None and few_particles(few, 4.0) is None
    assert few_particles(replace(LOST, n_train=None), 40.0) is None
    assert any("finetune_checkpoint_dir" in remark.text for remark in judge_half(few, COUNT))


def test_the_level_follows_the_errors():
    """The guide's aims: a mean under 5° is good, under 15° with a median under 8° can be used."""
    said = {error: judge_half(half_of(5.0, 5.0, error), COUNT)[0] for error in (4.0, 11.0, 14.0, 20.0)}
    assert [said[error].level for error in said] == [GOOD, GOOD, WARNING, WARNING]
    assert "good model" in said[4.0].text and "can be used" in said[11.0].text and "not enough" in said[20.0].text


def test_outliers_and_few_held_out():
    far = np.where(np.arange(1000) < 100, 90.0, 2.0)
    half = half_of(5.0, 5.0, 10.8)
    half = replace(particles(far), epochs=[line | {"val_median_geo_degs": 2.0} for line in half.epochs])
    assert any("10% are off by more than 30°" in remark.text for remark in judge_half(half, COUNT))
    assert any("only 80 particles were held out" in remark.text for remark in judge_half(replace(half, n_val=80), COUNT))
    assert not any("held out: the errors" in remark.text for remark in judge_half(half, COUNT))


def test_a_run_that_is_not_finished_says_how_to_go_on():
    settings = {"arguments": {"n_epochs": COUNT + 5}, "half_sets": ["half1", "half2"]}
    record = RunRecord(Path("version_0"), settings, {"half1": WELL}, [])
    (text,) = [remark.text for remark in judge(record) if "not done all" in remark.text]
    assert "half1 10 of 15, half2 0 of 15" in text and "--continue_checkpoint_dir version_0" in text
    finished = RunRecord(Path("version_0"), {"arguments": {"n_epochs": COUNT}, "half_sets": ["half1"]}, {"half1": WELL}, [])
    assert not any("not done all" in remark.text for remark in judge(finished))


def test_epochs_of_less_noise_count_for_nothing():
    """Their losses are lower: that validation comes up when the noise does is no overfitting, and no jump."""
    noise = [0.4, 0.5, 0.7, 0.9] + [1.0] * 6
    half = half_of([3, 2, 3, 4, 5, 4.5, 4.2, 4.0, 3.9, 3.8], [6, 4, 6, 4, 5.1, 4.6, 4.3, 4.1, 4.0, 3.9], 4.0, noise=noise)
    assert jumps(half, half.epochs) is None and no_longer_better(half, half.epochs) is None
    still_eased = half_of(curve(9, 2), curve(9, 6), 20.0, noise=0.5)
    assert gap_of_losses(still_eased, still_eased.epochs) is None


def test_a_small_gap_is_none_however_little_was_learned():
    half = half_of(curve(4.2, 4.0), curve(4.3, 4.2))
    assert gap_of_losses(half, half.epochs) is None


def test_one_remark_of_a_kind():
    for half in (MEMORISED, LOST, STUCK, IDLE):
        warnings = [remark for remark in judge_half(half, COUNT) if "fitting" in remark.text]
        assert len(warnings) <= 1, warnings
    assert any("underfitting" in remark.text for remark in judge_half(LOST, COUNT))
    assert not any("underfitting" in remark.text for remark in judge_half(MEMORISED, COUNT))


@pytest.mark.parametrize("half", [WELL, MEMORISED, LOST, STUCK, IDLE, GROWING, RESTLESS, EARLY_FALL])
@pytest.mark.parametrize("count", range(COUNT + 1))
def test_every_rule_bears_every_length(half, count):
    assert isinstance(judge_half(replace(half, epochs=half.epochs[:count]), COUNT), list)
    bare = [{"epoch": line["epoch"], "val_loss": line["val_loss"], "val_geo_degs": 50.0} for line in half.epochs[:count]]
    assert isinstance(judge_half(replace(half, epochs=bare), COUNT), list)
    only_training = [{"epoch": line["epoch"], "loss": line["loss"]} for line in half.epochs[:count]]
    assert judge_half(replace(half, epochs=only_training), COUNT) == []


def test_parameters_that_are_named_exist():
    """Advice names settings; each must be one."""
    from cryopares_core.config.arguments import TrainArguments
    from cryopares_core.config.parameters import parameters
    from cryopares_core.config.schema import Config

    known = {name.split(".")[-1] for name in [*parameters(TrainArguments), *parameters(Config)]}
    folder = Path(judgement.__file__).parent
    text = "".join((folder / name).read_text() for name in ("curve_rules.py", "particle_rules.py", "judgement.py"))
    named = {"n_epochs", "weight_decay", "label_smoothing", "lmax", "learning_rate", "val_fraction", "batch_size"}
    named |= {"map_fname_for_simulated_pretraining", "patient_reduce_lr_plateau_n_epochs", "early_stopping_n_epochs"}
    named |= {"f_out", "width", "sampling_rate_angs_for_nnet", "finetune_checkpoint_dir"}
    assert named <= known and all(name in text for name in named)


def particles(error_degs, confidence=None, defocus=None):
    """A half set whose particles held out have these errors."""
    n = len(error_degs)
    columns = {
        "error_degs": np.asarray(error_degs, float),
        "confidence": np.full(n, 0.3) if confidence is None else confidence,
        "defocus_angs": np.linspace(5e3, 3e4, n) if defocus is None else defocus,
    }
    return replace(WELL, validation=columns, n_val=n)


def test_too_sure():
    rng = np.random.default_rng(0)
    confidence, chance = rng.uniform(0, 1, 1000), rng.uniform(0, 1, 1000)
    error = lambda true: np.where(chance < true, 2.0, 30.0)  # noqa: E731
    assert "too sure" in too_sure(particles(error(0.4 * confidence), confidence)).text
    assert too_sure(particles(error(confidence), confidence)) is None
    assert too_sure(particles(error(np.sqrt(confidence)), confidence)) is None, "too little confidence is usual"
    assert too_sure(particles(error(0.4 * confidence)[:50], confidence[:50])) is None


def test_bad_defocus():
    n = np.arange(1000)
    assert "lowest defocus" in bad_defocus(particles(np.where(n < 300, 20.0, 3.0))).text
    assert "highest defocus" in bad_defocus(particles(np.where(n > 700, 20.0, 3.0))).text
    assert bad_defocus(particles(np.full(1000, 20.0))) is None
    assert bad_defocus(particles(np.where(n < 300, 3.0, 0.5))) is None, "good all the same"
    assert bad_defocus(particles(np.where(n < 300, 20.0, 3.0), defocus=np.full(1000, 1e4))) is None
    assert bad_defocus(particles(np.where(n < 300, 20.0, 3.0), defocus=np.full(1000, np.nan))) is None


@pytest.mark.parametrize("n_train, said", [(0, "rare among the training"), (10, "not rare")])
def test_bad_views(n_train, said):
    rot, height = np.meshgrid(np.arange(-180, 180, 15.0), np.linspace(-0.96, 0.96, 24))
    tilt = np.degrees(np.arccos(height.ravel()))
    bad = tilt < 30
    views = {"rot_degs": rot.ravel(), "tilt_degs": tilt, "n_train": np.where(bad, n_train, 10), "n_val": np.full(len(tilt), 2)}
    half = replace(particles(np.repeat(np.where(bad, 40.0, 3.0), 2)), views=views | {"median_error_degs": np.where(bad, 40.0, 3.0)})
    assert said in bad_views(half).text
    assert bad_views(replace(half, views=views | {"median_error_degs": np.full(len(tilt), 3.0)})) is None
