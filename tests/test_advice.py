"""Proposals for pixel size, box and mask, and the memory that is told with them."""

import pytest
import torch

from cryopares_core.config.advice import (
    COARSEST_ANGS,
    FINEST_ANGS,
    PADDING,
    good_box_above,
    good_box_below,
    has_small_factors,
    propose,
    remarks,
    step_bytes,
    store_bytes,
)
from cryopares_core.config.schema import Config
from cryopares_core.model.network import PoseNetwork
from cryopares_core.progress import size_text


@pytest.mark.parametrize("diameter", [60.0, 110.0, 200.0, 290.0, 420.0, 900.0])
@pytest.mark.parametrize(("pixel", "box"), [(0.66, 512), (1.07, 400), (1.3, 256), (2.0, 128), (3.9, 64)])
def test_a_proposal_fits_the_particle_and_the_pictures(diameter: float, pixel: float, box: int) -> None:
    found = propose(diameter, pixel, box)
    extent, own = found.image_size_px * found.sampling_rate_angs, pixel * box
    assert found.image_size_px % 2 == 0
    assert has_small_factors(found.image_size_px)
    assert found.sampling_rate_angs >= pixel
    assert found.sampling_rate_angs <= max(pixel, COARSEST_ANGS)
    assert extent <= own * (1 + 1e-6)
    assert found.mask_radius_angs <= extent / 2 + 0.05
    if own > 1.6 * PADDING * diameter:
        assert extent >= PADDING * diameter * 0.999
        assert not any("room" in text for text in found.remarks)
    if own < PADDING * diameter:
        assert any("extract them with a larger one" in text for text in found.remarks)


def test_typical_particles() -> None:
    # 130 Å (apoferritin): the finest pixel size; 290 Å (70S): coarser, for a box that trains fast.
    small, large = propose(130.0, 0.8, 320), propose(290.0, 1.1, 440)
    assert (small.sampling_rate_angs, small.image_size_px) == (FINEST_ANGS, 120)
    assert (large.sampling_rate_angs, large.image_size_px) == (2.3, 160)
    assert small.remarks == large.remarks == ()


def test_pictures_are_not_rescaled_by_a_hair() -> None:
    assert propose(130.0, 1.46, 200).sampling_rate_angs == 1.46


def test_boxes_have_small_factors() -> None:
    assert [good_box_above(size) for size in (1, 33.2, 97, 121, 160, 163)] == [16, 36, 100, 128, 160, 180]
    assert [good_box_below(size) for size in (3, 37, 99, 127.9, 160)] == [16, 36, 96, 120, 160]
    assert [has_small_factors(size) for size in (1, 2, 7, 30, 98, 160)] == [True, True, False, True, False, True]


def test_remarks_name_what_is_odd() -> None:
    assert remarks(150.0, 2.0, 100, 1.0, 256) == []
    assert "odd or has large prime factors: 100 px is faster" in remarks(150.0, 2.0, 97, 1.0, 256)[0]
    assert "smaller than the particle" in remarks(150.0, 2.0, 64, 1.0, 256)[0]
    assert "filled up with zeros" in remarks(150.0, 2.0, 160, 1.0, 256)[0]
    assert "shows nothing more" in remarks(150.0, 1.0, 200, 1.5, 256)[0]
    assert "coarse" in remarks(150.0, 5.0, 50, 1.5, 256)[0]


def test_memory_is_in_plain_units() -> None:
    assert store_bytes(100_000, 160) == 100_000 * 160 * 160 * 2
    assert store_bytes(1000, 64, channels=2) == 2 * store_bytes(1000, 64)
    assert [size_text(size) for size in (3e5, 6.4e8, 5.12e9)] == ["under 1 MB", "640 MB", "5.1 GB"]


@pytest.mark.parametrize("box", [96, 160])
def test_what_a_step_keeps_is_as_counted(box: int) -> None:
    counted = _kept_bytes(box, 4) - _kept_bytes(box, 2)
    assert step_bytes(2, box) == pytest.approx(counted, rel=0.12)


def _kept_bytes(box: int, batch: int) -> int:
    """Bytes that the default network keeps for its gradients, in the precision that a GPU trains in."""
    torch.manual_seed(0)
    network = PoseNetwork(Config().models.image2sphere, "C1", box).train()
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        coefficients = network(torch.randn(batch, 1, box, box))
        with torch.autocast("cpu", enabled=False):
            values = network.density.grid_values(coefficients)
            loss = network.density.loss(coefficients, values, torch.rand(batch, 3) * 180).mean()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
