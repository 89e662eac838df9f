"""Time and memory of each part of the network, and the output grid against its dense table, in one run.

    python benchmarks/network.py [--threads 1] [--batch 4]

The dense reference multiplies all coefficients with a table of all rotations, as the published implementation does. It lives
here and not in the package.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import torch

from cryopares_core.config.schema import Config
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.geometry.wigner import Wigner, n_coefficients
from cryopares_core.model.network import PoseNetwork

SETTINGS = {"guide's defaults, 160 px": (160, 12, 512, 64, 3, 4), "small, 64 px": (64, 6, 128, 32, 2, 3)}


def median_ms(action: Callable[[], object], repeats: int = 3) -> float:
    """Milliseconds, the median of some runs after one to warm up."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] * 1e3


def build(px: int, lmax: int, fdim: int, f_out: int, projector_order: int, order: int) -> PoseNetwork:
    settings = Config().models.image2sphere
    settings.lmax, settings.so3components.so3outputgrid.hp_order = lmax, order
    settings.so3components.i2sprojector.sphere_fdim, settings.so3components.s2conv.f_out = fdim, f_out
    settings.so3components.i2sprojector.hp_order = projector_order
    return PoseNetwork(settings, "C1", px)


def report(name: str, shape: tuple[int, ...], batch: int) -> None:
    started = time.perf_counter()
    network = build(*shape)
    built = time.perf_counter() - started
    images, eulers = torch.randn(batch, 1, shape[0], shape[0]), torch.rand(batch, 3) * 180
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    tables = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers()) / 1e6
    weights = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    rows = {}
    with torch.no_grad():
        features = network.encoder(images)
        sphere = network.projector(features)
        packed = network.s2conv(sphere)
        active = network.activation(packed)
        out = network.so3conv(active)
        rows["encoder"] = median_ms(lambda: network.encoder(images))
        rows["projector"] = median_ms(lambda: network.projector(features))
        rows["S2 convolution"] = median_ms(lambda: network.s2conv(sphere))
        rows["activation"] = median_ms(lambda: network.activation(packed))
        rows["SO(3) convolution"] = median_ms(lambda: network.so3conv(active))
        rows["output grid"] = median_ms(lambda: network.density.grid_values(out))
        rows["prediction, all"] = median_ms(lambda: predict(network, images))
    rows["training step, all"] = median_ms(lambda: step(network, optimizer, images, eulers))
    print(f"{name}: {weights:.1f} M weights, tables {tables:.0f} MB, built in {built:.2f} s; ms a picture, batch {batch}")  # noqa: T201
    for part, value in rows.items():
        print(f"  {part:<20}{value / batch:>9.2f}")  # noqa: T201
    dense_comparison(network, out)


def predict(network: PoseNetwork, images: torch.Tensor) -> torch.Tensor:
    coefficients = network(images)
    return network.density.poses(coefficients, network.density.grid_values(coefficients))


def step(network: PoseNetwork, optimizer: torch.optim.Optimizer, images: torch.Tensor, eulers: torch.Tensor) -> None:
    coefficients = network(images)
    loss = network.density.loss(coefficients, network.density.grid_values(coefficients), eulers).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()


def dense_comparison(network: PoseNetwork, coefficients: torch.Tensor) -> None:
    """The output grid as one product with a table of all rotations: the same values, another time."""
    grid, lmax = network.density.grid, network.density.lmax
    with torch.no_grad():
        wigner = Wigner(lmax)
        parts = torch.arange(len(grid)).split(8192)
        table = torch.cat([wigner(euler_degs_to_matrix(grid.eulers_degs(part))) for part in parts])
        ours = network.density.grid_values(coefficients)
        error = (table @ coefficients - ours).abs().max() / ours.abs().max()
        dense, separable = (
            median_ms(action) / coefficients.shape[1]
            for action in (lambda: table @ coefficients, lambda: network.density.grid_values(coefficients))
        )
    size = len(grid) * n_coefficients(lmax) * 4 / 1e6
    text = (
        f"  output grid: dense {size:,.0f} MB, {dense:.2f} ms; separable {separable:.2f} ms, {dense / separable:.0f} times faster"
    )
    print(f"{text}, largest difference {error:.0e}")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for name, shape in SETTINGS.items():
        report(name, shape, arguments.batch)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.1f} GB")  # noqa: T201


if __name__ == "__main__":
    main()
