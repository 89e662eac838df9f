"""A training step: in pieces or in several batches it gives the same gradients; what ends a training that goes wrong."""

import logging
import math

import numpy as np
import pytest
import torch
from settings import SMALL

from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.merge import load_config
from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import matrix_to_euler_degs, random_rotations
from cryopares_core.particles.batches import Batch
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.training.module import PoseTraining
from cryopares_core.training.phases import Phases
from cryopares_core.training.plan import Plan
from cryopares_core.training.step import STATISTICS, TrainingStep
from cryopares_core.training.stopping import EarlyStopping
from cryopares_core.training.watch import Diverged, DivergenceGuard, Readings


def make(*config):
    """A step and its module. Norms of the encoder are fixed: theirs depend on what is looked at together."""
    settings = PreprocessSettings(sampling_rate_angs=10.0, image_size_px=32)
    plan = Plan(TrainArguments(), load_config(None, [*SMALL, *config]), "C1", settings, torch.device("cpu"), Phases())
    torch.manual_seed(0)
    module = PoseTraining(plan.network(), "C1", plan.mask)
    module.network.encoder.eval()
    module, optimizer = plan.fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    return TrainingStep(plan.fabric, module, optimizer, plan.config, None, seed=1), module


def some_batch(count):
    generator = torch.Generator().manual_seed(4)
    eulers = matrix_to_euler_degs(random_rotations(count, generator)).float()
    return Batch(torch.randn(count, 1, 32, 32, generator=generator).half(), eulers, torch.arange(count))


def parts_of(batch, size):
    return [Batch(*(x[first : first + size] for x in (batch.images, batch.eulers_degs, batch.ids))) for first in range(0, 12, size)]


def gradients(module):
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


def assert_same_gradients(first, second):
    assert first.keys() == second.keys() and len(first) > 5
    for name, value in second.items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-6 + 1e-4 * float(value.abs().max()), msg=name)


def stepped(step, module, batches):
    """What a step finds and its gradients, before they are clipped."""
    found = step._gradients(batches, 0, 0.0, True)
    return torch.cat([part.double() for part in found]), gradients(module)


@pytest.mark.parametrize("pieces", [2, 5, 12])
def test_pieces_of_a_batch_give_its_gradients(pieces):
    step, module = make("datamanager.augment_train=True")
    found, whole = stepped(step, module, [some_batch(12)])
    step.pieces = pieces
    found_in_pieces, in_pieces = stepped(step, module, [some_batch(12)])
    torch.testing.assert_close(found_in_pieces, found, rtol=1e-3, atol=1e-3)
    assert_same_gradients(in_pieces, whole)


@pytest.mark.parametrize("size", [3, 6])
def test_accumulated_batches_give_the_gradients_of_one(size):
    step, module = make("datamanager.augment_train=False")
    _, whole = stepped(step, module, [some_batch(12)])
    _, accumulated = stepped(step, module, parts_of(some_batch(12), size))
    assert_same_gradients(accumulated, whole)


def small_memory(module, most):
    """The network then fails as it does on a GPU that has no room for more than so many pictures."""

    def check(_, inputs):
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    module.network.encoder.register_forward_pre_hook(check)


def test_without_memory_a_step_is_repeated_in_pieces(caplog):
    roomy, module = make()
    expected = roomy([some_batch(12)], 0, 0.0, True, False)
    weights = {name: value.clone() for name, value in module.named_parameters()}
    step, module = make()
    small_memory(module, 7)
    with caplog.at_level(logging.WARNING):
        found = step([some_batch(12)], 0, 0.0, True, False)
    assert step.pieces == 4 and "in 4 pieces" in caplog.text  # 24 pictures with their copies
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for name, value in module.named_parameters():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-5)


def test_where_one_picture_is_too_much_the_user_is_told():
    step, module = make()
    small_memory(module, 0)
    with pytest.raises(UserError, match="Lower --batch_size"):
        step([some_batch(12)], 0, 0.0, True, False)


def test_other_errors_are_not_taken_for_a_small_memory():
    step, module = make()

    def fails(*_):
        raise RuntimeError("shape mismatch")

    module.network.encoder.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        step([some_batch(12)], 0, 0.0, True, False)
    assert step.pieces == 1


def test_a_step_follows_from_its_number_alone():
    step, _ = make("train.gradient_clip_norm=0.0001")
    first = step([some_batch(12)], 7, 0.5, True, False)
    torch.manual_seed(999)
    again, _ = make("train.gradient_clip_norm=0.0001")
    assert torch.equal(again([some_batch(12)], 7, 0.5, True, False), first)
    other, _ = make("train.gradient_clip_norm=0.0001")
    assert not torch.equal(other([some_batch(12)], 8, 0.5, True, False), first)
    assert len(first) == len(STATISTICS)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_it_at_once(loss):
    with pytest.raises(Diverged, match=r"train\.learning_rate=0.0001"):
        DivergenceGuard(9.0, 1e-3)(loss, 1)


def test_a_loss_that_grows_ends_it():
    guard = DivergenceGuard(9.0, 1e-3)
    with pytest.raises(Diverged, match="The loss grows"):
        for step in range(1000):
            guard(9.0 + 0.02 * step, step)


def test_the_guard_lets_hard_beginnings_and_single_bad_batches_pass():
    draws = np.random.default_rng(0)
    for start in (9.0, 14.0):  # fresh, and fine-tuned on another particle
        guard = DivergenceGuard(9.0, 1e-3)
        for step in range(2000):
            usual = 4 + (start - 4) * math.exp(-step / 300) + draws.normal(0, 0.5)
            guard(usual + (20 if step % 400 == 399 else 0), step)


def test_the_guard_goes_on_where_it_was():
    draws = np.random.default_rng(0).normal(9, 1, 100)
    whole, first, second = (DivergenceGuard(9.0, 1e-3) for _ in range(3))
    for step, loss in enumerate(draws):
        whole(loss, step)
        (first if step < 40 else second)(loss, step)
        if step == 39:
            second.load_state_dict(first.state_dict())
    assert second.state_dict() == whole.state_dict()


def test_early_stopping_waits_for_so_many_epochs():
    stopping = EarlyStopping(5)
    for loss in (3.0, 2.0, 2.5, 2.4, 1.9, 2.0, 2.0, 1.9, 2.0):
        stopping.end_epoch(loss)
        assert not stopping.wanted
    stopping.end_epoch(2.0)
    assert stopping.wanted
    never = EarlyStopping(None)
    for _ in range(100):
        never.end_epoch(1.0)
    assert not never.wanted


def test_readings_come_late_and_none_is_lost():
    readings = Readings()
    pushed = [readings.push(torch.tensor([float(number)])) for number in range(6)]
    assert pushed == [None, None, [0.0], [1.0], [2.0], [3.0]]
    assert readings.waiting() == [[4.0], [5.0]]
    other = Readings()
    other.restore(readings.waiting())
    assert other.push(torch.tensor([6.0])) == [4.0]
