"""Packaging. The tools' own settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "cryopares_core" / "__init__.py").read_text(encoding="utf-8"))[1]


def since_python(version, requirements):
    """The same requirements, asked for only from a version of Python on."""
    return [f'{requirement}; python_version >= "{version}"' for requirement in requirements]


# What training needs. One of the packages that teamtomo publishes together with torch-ctf reversed its correction between two
# releases, so torch-ctf is pinned exactly: tests/test_ctf.py was seen to pass with this one.
CORE = since_python(
    "3.11",
    [
        "torch>=2.8",
        "lightning>=2.6,<2.7",
        "tensorboard>=2.15",
        "torch-ctf==0.6.0",
        "healpy>=1.18",
        "starfile>=0.5.6",
        "mrcfile>=1.4.3",
        "pandas>=2.1.1",
        "numpy>=1.26",
        "matplotlib>=3.8",
        "safetensors>=0.4",
        "tqdm>=4.60",
    ],
)
# Scipion pins numpy and scipy itself. The same versions stand here because pip otherwise starts with newer ones and, on its
# way back, tries to compile old releases of scipy.
SCIPION = [
    "scipion-pyworkflow>=3.11.2",
    "scipion-em>=3.11",
    "scipion-app>=3.8",
    'numpy==1.26.1; python_version >= "3.9"',
    'scipy==1.10.0; python_version < "3.12"',
]
# healpy 1.20 wants numpy 2.
BOTH = [*CORE, *SCIPION, *since_python("3.11", ["healpy>=1.18,<1.20"])]
TEST = [
    "pytest",
    "pytest-xdist",
    "pytest-timeout",
    "hypothesis",
    "ruff",
    "mypy",
    *since_python("3.11", ["e3nn", "scipy", "torch-fourier-slice==0.6.0"]),
    # Reads STAR files into Scipion: the way in for the particles of most tests.
    'scipion-em-relion; python_version >= "3.11" and python_version < "3.13"',
]
# Each is a program, and a module for `python -m cryopares_…`.
COMMANDS = ("train", "infer", "refine", "reconstruct", "compare_poses", "export_model", "simulate", "report", "cache", "check")

setup(
    name="scipion-em-cryopares",
    version=VERSION,
    description="CryoPARES: supervised pose estimation for single-particle cryo-EM, with a plugin for Scipion",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-3.0-or-later",
    keywords="scipion cryoem imageprocessing scipion-3",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
    ],
    python_requires=">=3.8",
    packages=["cryopares", *find_packages(include=["cryopares_core*", "cryopares_plugin*"])],
    package_dir={"cryopares": "cryopares_plugin/installer"},
    py_modules=[*(f"cryopares_{name}" for name in COMMANDS), "cryopares_workflow"],
    package_data={"cryopares_plugin": ["protocols.conf", "templates/*.json.template"]},
    install_requires=["omegaconf>=2.3"],
    extras_require={"core": CORE, "scipion": SCIPION, "all": BOTH, "test": TEST},
    entry_points={
        "console_scripts": [
            *(f"cryopares_{name} = cryopares_core.commands.{name}:main" for name in COMMANDS),
            "cryopares_workflow = cryopares_workflow:main",
        ],
        "pyworkflow.plugin": ["cryopares_plugin = cryopares_plugin"],
    },
)
