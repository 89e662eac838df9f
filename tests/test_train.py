"""The real command on real files: what it leaves behind, what it refuses, how it stops."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SMALL = [
    "models.image2sphere.lmax=4",
    "models.image2sphere.so3components.i2sprojector.sphere_fdim=32",
    "models.image2sphere.so3components.s2conv.f_out=8",
    "models.image2sphere.so3components.so3outputgrid.hp_order=1",
    "models.image2sphere.imageencoder.resnet.output_stride=8",
]
