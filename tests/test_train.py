"""The real command on real files: what it leaves behind, what it refuses, how it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
import yaml

from cryopares_core.commands.train import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.inference.predict import predict_poses
from cryopares_core.model.storage import load_model
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import CtfParameters
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

REPOSITORY = Path(__file__).parents[1]
SMALL = [
    "models.image2sphere.lmax=4",
    "models.image2sphere.so3components.i2sprojector.sphere_fdim=32",
    "models.image2sphere.so3components.s2conv.f_out=8",
    "models.image2sphere.so3components.so3outputgrid.hp_order=1",
    "models.image2sphere.imageencoder.resnet.output_stride=8",
]
