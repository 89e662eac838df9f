"""Command lines made from settings dataclasses."""

from dataclasses import dataclass

import pytest

from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.cli import CommandLine, CommandParser, build_parser, parse_args
from cryopares_core.config.parameters import param
from cryopares_core.errors import UserError

NEEDED = "--symmetry C1 --particles_star_fname a.star --train_save_dir out"


def train_parser() -> CommandParser:
    return build_parser(TrainArguments, "cryopares_train", "Train.")


def parse(line: str) -> CommandLine:
    return parse_args(train_parser(), line.split())


def problems_of(line: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse(line)
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_the_guides_first_command() -> None:
    line = parse(NEEDED + " --particles_dir p --n_epochs 10 --batch_size 32")
    assert line.arguments == TrainArguments("C1", ["a.star"], ["p"], "out", n_epochs=10, batch_size=32)
    assert line.given == {
        "symmetry", "particles_star_fname", "particles_dir", "train_save_dir", "n_epochs", "batch_size"
    }  # fmt: skip


def test_defaults() -> None:
    arguments = parse(NEEDED).arguments
    assert (arguments.n_epochs, arguments.batch_size, arguments.split_halfs) == (100, 64, True)
    assert arguments.compile_model is False and arguments.overfit_batches is None


@pytest.mark.parametrize("option", ["--split_halfs", "--split_halves"])
@pytest.mark.parametrize(("word", "meant"), [("", True), ("True", True), ("yes", True), ("1", True), ("no", False), ("0", False)])
def test_switches_take_a_value_or_none(option: str, word: str, meant: bool) -> None:
    assert parse(f"{NEEDED} {option} {word}").arguments.split_halfs is meant


def test_config_takes_many_and_can_be_repeated() -> None:
    line = parse(f"--config a.b=1 c=2 {NEEDED} --config_file x.yaml --config d=-3")
    assert line.overrides == ("a.b=1", "c=2", "d=-3")
    assert line.config_file == "x.yaml"
    assert not line.show_config


@pytest.mark.parametrize("option", ["--show-config", "--show_config"])
def test_show_config_requires_nothing_else(option: str) -> None:
    assert parse(option).show_config


def test_a_continued_run_requires_nothing_else() -> None:
    line = parse("--continue_checkpoint_dir out/version_0 --n_epochs 30")
    assert line.given == {"continue_checkpoint_dir", "n_epochs"}


def test_all_problems_are_told_at_once() -> None:
    told = "\n".join(problems_of("--symetry C1 --n_epochs=many --batch_size -1 --compile_model maybe --accelerator tpu"))
    assert "Unknown option --symetry. Did you mean --symmetry?" in told
    assert "--n_epochs=many is not allowed: expected whole number from 1" in told
    assert "--batch_size=-1" in told and "--compile_model=maybe" in told and "auto, cpu, gpu" in told
    assert "--train_save_dir is missing" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--n_epoch 5", "Did you mean --n_epochs?"),  # no abbreviations
        ("--learning_rate 1e-3", "--config train.learning_rate=VALUE"),
        ("--n_epochs", "expected one argument"),
        ("--particles_dir a b", "2 folders for 1 STAR files"),
        ("--val_check_interval 1.5", "above 0 up to 1"),
        ("--val_check_interval nan", "above 0 up to 1"),
        ("--continue_checkpoint_dir a --finetune_checkpoint_dir b", "exclude each other"),
        ("--n_threads 2 stray", "Unexpected word 'stray'"),
    ],
)
def test_bad_options_are_refused_with_a_remedy(words: str, told: str) -> None:
    problems = problems_of(f"{NEEDED} {words}")
    assert len(problems) == 1
    assert told in problems[0]


def test_help_tells_units_defaults_and_ranges(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Default: 100" in text and "then faster steps" in text and "--split_halves" in text
    assert "[whole number from 1 (epochs)]" in text


@dataclass
class OtherArguments:
    """Another command's options."""

    snr: float = param(1.0, "Signal to noise.", above=0)
    map_fname: str | None = param(None, "Map.", required=True)


def test_other_commands_are_made_the_same_way() -> None:
    parser = build_parser(OtherArguments, "other", "Does another thing.", with_config=False)
    assert parse_args(parser, ["--map_fname", "a.mrc", "--snr", "2"]).arguments == OtherArguments(2.0, "a.mrc")
    with pytest.raises(UserError, match="--map_fname is missing") as caught:
        parse_args(parser, ["--config", "a=1"])
    assert "Unknown option --config" in caught.value.problems[0]
