"""Poses of two STAR files against each other: differences that are known, names in any order, common turns, and refusals."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from cryopares_core.commands.compare_poses import main
from cryopares_core.errors import UserError
from cryopares_core.geometry.alignment import common_turn, distances_degs, mirrored, nearest_mates
from cryopares_core.geometry.rotations import matrix_to_euler_degs, pose_error_degs, random_rotations, rotvec_to_matrix
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.inference.comparison import PoseComparison
from cryopares_core.inference.comparison_remarks import remarks
from cryopares_core.particles.pose_files import match, read_poses
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector

N = 300
C1 = torch.eye(3, dtype=torch.float64)[None]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def turned(poses, degs, seed=0):
    """Each pose turned by an angle about an axis of its own."""
    axes = torch.nn.functional.normalize(torch.randn(len(poses), 3, generator=generator(seed), dtype=torch.float64), dim=1)
    return rotvec_to_matrix(axes * math.radians(degs)) @ poses


def write_star(path, poses, shifts=None, names=None, halves=True):
    """A STAR file of poses; pictures need not be there."""
    eulers = matrix_to_euler_degs(poses).numpy()
    shifts = np.zeros((len(poses), 2)) if shifts is None else shifts
    names = [f"{row % 100 + 1:06d}@Extract/stack{row // 100}.mrcs" for row in range(len(poses))] if names is None else names
    columns = ["ImageName", "AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "OpticsGroup"]
    rows = [
        f"{name} {r:.5f} {t:.5f} {p:.5f} {x:.4f} {y:.4f} 1" for name, (r, t, p), (x, y) in zip(names, eulers, shifts, strict=True)
    ]
    if halves:
        columns, rows = [*columns, "RandomSubset"], [f"{row} {1 + number % 2}" for number, row in enumerate(rows)]
    text = ["data_optics", "loop_", "_rlnOpticsGroup", "_rlnImagePixelSize", "1 2.0", "", "data_particles", "loop_"]
    path.write_text("\n".join([*text, *(f"_rln{name}" for name in columns), *rows, ""]))
    return path


def compared(first, second, symmetry="C1"):
    files = read_poses(first), read_poses(second)
    return PoseComparison(*files, match(*files), point_group(symmetry))


@pytest.fixture(scope="module")
def poses():
    return random_rotations(N, generator(1))


class TestAlignment:
    @pytest.mark.parametrize("name", ["C1", "C5", "D7", "O", "I"])
    def test_distances_are_those_over_all_mates(self, poses, name):
        group = point_group(name).matrices
        other = random_rotations(N, generator(2))
        torch.testing.assert_close(distances_degs(poses, other, group), pose_error_degs(poses, other, group), atol=1e-9, rtol=0)

    def test_tiny_distances_are_exact(self, poses):
        found = distances_degs(poses, turned(poses, 1e-4), C1)
        torch.testing.assert_close(found, torch.full((N,), 1e-4, dtype=torch.float64), atol=1e-9, rtol=0)

    def test_nearest_mate_undoes_a_mate(self, poses):
        group = point_group("D3").matrices
        mates = torch.randint(6, (N,), generator=generator(3))
        found = nearest_mates(poses, poses @ group[mates].mT, group)
        assert torch.equal(found, mates)

    def test_a_common_turn_is_found_among_wrong_poses(self, poses):
        turn = random_rotations(1, generator(4))[0]
        second = turned(poses @ turn, 2.0)
        second[::3] = random_rotations(len(second[::3]), generator(5))
        assert float(distances_degs(common_turn(poses, second, C1)[None], turn[None], C1)) < 0.3

    def test_mirrored_poses_show_the_mirror_image(self, poses):
        volume = torch.from_numpy(phantom_map(25, 8.0))
        pictures = Projector(volume).project(poses[:20])
        again = Projector(volume.flip(0)).project(mirrored(poses[:20]))
        torch.testing.assert_close(again, pictures, atol=0.02 * float(pictures.abs().max()), rtol=0)


class TestMatching:
    def test_order_and_missing_particles(self, poses, tmp_path):
        shuffled = torch.randperm(N, generator=generator(6))[: N - 20]
        names = [f"{row % 100 + 1}@Extract/./stack{row // 100}.mrcs" for row in shuffled.tolist()]
        extra = [*names, "7@Extract/new.mrcs"]
        first = write_star(tmp_path / "a.star", poses)
        second = write_star(tmp_path / "b.star", torch.cat((turned(poses[shuffled], 3.0), poses[:1])), names=extra)
        found = compared(first, second)
        assert found.difference_degs == pytest.approx(3.0, abs=1e-3) and len(found.difference_degs) == N - 20
        assert sorted(found.matched.only_first) == sorted(set(range(N)) - set(shuffled.tolist()))
        assert list(found.second.names[found.matched.only_second]) == ["7@Extract/new.mrcs"]

    def test_other_folders(self, poses, tmp_path):
        first = write_star(tmp_path / "a.star", poses)
        names = [f"{row % 100 + 1}@/data/elsewhere/stack{row // 100}.mrcs" for row in range(N)]
        found = compared(first, write_star(tmp_path / "b.star", poses, names=names))
        assert found.matched.by_stack_name and found.difference_degs.max() < 1e-3

    def test_names_that_say_nothing_are_refused(self, poses, tmp_path):
        first = write_star(tmp_path / "a.star", poses)
        same = write_star(tmp_path / "same.star", poses, names=["3@Extract/stack0.mrcs"] * N)
        other = write_star(tmp_path / "other.star", poses, names=[f"{row}@x.mrcs" for row in range(N)])
        with pytest.raises(UserError, match=r"299 rows name a picture that an earlier row has \(3@Extract/stack0.mrcs\)"):
            compared(first, same)
        with pytest.raises(UserError, match="no picture in common"):
            compared(first, other)

    def test_shifts_in_pixels(self, poses, tmp_path):
        shifts = np.random.default_rng(0).normal(0, 3, (N, 2))
        first = write_star(tmp_path / "a.star", poses, shifts)
        second = write_star(tmp_path / "b.star", poses, shifts / 2)
        second.write_text(second.read_text().replace("OriginXAngst", "OriginX").replace("OriginYAngst", "OriginY"))
        assert np.abs(compared(first, second).shift_angs).max() < 1e-3


class TestRemarks:
    def test_none_for_mere_noise(self, poses, tmp_path):
        shifts = np.random.default_rng(0).normal(0, 1, (N, 2))
        first, second = write_star(tmp_path / "a.star", poses), write_star(tmp_path / "b.star", turned(poses, 4.0), shifts)
        assert remarks(compared(first, second)) == []
        wrong = write_star(tmp_path / "c.star", random_rotations(N, generator(9)))
        assert remarks(compared(first, wrong)) == []

    def test_a_turn_of_the_reference_and_its_axis(self, poses, tmp_path):
        turn = rotvec_to_matrix(torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64) * math.radians(20))
        first, second = write_star(tmp_path / "a.star", poses), write_star(tmp_path / "b.star", turned(poses @ turn, 2.0))
        (said,) = remarks(compared(first, second))
        assert "turned against the first's by " in said and "° instead of 20.0" in said
        angle = float(said.split("'s by ")[1].split("°")[0])
        axis = [float(word) for word in said.split("about (")[1].split(")")[0].split(",")]
        assert angle == pytest.approx(20, abs=0.5) and axis == pytest.approx([0, 0.6, 0.8], abs=0.03)

    def test_a_turn_under_symmetry(self, poses, tmp_path):
        """Half a step of the seven-fold: no mate is near, all are equally far."""
        turn = rotvec_to_matrix(torch.tensor([0.0, 0.0, math.pi / 7], dtype=torch.float64))
        group = point_group("D7").matrices
        mates = group[torch.randint(14, (N,), generator=generator(7))]
        first, second = write_star(tmp_path / "a.star", poses), write_star(tmp_path / "b.star", turned(poses @ turn @ mates, 1.0))
        (said,) = remarks(compared(first, second, "D7"))
        assert f"by {180 / 7:.1f}" in said and "(0.00, 0.00, 1.00)" in said and "1.00° instead of" in said

    def test_the_other_hand(self, poses, tmp_path):
        first, second = write_star(tmp_path / "a.star", poses), write_star(tmp_path / "b.star", turned(mirrored(poses), 2.0))
        (said,) = remarks(compared(first, second))
        assert "the other hand" in said and "to a median of 2.00°" in said and "about" not in said

    def test_a_moved_reference(self, poses, tmp_path):
        moved = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
        shifts = (poses[:, :2] @ moved).numpy() + np.random.default_rng(0).normal(0, 0.3, (N, 2))
        first, second = write_star(tmp_path / "a.star", poses), write_star(tmp_path / "b.star", poses, shifts)
        (said,) = remarks(compared(first, second))
        place = [float(word) for word in said.split("by (")[1].split(")")[0].split(",")]
        assert place == pytest.approx([3, -2, 1], abs=0.1)


class TestCommand:
    def test_table_files_and_pictures(self, poses, tmp_path, capsys):
        error = torch.where(torch.arange(N) % 2 == 0, 2.0, 8.0).double()
        axes = torch.nn.functional.normalize(torch.randn(N, 3, generator=generator(8), dtype=torch.float64), dim=1)
        second = rotvec_to_matrix(axes * torch.deg2rad(error)[:, None]) @ poses
        words = [str(write_star(tmp_path / "a.star", poses)), str(write_star(tmp_path / "b.star", second[:-1]))]
        assert main([*words, "--symmetry", "c1", "--out_dir", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert "299 particles are in both files" in said and "1 particles are in" in said and "100@Extract/stack2.mrcs" in said
        names = {"pose_differences.csv", "pose_differences.png", "pose_differences_by_view.png", "comparison.json", "unmatched.csv"}
        assert {path.name for path in (tmp_path / "out").iterdir()} == names
        figures = json.loads((tmp_path / "out" / "comparison.json").read_text())["figures"]
        assert figures["half 1"]["median_degs"] == pytest.approx(2, abs=1e-3)
        assert figures["half 2"]["mean_degs"] == pytest.approx(8, abs=1e-3)
        assert figures["all"]["share_under_5_degs"] == pytest.approx(150 / 299, abs=1e-4)
        rows = list(csv.DictReader((tmp_path / "out" / "pose_differences.csv").open()))
        assert len(rows) == N - 1 and rows[1]["image"] == "2@Extract/stack0.mrcs"
        assert float(rows[1]["difference_degs"]) == pytest.approx(8, abs=1e-3) and rows[1]["half_set"] == "2"
        line = (tmp_path / "out" / "unmatched.csv").read_text().splitlines()[1]
        assert line == f"{tmp_path / 'a.star'},100@Extract/stack2.mrcs"

    def test_a_file_against_itself(self, poses, tmp_path, capsys):
        path = str(write_star(tmp_path / "a.star", poses, halves=False))
        assert main([path, path, "--symmetry", "I"]) == 0
        said = capsys.readouterr().out
        assert "half 1" not in said and "Remark" not in said
        assert [line.split()[-1] for line in said.splitlines() if line.startswith(("median", "p99"))] == ["0.000"] * 4

    def test_refuses_what_is_wrong(self, poses, shared, tmp_path, capsys):
        path = str(write_star(tmp_path / "a.star", poses))
        bad = str(shared / "data" / "star_bad" / "nan_angle.star")
        for words, said in (
            ([path], "1 are given"),
            ([path, bad], "rlnAngle"),
            ([path, str(tmp_path / "none.star")], "none.star"),
            ([path, path, "--symmetry", "Q"], "not a point group"),
            ([path, path, "--simmetry", "C1"], "Did you mean --symmetry"),
        ):
            assert main(words) == 2
            assert said in capsys.readouterr().err
