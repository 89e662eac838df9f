"""Batches of an epoch: all particles once, shared among processes, the same again from anywhere."""

import numpy as np
import pytest
import torch

from cryopares_core.particles.batches import EpochLoader, PreparedDataset, split_particles


def dataset(count):
    return PreparedDataset(torch.arange(count).view(-1, 1, 1, 1).half(), torch.zeros(count, 3), np.arange(count))


@pytest.mark.parametrize(("count", "batch", "ranks"), [(100, 8, 1), (100, 8, 2), (1000, 96, 3), (7, 16, 1)])
def test_no_particle_is_seen_twice_in_an_epoch_by_any_process(count, batch, ranks):
    shares = [EpochLoader(dataset(count), batch, 5, (rank, ranks)).positions(2) for rank in range(ranks)]
    (whole,) = {len(of_one) for of_one in shares}
    assert whole == max(1, count // batch)
    seen = np.concatenate([np.concatenate(of_one) for of_one in shares])
    assert len(seen) == len(set(seen.tolist())) == whole * min(batch, count)
    one_process = EpochLoader(dataset(count), batch, 5).positions(2)
    for number, places in enumerate(one_process):
        assert sorted(places) == sorted(np.concatenate([of_one[number] for of_one in shares]))


def test_validation_sees_every_particle_once():
    shares = [EpochLoader(dataset(103), 8, None, (rank, 2)).positions(0) for rank in range(2)]
    assert sorted(np.concatenate([np.concatenate(of_one) for of_one in shares])) == list(range(103))


@pytest.mark.parametrize("start", [0, 1, 7, 12])
def test_an_epoch_goes_on_from_any_batch(start):
    loader = EpochLoader(dataset(200), 16, 3)
    whole, rest = list(loader.epoch(4)), list(loader.epoch(4, start))
    assert len(rest) == len(whole) - start
    for again, before in zip(rest, whole[start:], strict=True):
        assert torch.equal(again.ids, before.ids) and torch.equal(again.images, before.images)


def test_epochs_have_other_orders_and_all_particles_have_their_turn():
    loader = EpochLoader(dataset(100), 16, 3)
    first, second = (np.concatenate(loader.positions(epoch)) for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert set(np.concatenate([np.concatenate(loader.positions(epoch)) for epoch in range(20)])) == set(range(100))
    assert not np.array_equal(first, np.concatenate(EpochLoader(dataset(100), 16, 4).positions(0)))


def test_a_set_up_is_tried_on_the_same_few_batches():
    loader = EpochLoader(dataset(100), 16, 3, limit=2)
    assert len(loader) == 2
    assert all(np.array_equal(first, second) for first, second in zip(loader.positions(0), loader.positions(9), strict=True))


def test_a_batch_is_gathered_whole_and_tells_whose_it_is():
    batch = next(EpochLoader(dataset(50), 8, 1).epoch(0))
    assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.ids)


def test_an_epoch_that_is_left_early_leaves_no_thread():
    import threading

    epoch = EpochLoader(dataset(5000), 8, 1).epoch(0)
    next(epoch)
    epoch.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("seed", range(10))
def test_splits_hold_every_particle_once_in_its_half_set(seed):
    draws = np.random.default_rng(seed)
    half_set = draws.integers(1, 3, draws.integers(4, 60))
    for half, (train, val) in split_particles(half_set, draws.uniform(0.01, 0.5), seed).items():
        assert sorted(np.concatenate([train, val])) == np.flatnonzero(half_set == half).tolist()
        assert len(val) >= 1
