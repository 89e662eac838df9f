"""The configuration tree: its names, how it is read, what it refuses, and how it is shown."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cryopares_core.config.merge import load_config, to_yaml
from cryopares_core.config.names import nearest
from cryopares_core.config.parameters import get_value, parameters
from cryopares_core.config.recipes import RECIPES
from cryopares_core.config.schema import Config
from cryopares_core.config.show import describe
from cryopares_core.errors import UserError

OVERRIDES = [
    "train.learning_rate=1e-4",
    "datamanager.particlesDataset.mask_radius_angs=100",
    "models.image2sphere.lmax=8",
]
RESNET = "models.image2sphere.imageencoder.resnet"
COPIES = "datamanager.num_augmented_copies_per_batch"
GUIDE_DEFAULTS = {
    "train.patient_reduce_lr_plateau_n_epochs": 3,
    "train.weight_decay": 1e-5,
    "models.image2sphere.lmax": 12,
    "models.image2sphere.label_smoothing": 0.05,
    "models.image2sphere.so3components.i2sprojector.sphere_fdim": 512,
    "models.image2sphere.so3components.i2sprojector.rand_fraction_points_to_project": 0.5,
    "models.image2sphere.so3components.i2sprojector.hp_order": 3,
    "models.image2sphere.so3components.s2conv.f_out": 64,
    "models.image2sphere.so3components.s2conv.hp_order": 4,
    "models.image2sphere.so3components.so3outputgrid.hp_order": 4,
    f"{RESNET}.resnetName": None,  # the guide's resnet18 gave way to the U-Net: docs/architecture.md says why
    "datamanager.augment_train": True,
    COPIES: 4,
    "datamanager.augmenter.prob_augment_each_image": 0.95,
    "datamanager.augmenter.operations.erasing.p": 0.1,
    "datamanager.augmenter.operations.inPlaneRotations90.p": 1.0,
    "datamanager.augmenter.operations.inPlaneRotations.max_angle_degs": 20.0,
}


def problems_of(*overrides: str, config_file: object = None) -> str:
    with pytest.raises(UserError) as caught:
        load_config(str(config_file) if config_file else None, overrides)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("name", GUIDE_DEFAULTS)
def test_defaults_are_those_of_the_guide(name: str) -> None:
    assert get_value(load_config(), name) == GUIDE_DEFAULTS[name]


def test_every_name_in_the_guide_exists(shared: Path) -> None:
    text = (shared / "training_guide.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:datamanager|models|train)\.\w[\w.]*\w(?==|\*\*|`)", text))
    named |= {"datamanager.augmenter." + name for name in re.findall(r"`(operations\.\w+\.p)=", text)}
    assert len(named) > 25
    assert named <= set(parameters(Config))


def test_all_defaults_are_allowed_and_explained() -> None:
    for leaf in parameters(Config).values():
        assert leaf.allows(leaf.default), leaf.name
        assert leaf.rules.help and "\n" not in leaf.rules.help


def test_overrides_beat_the_file_which_beats_the_defaults(tmp_path: Path) -> None:
    config_file = tmp_path / "a.yaml"
    config_file.write_text("TRAIN:\n  Weight_Decay: 1\nmodels.image2sphere.lmax: 10\ndatamanager:\n", encoding="utf-8")
    config = load_config(str(config_file), ["models.image2sphere.LMAX=8"])
    assert config.train.weight_decay == 1.0 and isinstance(config.train.weight_decay, float)
    assert config.models.image2sphere.lmax == 8
    assert config.train.learning_rate == 1e-3


def test_a_recipe_gives_way_to_the_file_and_to_overrides(tmp_path: Path) -> None:
    assert load_config().train.learning_rate == 1e-3
    assert load_config(recipe="fast").train.learning_rate == 5e-3
    assert load_config(None, ["train.learning_rate=2e-4"], "fast").train.learning_rate == 2e-4
    config_file = tmp_path / "a.yaml"
    config_file.write_text("train:\n  learning_rate: 0.002\n")
    assert load_config(str(config_file), (), "fast").train.learning_rate == 2e-3


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_valid(recipe: str) -> None:
    assert load_config(recipe=recipe).batch_problems(64) == []


@pytest.mark.parametrize("word", ["null", "None"])
def test_optional_values_can_be_none(word: str) -> None:
    config = load_config(None, [f"{RESNET}.output_stride={word}", "datamanager.particlesDataset.ctf_correction=none"])
    assert config.models.image2sphere.imageencoder.resnet.output_stride is None
    assert config.datamanager.particlesDataset.ctf_correction == "none"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("lmax=8", "Did you mean models.image2sphere.lmax?"),
        ("train.lerning_rate=1", "Did you mean train.learning_rate?"),
        ("datamanager.augmentor.operations.erasing.p=0", "mean datamanager.augmenter.operations.erasing.p"),
        ("hp_order=3", "so3outputgrid.hp_order"),
        ("models.image2sphere.lmax=17", "from 1 to 16"),
        ("models.image2sphere.lmax=8.5", "whole number"),
        ("train.learning_rate=0", "above 0 up to 1"),
        ("train.learning_rate=nan", "above 0 up to 1"),
        ("train.learning_rate=fast", "train.learning_rate=fast is not allowed: expected number"),
        ("train.learning_rate=null", "number"),
        ("train.learning_rate=[1e-3]", "number"),
        ("train.learning_rate=[1e-3", "cannot be read"),
        ("train.learning_rate=${nothing}", "cannot be read"),
        ("train.seed=???", "cannot be read"),
        ("datamanager.augment_train=3", "True or False"),
        (f"{RESNET}.resnetName=resnet19", "resnet18, resnet34"),
        (f"{RESNET}.output_stride=5", "4, 8, 16, 32"),
        ("train=3", "group of parameters"),
        ("stray", "'stray' is not key=value"),
        ("train.seed=", "is not key=value"),
        ("datamanager.augmenter.min_n_augm_per_img=9", "lower the first or raise the second"),
    ],
)
def test_bad_overrides_are_refused_with_a_remedy(word: str, told: str) -> None:
    assert told in problems_of(word)


def test_all_problems_are_told_at_once_with_file_and_line(tmp_path: Path) -> None:
    config_file = tmp_path / "a.yaml"
    config_file.write_text("train:\n  learning_rat: 1\nModels:\n  image2sphere: {LMAX: 77}\n", encoding="utf-8")
    told = problems_of("stray", "lmax=3", config_file=config_file).splitlines()
    assert len(told) == 4
    assert any(line.startswith(f"{config_file}, line 2: unknown parameter train.learning_rat.") for line in told)
    assert any(line.startswith(f"{config_file}, line 4: models.image2sphere.lmax=77") for line in told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"train:\n  seed: [1\n  x: 2\n", ", line 3: is not valid YAML"),
        (b"train:\n  seed: 1\n  seed: 2\n", ", line 3: is not valid YAML: found duplicate key"),
        (b"- 1\n- 2\n", "outermost level"),
        (b"\xff\xfe\x00", "UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, told: str) -> None:
    config_file = tmp_path / "a.yaml"
    if content is not None:
        config_file.write_bytes(content)
    assert str(config_file) in problems_of(config_file=config_file)
    assert told in problems_of(config_file=config_file)


@pytest.mark.parametrize("written_by", [to_yaml, describe])
def test_what_is_written_is_read_back(tmp_path: Path, written_by: Callable[[Config], str]) -> None:
    config = load_config(None, [*OVERRIDES, f"{RESNET}.resnetName=resnet50", "train.precision=32"])
    config_file = tmp_path / "a.yaml"
    config_file.write_text(written_by(config), encoding="utf-8")
    assert load_config(str(config_file)) == config
    assert config.train.precision == "32"


def test_the_shown_tree_serves_grep() -> None:
    lines = describe(load_config(None, ["datamanager.augmenter.operations.inPlaneShifts.p=0.25"])).splitlines()
    start = next(index for index, line in enumerate(lines) if "augmenter:" in line)
    seen = "\n".join(lines[start : start + 21])
    assert "inPlaneShifts: {p: 0.25, p_final: null, max_shift: 0.05}" in seen
    for name in parameters(Config):
        if name.startswith("datamanager.augmenter."):
            assert name.split(".")[-1 - name.endswith(".p")] in seen
    assert any("augmentation" in line for line in lines)
    assert "weight_decay: 1.0e-05  # number from 0 to 1: " in "\n".join(lines)


def test_batch_and_copies_must_fit() -> None:
    assert load_config().batch_problems(64) == []
    assert "use 32" in load_config().batch_problems(31)[0]
    assert load_config(None, ["datamanager.augment_train=False"]).batch_problems(31) == []


def test_no_name_is_near_nonsense() -> None:
    assert nearest("qqqq", parameters(Config)) == []
    assert nearest("x", []) == []


def test_the_schema_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, cryopares_core.config.cli, cryopares_core.config.arguments, cryopares_core.config.show\n"
        "from cryopares_core.config.merge import load_config\n"
        "assert 'omegaconf' not in sys.modules\n"
        "load_config()\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[1])
