"""Half maps from particles: against the map that the pictures show, another package, RELION's pictures, and what goes wrong."""

import dataclasses
import json
import shutil

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from volumes import likeness

from cryopares_core.commands.reconstruct import main
from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import random_rotations
from cryopares_core.particles.ctf import CtfTensors, ctf_2d, ctf_tensors
from cryopares_core.particles.ctf_at import CtfAt
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import FLIPPED, MULTIPLIED
from cryopares_core.volumes import half_maps
from cryopares_core.volumes.fourier_sums import FourierSums
from cryopares_core.volumes.fsc import FscCurves
from cryopares_core.volumes.half_maps import _noise_to_signal, reconstruct_half_maps
from cryopares_core.volumes.insertion import Inserter, sum_halves
from cryopares_core.volumes.maps import read_map, resample_map, write_map, write_stack
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.simulate import simulate_particles
from cryopares_core.volumes.slices import PictureSlices

SIZE, PIXEL = 40, 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """800 particles with CTF and shifts, little noise, three stacks, two optics groups."""
    path = tmp_path_factory.mktemp("particles")
    simulate_particles(phantom_map(SIZE, PIXEL), PIXEL, path, SimulationSettings(n_particles=800, snr=2.0, seed=5, stack_size=300))
    return path


@pytest.fixture(scope="module")
def table(folder):
    return read_particles(folder / "particles.star")[0]


@pytest.fixture(scope="module")
def truth(folder):
    return torch.from_numpy(read_map(folder / "reference.mrc")[0])


@pytest.fixture(scope="module")
def found(table):
    return reconstruct_half_maps(table)


def with_pictures(table, pictures, path):
    """The same particles with other pictures, in one stack."""
    write_stack(path, pictures.astype(np.float32), PIXEL)
    n = len(pictures)
    return dataclasses.replace(table, stack_paths=[str(path)], stack_id=np.zeros(n, np.int32), slice_id=np.arange(n))


def corrected_before(table, kind):
    return dataclasses.replace(table, ctf=dataclasses.replace(table.ctf, corrected=np.full(len(table), kind)))


