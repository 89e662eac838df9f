"""The data path: how fast pictures are prepared, and how fast shuffled, augmented batches come from the prepared store.

    python benchmarks/data.py --folder SCRATCH [--particles 30000] [--box 200] [--size 160]

Makes stacks of noise in the folder (float16, 80 kB a picture of 200 px), once in 1,000 files and once with a file for each
particle, and removes them at the end. Runs under a limit of 256 open files. "cold": the system is told to forget the files
before. The floor of a batch is to copy its pictures from one place in memory to another.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import resource
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryopares_core.allocator import keep_freed_memory
from cryopares_core.config.schema import Config
from cryopares_core.particles.augmentation import Augmenter
from cryopares_core.particles.batches import EpochLoader, PreparedDataset
from cryopares_core.particles.mrc import HEADER_BYTES
from cryopares_core.particles.prepare import prepared_batches
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.store import PreparedPictures, open_store
from cryopares_core.particles.table import ParticleTable

PIXEL_ANGS = 1.0
CPU = torch.device("cpu")
COLUMNS = "ImageName AngleRot AngleTilt AnglePsi OriginXAngst OriginYAngst DefocusU DefocusV DefocusAngle OpticsGroup RandomSubset"


def write_stacks(folder: Path, n: int, n_stacks: int, box: int) -> Path:
    """Stacks of float16 noise and their STAR file."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).standard_normal((64, box, box), np.float32).astype(np.float16)
    each, rows = n // n_stacks, []
    for number in range(n_stacks):
        header = np.zeros(HEADER_BYTES // 4, np.int32)
        header[:4], header[7:10] = (box, box, each, 12), (box, box, each)
        header[10:13] = np.full(3, box * PIXEL_ANGS, np.float32).view(np.int32)
        header[52:54] = np.frombuffer(b"MAP DA\0\0", np.int32)
        with open(folder / f"{number:05d}.mrcs", "wb") as file:
            file.write(header.tobytes())
            for place in range(each):
                file.write(noise[(number + place) % 64].tobytes())
        names = (f"{place + 1:06d}@{number:05d}.mrcs 10 20 30 1.5 -2.5 15000 14500 30 1" for place in range(each))
        rows += [f"{name} {1 + (number + place) % 2}" for place, name in enumerate(names)]
    optics = ["rlnOpticsGroup", "rlnImagePixelSize", "rlnImageSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]
    text = ["data_optics", "loop_", *(f"_{name}" for name in optics), f"1 {PIXEL_ANGS} {box} 300 2.7 0.1", "", "data_particles"]
    text += ["loop_", *(f"_rln{name}" for name in COLUMNS.split()), *rows, ""]
    (folder / "particles.star").write_text("\n".join(text))
    return folder / "particles.star"


def forget(paths: list[str]) -> None:
    """Have the system drop what it holds of the files in memory."""
    os.sync()
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


class MostOpenFiles(threading.Thread):
    """Counts this process's open files until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.running = 0, True
        self.start()

    def run(self) -> None:
        while self.running:
            self.most = max(self.most, len(os.listdir("/proc/self/fd")))
            time.sleep(0.005)


def preparing(name: str, table: ParticleTable, settings: PreprocessSettings, n: int) -> None:
    """Pictures a second from the stacks, cold and warm."""
    some = table.subset(np.arange(n))
    paths = [some.stack_paths[number] for number in np.unique(some.stack_id)]
    forget(paths)
    for state in ("cold", "warm"):
        started, cpu = time.perf_counter(), time.process_time()
        for _ in prepared_batches(some, settings):
            pass
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(f"| prepared from {name}, {state} | {n / seconds:,.0f} | {n / cpu:,.0f} |", flush=True)


def loading(name: str, pictures: PreparedPictures, batch: int, augmenter: Augmenter | None, n_batches: int) -> None:
    """Pictures a second in shuffled batches, ready for the network."""
    n = len(pictures.images)
    data = PreparedDataset(pictures.images, torch.zeros(n, 3), np.arange(n), pictures.will_need)
    torch.manual_seed(0)
    count, started, cpu = 0, time.perf_counter(), time.process_time()
    for number, found in enumerate(EpochLoader(data, batch, 1).epoch(0)):
        if number == n_batches:
            break
        images: Tensor = found.images.float()
        if augmenter:
            images, _ = augmenter(images, found.eulers_degs, 1.0)
        count += len(images)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"| {name} | {count / seconds:,.0f} | {count / cpu:,.0f} |", flush=True)


def copying(pictures: Tensor, batch: int) -> None:
    source, target = pictures[:batch].clone(), torch.empty(batch, *pictures.shape[1:])
    started = time.process_time()
    for _ in range(50):
        target.copy_(source)
    print(f"| floor: copied to float32 within the cache | | {50 * batch / (time.process_time() - started):,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--particles", type=int, default=30_000)
    parser.add_argument("--box", type=int, default=200)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    settings = PreprocessSettings(PIXEL_ANGS * arguments.box / arguments.size, arguments.size)
    files, n = MostOpenFiles(), arguments.particles
    folder = arguments.folder / "data_benchmark"
    shutil.rmtree(folder, ignore_errors=True)
    print("| | pictures/s | pictures/s of processor time |\n|---|---|---|")
    try:
        for n_stacks in (1_000, n):
            started = time.perf_counter()
            star = write_stacks(folder / str(n_stacks), n, n_stacks, arguments.box)
            made = time.perf_counter()
            table, _ = read_particles([str(star)])
            print(f"| {n_stacks:,} stacks: written in {made - started:.0f} s, STAR and headers checked in "
                  f"{time.perf_counter() - made:.1f} s | | |", flush=True)  # fmt: skip
            preparing(f"{n_stacks:,} stacks", table, settings, min(n, 4_000))
            if n_stacks != n:
                shutil.rmtree(star.parent)
        store = open_store(table, settings, CPU, lambda *_: None, folder, folder)
        (path,) = map(str, folder.glob("*/pictures.f16"))
        augmenter = Augmenter(Config().datamanager.augmenter)
        batches = min(150, n // arguments.batch)
        for name, chosen in (("not augmented", None), ("augmented", augmenter)):
            forget([path])
            loading(f"store on a cold disk, {name}", store, arguments.batch, chosen, batches)
            for _ in range(2):  # the first brings all into memory
                loading(f"store on a warm disk, {name}", store, arguments.batch, chosen, n)
            in_memory = PreparedPictures(torch.from_numpy(np.array(store.images[: n // 2])))
            loading(f"store in memory, {name}", in_memory, arguments.batch, chosen, n)
        copying(store.images, arguments.batch)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    files.running = False
    print(f"\nMost files open at once: {files.most} (limit 256)")


if __name__ == "__main__":
    main()
