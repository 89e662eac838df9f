"""Each protocol to its end, in a project of its own, on particles that the core simulates."""

import importlib.util
import os
import subprocess
import sys
import unittest

from pwem.protocols import ProtImportParticles, ProtImportVolumes
from pyworkflow.tests import BaseTest, setupTestProject

from cryopares_plugin import Plugin
from cryopares_plugin.protocols import (
    ProtCryoparesContinue,
    ProtCryoparesFinetune,
    ProtCryoparesImportModel,
    ProtCryoparesInfer,
    ProtCryoparesPretrain,
    ProtCryoparesTrain,
)

N_PARTICLES = 240
SMALL = {"lmax": 4, "sphere_fdim": 32, "f_out": 8, "so3outputgrid_hp_order": 1, "num_augmented_copies_per_batch": 2}
BATCH = {"batch_size": 16, "useGpu": False, "numberOfThreads": 1}


class TestCryopares(BaseTest):
    """Train, fine-tune, continue, pretrain, import: the outputs are there and say what they are."""

    @classmethod
    def setUpClass(cls):
        if importlib.util.find_spec("relion") is None:
            raise unittest.SkipTest("scipion-em-relion, which reads STAR files into Scipion, is not installed")
        setupTestProject(cls)
        cls.particles = cls._import_particles(cls._simulate())
        cls.trained = cls._train(n_epochs=2)

    @classmethod
    def _simulate(cls) -> str:
        folder = os.path.abspath(cls.proj.getTmpPath("simulated"))
        options = f"--phantom --n_particles {N_PARTICLES} --image_size_px 32 --sampling_rate 10 --snr 10 --out_dir '{folder}'"
        subprocess.run(f"{Plugin.getProgram('cryopares_simulate')} {options} --overwrite", shell=True, check=True)
        return folder

    @classmethod
    def _import_particles(cls, folder: str):
        protocol = cls.newProtocol(
            ProtImportParticles,
            importFrom=ProtImportParticles.IMPORT_FROM_RELION,
            starFile=os.path.join(folder, "particles.star"),
            samplingRate=10.0,
            magnification=50000,
        )
        cls.launchProtocol(protocol)
        return protocol

    @classmethod
    def _train(cls, **settings):
        protocol = cls.newProtocol(ProtCryoparesTrain, symmetry="C1", **SMALL, **BATCH, **settings)
        protocol.inputParticles.set(cls.particles)
        protocol.inputParticles.setExtended("outputParticles")
        cls.launchProtocol(protocol)
        return protocol

    def _follow(self, cls_, **settings):
        """Launch a protocol that starts from the trained model."""
        protocol = self.newProtocol(cls_, **settings)
        protocol.inputModel.set(self.trained)
        protocol.inputModel.setExtended("outputModel")
        return protocol

    def _check(self, protocol, half_sets, epochs):
        """The output is complete and its files are there."""
        self.assertTrue(hasattr(protocol, "outputModel"), protocol.getErrorMessage())
        model = protocol.outputModel
        self.assertEqual(model.getHalfSets(), half_sets)
        self.assertEqual(model._epochs.get(), epochs)
        self.assertEqual((model.getBoxSize(), model.getSymmetry()), (32, "C1"))
        self.assertAlmostEqual(model.getSamplingRate(), 10.0, places=3)
        self.assertTrue(0 < model.getValError() < 180)
        for path in model.getFiles():
            self.assertTrue(os.path.isfile(path), path)
        self.assertFalse("torch" in sys.modules, "the plugin must not import torch")

    def test_train(self):
        self._check(self.trained, ["half1", "half2"], 2)
        self.assertIn("epoch 2 of 2", self.trained.summary()[0])
        self.assertIn(f"{N_PARTICLES} particles", self.trained.methods()[0])

    def test_finetune(self):
        protocol = self._follow(ProtCryoparesFinetune, n_epochs=1, **BATCH)
        protocol.inputParticles.set(self.particles)
        protocol.inputParticles.setExtended("outputParticles")
        self.launchProtocol(protocol)
        self._check(protocol, ["half1", "half2"], 1)

    def test_continue(self):
        protocol = self._follow(ProtCryoparesContinue, n_epochs=3, useGpu=False)
        self.launchProtocol(protocol)
        self._check(protocol, ["half1", "half2"], 3)
        self._check(self.trained, ["half1", "half2"], 2)

    def test_import_model(self):
        folder = os.path.join(os.getcwd(), self.trained.getRunDir())
        for copy_files in (True, False):
            protocol = self.newProtocol(ProtCryoparesImportModel, modelFolder=folder, copyFiles=copy_files)
            self.launchProtocol(protocol)
            self._check(protocol, ["half1", "half2"], 2)

    def test_import_model_from_a_file(self):
        path = os.path.abspath(self.proj.getTmpPath("model.cryopares"))
        options = f"--checkpoint_dir '{self.trained.getRunDir()}' --out '{path}'"
        subprocess.run(f"{Plugin.getProgram('cryopares_export_model')} {options} --overwrite", shell=True, check=True)
        protocol = self.newProtocol(ProtCryoparesImportModel, modelFolder=path)
        self.launchProtocol(protocol)
        self._check(protocol, ["half1", "half2"], 2)

    def test_infer(self):
        protocol = self._follow(ProtCryoparesInfer, refine=True, resolution_angs=25.0, reconstruct=True, useGpu=False)
        protocol.inputParticles.set(self.particles)
        protocol.inputParticles.setExtended("outputParticles")
        self.launchProtocol(protocol)
        self.assertTrue(hasattr(protocol, "outputParticles"), protocol.getErrorMessage())
        self.assertEqual(protocol.outputParticles.getSize(), N_PARTICLES)
        self.assertTrue(protocol.outputParticles.hasAlignmentProj())
        self.assertEqual(protocol.outputVolume.getDim(), (32, 32, 32))
        self.assertEqual(len(protocol.outputVolume.getHalfMaps().split(",")), 2)
        self.assertEqual(len(protocol.outputFSC.getData()[0]), 17)

    def test_pretrain(self):
        volumes = self.newProtocol(
            ProtImportVolumes, filesPath=self.proj.getTmpPath("simulated", "reference.mrc"), samplingRate=10.0, setHalfMaps=False
        )
        self.launchProtocol(volumes)
        protocol = self.newProtocol(
            ProtCryoparesPretrain, symmetry="C1", n_epochs=1, n_views_per_epoch_simulation=160, **SMALL, **BATCH
        )
        protocol.inputVolume.set(volumes)
        protocol.inputVolume.setExtended("outputVolume")
        self.launchProtocol(protocol)
        self._check(protocol, ["simulated"], 1)

    def test_mistakes_are_told_before_the_start(self):
        protocol = self.newProtocol(ProtCryoparesTrain, symmetry="C0", learning_rate=7.0, extra_settings="models.lmx=3", **BATCH)
        protocol.inputParticles.set(self.particles)
        protocol.inputParticles.setExtended("outputParticles")
        told = "\n".join(protocol.validate())
        for part in ("'C0' is not a point group", "above 0 up to 1", "Did you mean models.image2sphere.lmax?"):
            self.assertIn(part, told)
        self.assertEqual(len(protocol.validate()), 3, told)