def test_the_map_that_the_pictures_show(found, truth):
    curve = likeness(found.volume, truth)
    assert curve[: SIZE // 4].min() > 0.98 and curve[: SIZE // 5].min() > 0.998
    assert likeness(found.half1, truth)[: SIZE // 5].min() > 0.99
    assert likeness(found.volume.flip(0), truth)[4:9].max() < 0.9, "the hand"
    for volume in (found.half1, found.half2, found.volume):
        assert volume.shape == (SIZE,) * 3 and volume.dtype == torch.float32 and bool(volume.isfinite().all())
    assert found.n_particles == (400, 400) and found.symmetry == "C1" and found.pixel_size_angs == PIXEL


def test_corners_are_cut_and_the_mask_is_told(found):
    corners = soft_sphere(SIZE, SIZE / 2, 3.0) == 0
    for volume in (found.half1, found.half2, found.volume):
        assert volume[corners].std() < 1e-4 * volume.std()
    assert found.mask_note.startswith("made from the half maps, low-passed to ") and 0.02 < found.mask.mean() < 0.4


def test_the_correlation_of_the_halves_foretells_that_with_the_truth(found, truth):
    """Both are of one signal and independent noise: the sum's correlation with the truth is the root of 2 F / (1 + F)."""
    halves = likeness(found.half1, found.half2)
    foretold = (2 * halves / (1 + halves)).clamp(min=0).sqrt()
    measured = likeness(found.half1 + found.half2, truth)
    assert (foretold - measured).abs()[: SIZE // 2 - 2].max() < 0.04
    assert 2 * PIXEL < found.resolution_angs < found.fsc.unmasked_resolution_angs < 4 * PIXEL


@pytest.mark.parametrize("size", [48, 33])
def test_projections_give_their_map_back_to_near_nyquist(size):
    truth = torch.from_numpy(phantom_map(size, 4.0)).float()
    poses = random_rotations(1200, torch.Generator().manual_seed(1)).float()
    sums, slices = FourierSums(size), PictureSlices(size)
    values = slices.spectra(Projector(truth).project(poses)).view(-1)
    sums.add(slices.points(poses, sums.grid / size), values, torch.ones(values.shape))
    sums.join_mates()
    again = sums.map(1e-3 * sums.shell_weights())
    assert likeness(again, truth)[: size // 2 - 1].min() > 0.99
    inside = truth > 0.3 * truth.max()
    assert float((again * truth)[inside].sum() / truth[inside].square().sum()) == pytest.approx(1, abs=0.02)


def test_agrees_with_torch_fourier_slice():
    package = pytest.importorskip("torch_fourier_slice")
    poses = random_rotations(800, torch.Generator().manual_seed(2)).float()
    pictures = Projector(torch.from_numpy(phantom_map(32, 6.0, seed=2)).float()).project(poses)
    theirs = package.backproject_2d_to_3d(pictures, poses.mT, pad_factor=2.0, fftfreq_max=0.5)
    sums, slices = FourierSums(32), PictureSlices(32)
    values = slices.spectra(pictures).view(-1)
    sums.add(slices.points(poses, 2.0), values, torch.ones(values.shape))
    sums.join_mates()
    ours = sums.map(1e-3 * sums.shell_weights())
    assert likeness(ours, theirs)[:14].min() > 0.99
    inside = theirs > 0.3 * theirs.max()
    assert float((ours * theirs)[inside].sum() / theirs[inside].square().sum()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["rln_proj_64_centered", "rln_proj_64_shifted"])
def test_relions_pictures_lie_where_relions_map_has_them(shared, name):
    """Few views fill few places; there the sums' quotient is the map's own transform."""
    gold = shared / "data" / "relion_gold_70S"
    table, _ = read_particles(gold / f"{name}.star", needs_ctf=False, split_halfs=False)
    inserter = Inserter(table, np.ones(len(table)), None, "cpu")
    sums = inserter.new_sums()
    inserter.add(sums, np.arange(len(table)), read_images(table, np.arange(len(table))))
    sums.join_mates()
    volume = torch.from_numpy(resample_map(read_map(gold / "clean70SRibosome_vol_65p.mrc", 5.0)[0], 64))
    padded = torch.nn.functional.pad(volume, (32,) * 6)
    expected = torch.fft.fftshift(torch.fft.rfftn(torch.fft.ifftshift(padded)), dim=(0, 1))[..., :65]
    weight = sums.inner(sums.weights)
    for low, high in ((2, 10), (10, 20), (20, 30)):
        met = (weight > 0.8) & (sums.shells() >= low) & (sums.shells() < high)
        a, b = sums.quotient(torch.zeros(33))[met], expected[met]
        correlation = (a * b.conj()).sum().real / (a.abs().square().sum() * b.abs().square().sum()).sqrt()
        assert met.sum() > 20 and correlation > 0.97


def test_ctf_at_frequencies_is_the_ctf():
    generator = torch.Generator().manual_seed(0)
    low = torch.tensor([5000.0, 5000.0, -180.0, 80.0, 0.0, 0.02, 0.0])[:, None]
    high = torch.tensor([30000.0, 30000.0, 180.0, 300.0, 2.7, 0.2, 90.0])[:, None]
    ctf = CtfTensors(*(low + (high - low) * torch.rand(7, 40, generator=generator)))
    ky = torch.fft.fftfreq(64, 1.5)[:, None].expand(-1, 33)
    frequencies = torch.stack((torch.fft.rfftfreq(64, 1.5).expand(64, -1), ky)).flatten(1)
    torch.testing.assert_close(CtfAt(frequencies)(ctf).view(40, 64, 33), ctf_2d(ctf, 1.5, 64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [FLIPPED, MULTIPLIED])
def test_pictures_that_were_corrected_before(table, found, truth, tmp_path, kind):
    pictures = torch.from_numpy(read_images(table, np.arange(len(table))))
    ctf = ctf_2d(ctf_tensors(table.ctf), PIXEL, SIZE)
    factor = torch.where(ctf < 0, -1.0, 1.0) if kind == FLIPPED else ctf
    corrected = torch.fft.irfft2(torch.fft.rfft2(pictures) * factor, s=(SIZE, SIZE)).numpy()
    changed = corrected_before(with_pictures(table, corrected, tmp_path / "corrected.mrcs"), kind)
    assert likeness(reconstruct_half_maps(changed).volume, found.volume)[: SIZE // 2 - 3].min() > 0.99
    unsaid = with_pictures(table, corrected, tmp_path / "corrected.mrcs")
    assert likeness(reconstruct_half_maps(unsaid).volume, truth)[: SIZE // 2 - 3].min() < 0.9


def test_particles_without_a_ctf_are_projections(table, found, truth):
    without = likeness(reconstruct_half_maps(table, use_ctf=False).volume, truth)
    assert without[3:10].min() < likeness(found.volume, truth)[3:10].min() - 0.05
    assert without[9:].min() < -0.1, "where the CTF changes its sign"


def test_threads_change_nothing_but_rounding(table):
    inserter = Inserter(table, np.ones(len(table)), None, "cpu")
    one, three = (sum_halves(inserter, workers) for workers in (1, 3))
    for a, b in zip(one, three, strict=True):
        torch.testing.assert_close(a.values, b.values, atol=1e-5 * float(a.values.abs().max()), rtol=1e-4)
        torch.testing.assert_close(a.weights, b.weights, atol=1e-5 * float(a.weights.max()), rtol=1e-4)


def test_weights_say_how_much_a_particle_counts(table, found, tmp_path):
    """Particles of weight 0 are as good as absent, and one factor for all changes nothing."""
    pictures = read_images(table, np.arange(len(table)))
    junk = np.arange(len(table)) % 4 < 2
    pictures[junk] = np.random.default_rng(0).normal(0, 5, pictures[junk].shape)
    mixed = with_pictures(table, pictures, tmp_path / "junk.mrcs")
    good = reconstruct_half_maps(table.subset(np.flatnonzero(~junk)))
    weighted = reconstruct_half_maps(mixed, weights=np.where(junk, 0.0, 0.3))
    torch.testing.assert_close(weighted.half1, good.half1, atol=1e-4 * float(good.half1.abs().max()), rtol=0)
    assert reconstruct_half_maps(mixed).resolution_angs > weighted.resolution_angs


def test_nothing_beyond_a_resolution_limit(table, found):
    limit = 20.0
    coarse = reconstruct_half_maps(table, resolution_limit_angs=limit)
    shell = int(SIZE * PIXEL / limit)
    assert likeness(coarse.half1, found.half1)[: shell - 1].min() > 0.99
    spectrum = torch.fft.rfftn(coarse.half1).abs()
    k = torch.fft.fftfreq(SIZE, 1 / SIZE)
    beyond = (k[:, None, None] ** 2 + k[:, None] ** 2 + torch.arange(SIZE // 2 + 1) ** 2).sqrt() > shell + 3
    assert spectrum[beyond].square().sum() < 1e-3 * spectrum.square().sum()
    assert coarse.resolution_angs == pytest.approx(limit, rel=0.1)


def test_symmetry_makes_one_map_of_fewer_particles(table, tmp_path):
    two_fold = torch.from_numpy(phantom_map(SIZE, PIXEL)).float()
    two_fold = (two_fold + two_fold.flip((1, 2)).roll((1, 1), (1, 2))) / 2  # a half turn about z, through voxel n // 2
    simulate_particles(two_fold.numpy(), PIXEL, tmp_path, SimulationSettings(n_particles=150, snr=0.5, seed=6))
    few = read_particles(tmp_path / "particles.star")[0]
    alone, mates = reconstruct_half_maps(few), reconstruct_half_maps(few, "c2")
    assert mates.symmetry == "C2" and mates.resolution_angs < alone.resolution_angs
    assert likeness(mates.volume, two_fold)[:10].mean() > likeness(alone.volume, two_fold)[:10].mean()


def test_noise_alone_has_no_resolution_under_any_symmetry(table, tmp_path):
    pictures = np.random.default_rng(1).normal(size=(len(table), SIZE, SIZE))
    for name in ("C1", "D3", "O"):  # mates leave few independent places: the correlation of each shell scatters, not its mean
        found = reconstruct_half_maps(with_pictures(table, pictures, tmp_path / "noise.mrcs"), name)
        assert abs(float(found.fsc.corrected[4:].mean())) < 0.17 and found.resolution_angs > 40  # scatters by 0.06 under O
        assert found.volume.std() < 0.3 * found.half1.std()


def test_particles_of_another_simulator(shared):
    """Made by other code: the hand, the sign of shifts and of the CTF, the axes of astigmatism."""
    folder = shared / "data" / "tiny_32"
    found = reconstruct_half_maps(read_particles(folder / "particles.star", folder)[0])
    truth = torch.from_numpy(read_map(folder / "reference.mrc")[0])
    assert likeness(found.volume, truth)[:8].min() > 0.9
    assert likeness(found.volume.flip(0), truth)[3:8].max() < 0.8


class TestRefused:
    def test_poses_and_weights_that_are_no_numbers_by_row(self, table):
        eulers = table.eulers_deg.copy()
        eulers[[3, 7], 1] = np.nan
        weights = np.ones(len(table))
        weights[5] = -1
        with pytest.raises(UserError) as error:
            reconstruct_half_maps(dataclasses.replace(table, eulers_deg=eulers), weights=weights)
        assert "Rows 4, 8: the angles" in str(error.value) and "Row 6: weights" in str(error.value)

    def test_an_empty_half(self, table):
        with pytest.raises(UserError, match="Half set 2 has no particles"):
            reconstruct_half_maps(dataclasses.replace(table, half_set=np.ones(len(table), np.int8)))
        with pytest.raises(UserError, match="half set 1 have the weight 0"):
            reconstruct_half_maps(table, weights=(table.half_set == 2).astype(float))

    def test_several_pixel_sizes(self, table):
        pixels = table.pixel_size_angs.copy()
        pixels[:10] = 5.2
        with pytest.raises(UserError, match=r"40 px of 5 Å, 40 px of 5\.2 Å"):
            reconstruct_half_maps(dataclasses.replace(table, pixel_size_angs=pixels))

    def test_too_little_memory_before_a_picture_is_read(self, table, monkeypatch):
        monkeypatch.setattr(half_maps, "free_memory_bytes", lambda: 5e6)
        with pytest.raises(UserError, match=r"box of 40 px needs \d+ MB of memory.*--resolution_limit_angs"):
            reconstruct_half_maps(dataclasses.replace(table, stack_paths=["/nowhere"] * len(table.stack_paths)))

    @pytest.mark.filterwarnings("ignore:Data array contains NaN")
    def test_pictures_that_show_nothing_all_by_name(self, table, tmp_path):
        pictures = read_images(table, np.arange(len(table)))
        pictures[3], pictures[600, 5, 5] = 1.0, np.nan
        with pytest.raises(UserError) as error:
            reconstruct_half_maps(with_pictures(table, pictures, tmp_path / "bad.mrcs"))
        assert [name in str(error.value) for name in ("000004@", "000601@", "000005@")] == [True, True, False]


class TestCommand:
    def test_leaves_maps_and_curves(self, folder, tmp_path, truth, capsys):
        words = ["--particles_star_fname", str(folder / "particles.star"), "--out_dir", str(tmp_path / "out"), "--n_threads", "1"]
        assert main([*words, "--symmetry", "C1", "--mask_radius_angs", "70"]) == 0
        out = tmp_path / "out"
        names = {"half1_map.mrc", "half2_map.mrc", "map.mrc", "mask.mrc", "fsc.csv", "fsc.star", "fsc.png", "reconstruction.json"}
        assert {path.name for path in out.iterdir()} == names
        for name in ("half1_map.mrc", "half2_map.mrc", "map.mrc", "mask.mrc"):
            with mrcfile.open(out / name) as file:
                assert file.header.mode == 2 and file.is_volume() and file.voxel_size.x == pytest.approx(PIXEL)
                assert file.header.origin.tolist() == (0, 0, 0) and file.header.nxstart == 0
        assert likeness(torch.from_numpy(read_map(out / "map.mrc")[0]), truth)[:8].min() > 0.998
        told = json.loads((out / "reconstruction.json").read_text())
        tables = starfile.read(out / "fsc.star", always_dict=True)
        assert told["resolution_angs"] == pytest.approx(tables["general"]["rlnFinalResolution"], abs=1e-3)
        assert tables["fsc"]["rlnFourierShellCorrelationCorrected"].iloc[1] > 0.99 and len(tables["fsc"]) == SIZE // 2 + 1
        assert told["mask"] == "as given" and told["b_factor_angs2"] is None and "does not reach 10 Å" in told["sharpening"]
        torch.testing.assert_close(torch.from_numpy(read_map(out / "mask.mrc")[0]), soft_sphere(SIZE, 14.0))
        said = capsys.readouterr().out
        assert "MB of memory" in said and f"Resolution (0.143): {told['resolution_angs']:.2f} Å" in said

    def test_makes_a_mask_and_sharpens_as_asked(self, folder, tmp_path, truth, capsys):
        out = tmp_path / "out"
        words = ["--particles_star_fname", str(folder / "particles.star"), "--out_dir", str(out), "--n_threads", "1"]
        assert main([*words, "--b_factor", "-300"]) == 0
        told, said = json.loads((out / "reconstruction.json").read_text()), capsys.readouterr().out
        assert told["mask"].startswith("made from the half maps") and f"Mask: {told['mask']}" in said
        assert told["b_factor_angs2"] == -300 and f"Sharpening: {told['sharpening']}" in said
        mask, sharpened = (torch.from_numpy(read_map(out / name)[0]) for name in ("mask.mrc", "map_sharpened.mrc"))
        assert mask[truth > 0.2 * truth.max()].min() > 0.8 and mask.mean() < 0.4
        assert likeness(sharpened, truth)[: SIZE // 4].min() > 0.98
        assert main([*words, "--b_factor", "none"]) == 0
        assert not (out / "map_sharpened.mrc").exists(), "of an earlier reconstruction"

    def test_weights_and_a_mask_from_files(self, folder, tmp_path, truth):
        table = read_particles(folder / "particles.star")[0]
        table.write_star(folder / "weighted.star", {"rlnParticleFigureOfMerit": np.linspace(0, 1, len(table)).round(3)})
        write_map(tmp_path / "mask.mrc", (truth.numpy() > 0.1 * float(truth.max())).astype(np.float32), PIXEL)
        words = ["--particles_star_fname", str(folder / "weighted.star"), "--out_dir", str(tmp_path / "out")]
        words += ["--weights_column", "rlnParticleFigureOfMerit", "--mask_fname", str(tmp_path / "mask.mrc"), "--n_threads", "1"]
        assert main(words) == 0
        assert json.loads((tmp_path / "out" / "reconstruction.json").read_text())["resolution_angs"] < 3 * PIXEL

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--weights_column", "rlnFigureOfMerit"], "no column rlnFigureOfMerit"),
            (["--weights_column", "rlnImageName"], "row 1, rlnImageName = '000001@"),
            (["--mask_radius_angs", "500"], "holds a radius of 100 Å"),
            (["--mask_fname", "mask.mrc"], "its side is 20 px"),
            (["--symmetry", "X4"], "'X4' is not a point group"),
            (["--mask_fname", "mask.mrc", "--mask_radius_angs", "50"], "exclude each other"),
            (["--resolution_limit_angs", "0"], "expected number above 0"),
            (["--b_factor", "much"], "expected auto, none or a number of Å^2 from -1000 to 1000"),
            (["--b_factor", "nan"], "expected auto, none or a number"),
        ],
    )
    def test_refuses_what_is_wrong_and_leaves_nothing(self, folder, tmp_path, capsys, monkeypatch, more, said):
        monkeypatch.chdir(tmp_path)
        write_map("mask.mrc", np.eye(20, dtype=np.float32)[None].repeat(20, 0), 9.0)
        assert main(["--particles_star_fname", str(folder / "particles.star"), "--out_dir", "out", *more]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("nan_angle", "rlnAngle"),
            ("only_half1", "no particles in half set 2 (rlnRandomSubset). Give both halves.\n"),
            ("no_ctf", "--ctf_correction False"),
            ("stack_missing", "no such stack"),
        ],
    )
    def test_refuses_bad_star_files(self, shared, tmp_path, capsys, name, said):
        star = shared / "data" / "star_bad" / f"{name}.star"
        words = ["--particles_dir", str(shared / "data" / "tiny_32"), "--out_dir", str(tmp_path / "out")]
        assert main(["--particles_star_fname", str(star), *words]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()

    def test_a_broken_picture_leaves_no_map(self, folder, tmp_path, capsys):
        shutil.copytree(folder, tmp_path / "copy")
        with mrcfile.open(tmp_path / "copy" / "Particles" / "particles_002.mrcs", "r+") as file:
            file.data[17] = 0.0
        words = ["--particles_star_fname", str(tmp_path / "copy" / "particles.star"), "--out_dir", str(tmp_path / "out")]
        assert main(words) == 2
        assert "000018@" in capsys.readouterr().err and not (tmp_path / "out").exists()

    def test_a_huge_pixel_leaves_no_map(self, folder, tmp_path, capsys):
        shutil.copytree(folder, tmp_path / "copy")
        with mrcfile.open(tmp_path / "copy" / "Particles" / "particles_002.mrcs", "r+") as file:
            file.data[17, 3, 3] = 1e20
        words = ["--particles_star_fname", str(tmp_path / "copy" / "particles.star"), "--out_dir", str(tmp_path / "out")]
        assert main(words) == 2
        told = capsys.readouterr().err
        assert "000018@" in told and "its pixels reach 1e+20" in told and not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["map.mrc", "half2_map.mrc", "mask.mrc"])
    def test_maps_of_something_else_are_not_overwritten(self, folder, tmp_path, capsys, name):
        (tmp_path / name).write_text("mine")
        words = ["--particles_star_fname", str(folder / "particles.star"), "--out_dir", str(tmp_path), "--n_threads", "1"]
        assert main(words) == 2
        assert f"{name} there is of something else" in capsys.readouterr().err and (tmp_path / name).read_text() == "mine"
        (tmp_path / ".unfinished").touch()  # as if its own writing had been killed
        assert main(words) == 0 and not (tmp_path / ".unfinished").exists()
        (tmp_path / "reconstruction.json").unlink()  # as the plugin does before it starts the command again
        assert main(words) == 0

    def test_a_mask_that_is_missing_or_has_no_pixel_size(self, folder, tmp_path, capsys):
        words = ["--particles_star_fname", str(folder / "particles.star"), "--out_dir", str(tmp_path / "out")]
        assert main([*words, "--mask_fname", str(tmp_path / "none.mrc")]) == 2
        assert "none.mrc does not exist: check --mask_fname" in capsys.readouterr().err
        write_map(tmp_path / "mask.mrc", phantom_map(SIZE, PIXEL).clip(0, 1), 0.0)
        assert main([*words, "--mask_fname", str(tmp_path / "mask.mrc")]) == 2
        told = capsys.readouterr().err
        assert "no pixel size: write it again" in told and "--sampling_rate" not in told


def test_products_are_exact_on_cards_that_would_round_them(table, monkeypatch):
    seen, usual = set(), Inserter.add

    def noted(self, *given):
        seen.add(torch.get_float32_matmul_precision())
        usual(self, *given)

    monkeypatch.setattr(Inserter, "add", noted)
    torch.set_float32_matmul_precision("high")
    try:
        reconstruct_half_maps(table.subset(np.arange(40)))
        assert seen == {"highest"} and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_poor_first_shell_does_not_end_the_map() -> None:
    """Uneven backgrounds spoil the lowest frequencies; the detail beyond is still signal."""
    correlation = torch.tensor([1.0, 0.01, 0.6, 0.9, 0.9, 0.5, 0.01, 0.2])
    fsc = FscCurves(correlation, correlation, correlation, correlation, 6, 100.0)
    kept = 1 / (1 + _noise_to_signal(fsc))
    assert (kept[3:6] > 0.6).all() and (kept[6:] < 1e-3).all() and kept[1] < 0.1
