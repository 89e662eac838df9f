"""The average particle that the wizards show."""

import numpy as np
import pytest

pytest.importorskip("pwem")

from cryopares_core.errors import UserError
from cryopares_plugin.wizards.average import Average, average_of, average_views, grey, guess_diameter_angs, low_passed, normalised
from cryopares_plugin.wizards.symmetry import family, same_views

BOX = 64


def disc(radius_px: float, edge_px: float = 2.0) -> np.ndarray:
    """A soft disc of height 1 in the middle of the box."""
    y, x = np.indices((BOX, BOX)) - BOX // 2
    return 1 / (1 + np.exp((np.hypot(x, y) - radius_px) / edge_px))


@pytest.mark.parametrize("radius", [8, 14, 20])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_diameter_of_a_disc_is_guessed(radius: int, noise: float) -> None:
    picture = disc(radius) + noise * np.random.default_rng(1).normal(size=(BOX, BOX))
    found = guess_diameter_angs(Average(normalised(picture), 2.0, 200, 1000))
    assert 2 * radius * 2.0 <= found <= 2 * (radius + 8) * 2.0


def test_a_flat_picture_gives_a_diameter_within_the_box() -> None:
    assert 0 < guess_diameter_angs(Average(np.zeros((BOX, BOX)), 2.0, 1, 1)) <= 2.0 * BOX


def test_low_pass_keeps_the_shape_and_takes_the_noise() -> None:
    noise = np.random.default_rng(2).normal(size=(BOX, BOX))
    assert low_passed(noise, 2.0).std() < 0.4 * noise.std()
    assert np.corrcoef(low_passed(disc(16), 2.0).ravel(), disc(16).ravel())[0, 1] > 0.99


def test_background_is_normal_and_grey_fills_the_range() -> None:
    picture = 100 + 7 * np.random.default_rng(3).normal(size=(BOX, BOX)) + 50 * disc(12)
    y, x = np.indices((BOX, BOX)) - BOX // 2
    outside = normalised(picture)[np.hypot(x, y) > 0.46 * BOX]
    assert abs(outside.mean()) < 0.05
    assert outside.std() == pytest.approx(1, abs=0.05)
    shown = grey(picture)
    assert shown.dtype == np.uint8
    assert (shown.min(), shown.max()) == (0, 255)


def test_a_protocol_without_input_is_told_what_to_do() -> None:
    with pytest.raises(UserError, match="Choose the particles or the map first"):
        average_of(object())


def test_views_of_a_map(tmp_path) -> None:
    import mrcfile
    from pwem.objects import Volume

    z, y, x = np.indices((BOX, BOX, BOX)) - BOX // 2
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as file:
        file.set_data((np.sqrt(x**2 + y**2 + z**2) < 12).astype(np.float32))
    volume = Volume(location=str(path))
    volume.setSamplingRate(2.0)
    found = average_views(volume)
    assert found.n_particles == 0
    assert 40 <= guess_diameter_angs(found) <= 56


@pytest.mark.parametrize(
    ("group", "row", "order"),
    [("C1", "C1", None), ("c4", "Cn", 4), ("D7", "Dn", 14), ("T", "T", 12), ("O", "O", 24), ("I2", "I", 60)],
)
def test_point_groups_are_explained(group: str, row: str, order: int | None) -> None:
    assert family(group) == row
    expected = "another view" if order is None else f"from {order} directions"
    assert expected in same_views(group.upper().replace("I2", "I"))


def test_no_point_group_belongs_to_no_row() -> None:
    assert family("X7") == ""
