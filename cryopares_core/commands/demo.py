"""The demonstration behind `make demo`: simulate particles, train, and test the models on particles they never saw."""

import shlex
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from cryopares_core.commands import simulate, train
from cryopares_core.commands.shell import run
from cryopares_core.errors import UserError

# Small enough for two cores: a sampling of 8 Å, low degrees, a coarse output grid (poses are refined off it).
NETWORK = [
    "datamanager.particlesDataset.sampling_rate_angs_for_nnet=8",
    "models.image2sphere.lmax=8",
    "models.image2sphere.so3components.i2sprojector.sphere_fdim=128",
    "models.image2sphere.so3components.s2conv.f_out=32",
    "models.image2sphere.so3components.so3outputgrid.hp_order=3",
]
MAP = ["--phantom", "--image_size_px", "64", "--sampling_rate", "5", "--snr", "2"]


def main(argv: Optional[Sequence[str]] = None) -> int:
    """`python -m cryopares_core.commands.demo [folder]`; the folder is `demo_output` if none is given."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    folder = Path(arguments[0] if arguments else "demo_output")
    steps = [
        (simulate.main, "cryopares_simulate", [*MAP, "--n_particles", "2000", "--seed", "1", "--out_dir", f"{folder}/particles"]),
        (
            simulate.main,
            "cryopares_simulate",
            [*MAP, "--n_particles", "500", "--seed", "2", "--out_dir", f"{folder}/new_particles"],
        ),
        (train.main, "cryopares_train", _training(folder)),
    ]
    for command, name, options in steps:
        options = [*options, "--overwrite"] if command is simulate.main else options
        sys.stdout.write(f"\n$ {name} {shlex.join(options)}\n")
        sys.stdout.flush()
        code = command(options)
        if code:
            return code
    return run(lambda: _test_on_new_particles(folder))


def _training(folder: Path) -> List[str]:
    particles = folder / "particles"
    fixed = ["--symmetry", "C1", "--particles_star_fname", str(particles / "particles.star"), "--particles_dir", str(particles)]
    return [*fixed, "--train_save_dir", f"{folder}/run", "--n_epochs", "5", "--batch_size", "64", "--config", *NETWORK]


def _test_on_new_particles(folder: Path) -> None:
    """Predict the poses of the second set with the model of half 1 and compare them with the truth."""
    import torch

    from cryopares_core.geometry.rotations import euler_degs_to_matrix, matrix_to_euler_degs, pose_error_degs
    from cryopares_core.inference.predict import predict_poses
    from cryopares_core.model.storage import load_model
    from cryopares_core.particles.star import read_particles
    from cryopares_core.plots.figures import new_figure, save_png
    from cryopares_core.plots.poses import draw_pose_comparison

    versions = sorted((folder / "run").glob("version_*"), key=lambda path: int(path.name.split("_")[1]))
    if not versions:
        raise UserError(f"{folder / 'run'}: there is no trained model in it.")
    table, _ = read_particles(folder / "new_particles" / "particles.star")
    network, card = load_model(versions[-1] / "half1")
    poses = predict_poses(network, card, table, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    truth = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    error = pose_error_degs(poses.double(), truth)
    found = matrix_to_euler_degs(poses.double())
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    table.write_star(folder / "predicted.star", {name: found[:, i].numpy().round(4) for i, name in enumerate(names)})
    share = (error < 10).double().mean()
    title = f"{len(table)} particles that the network never saw: median error {error.median():.1f}°, {share:.0%} under 10°"
    figure = new_figure(12.5, 4.3)
    draw_pose_comparison(figure, table.eulers_deg, found.numpy(), error.numpy(), title)
    save_png(figure, folder / "held_out_poses.png")
    sys.stdout.write(_report(folder, versions[-1], title, table.eulers_deg.tolist(), found.tolist(), error.tolist()))


def _report(folder: Path, version: Path, title: str, known: Sequence, found: Sequence, error: Sequence[float]) -> str:
    row = "{:>8.1f} {:>8.1f} {:>8.1f}   {:>8.1f} {:>8.1f} {:>8.1f}   {:>6.1f}\n".format
    table = "".join(row(*known[i], *found[i], error[i]) for i in range(8))
    heading = f"{'true rot':>8} {'tilt':>8} {'psi':>8}   {'pred rot':>8} {'tilt':>8} {'psi':>8}   {'error':>6}\n"
    pictures = f"Look at {version / 'report.html'}\n    and {folder / 'held_out_poses.png'}\n"
    return f"\n{title}\nThe first eight (degrees):\n{heading}{table}{pictures}"


if __name__ == "__main__":
    sys.exit(main())
