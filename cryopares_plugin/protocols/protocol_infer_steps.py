"""How an inference runs: batch by batch, as particles come, through files and commands of the core."""

import os
import time
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
from pwem.objects import Volume
from pwem.protocols import EMProtocol
from pyworkflow.protocol import ProtStreamingBase
from pyworkflow.utils import cleanPath

from cryopares_core.config.infer_arguments import NETWORK
from cryopares_plugin.batches import INPUT, RESULTS, Batches
from cryopares_plugin.convert.read_results import HALF_SET
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.core_run import run_core, write_star
from cryopares_plugin.volumes import half_map_files, write_map

FINISHED, RECONSTRUCTED = "infer.json", "reconstruction.json"  # what each command writes last
REFERENCE, HALF_REFERENCES, MASK = "reference.mrc", ("reference_half1.mrc", "reference_half2.mrc"), "mask.mrc"


class ProtCryoparesInferSteps(EMProtocol, ProtStreamingBase):
    """Takes what is new of the input, again and again until nothing more comes, and makes a map of all of it at the end.

    Every step may be done again: what stands on disk is not made anew, and what is in an output is not put there twice.
    """

    # ---- the steps, as they come

    def stepsGeneratorStep(self) -> None:
        """Insert the steps of batches: of those that an earlier start has not finished, and of new ones as particles come."""
        self._beginOrGoOn()
        first = self._insertFunctionStep(self.mapsStep, prerequisites=[], needsGPU=False)
        batches, last = self._batches(), (first, first)
        for number in batches.unfinished():
            last = self._insertBatch(number, last)
        for new in self._newParticles(batches):
            last = self._insertBatch(batches.begin(new), last)
        if self._hasFailed():
            return
        closed = self._insertFunctionStep(self.closeStep, prerequisites=[last[1]], needsGPU=False)
        if self.reconstruct.get():
            self._insertFunctionStep(self.reconstructStep, prerequisites=[closed])

    def _newParticles(self, batches: Batches) -> Iterator[np.ndarray]:
        """Ids of particles that are in no batch, when there are enough of them or no more come. Ends with the input, or when a step
        has failed: Scipion waits for this thread before it tells so.
        """
        while not self._hasFailed():
            rows = ParticleRows(self.inputParticles.get())
            is_open = rows.is_open()  # asked first, so that nothing is missed that comes in between
            new = batches.without(rows.ids())
            if len(new) >= (self.streamingBatchSize.get() if is_open else 1) and not self._hasFailed():
                yield new
            if not is_open:
                return
            self._waitForMore()

    def _waitForMore(self) -> None:
        end = time.monotonic() + self.streamingSleepOnWait.get()
        while time.monotonic() < end and not self._hasFailed():
            time.sleep(min(1.0, self.streamingSleepOnWait.get()))

    def _hasFailed(self) -> bool:
        return any(step.isFailed() for step in list(self._steps))

    def _insertBatch(self, number: int, last: Tuple[int, int]) -> Tuple[int, int]:
        """Insert the steps of a batch behind those of the last one: poses of one batch are found while another is written."""
        written = self._insertFunctionStep(self.convertStep, number, prerequisites=[], needsGPU=False)
        found = self._insertFunctionStep(self.inferStep, number, prerequisites=[written, last[0]])
        put_out = self._insertFunctionStep(self.outputStep, number, prerequisites=[found, last[1]], needsGPU=False)
        return found, put_out

    def mapsStep(self) -> None:
        """The maps that were given, as files that the core reads."""
        for name, volume in self._maps().items():
            # The core would take a reference that is written anew for another one.
            if name == MASK or not os.path.isfile(self._getExtraPath(name)):
                write_map(volume, self._getExtraPath(name))

    def convertStep(self, number: int) -> None:
        """The particles of a batch as a STAR file."""
        batches = self._batches()
        star = batches.path(number, INPUT)
        if not os.path.isfile(star):
            write_star(self, self.inputParticles.get(), star, seed=number, ids=batches.ids(number), poses=False)

    def inferStep(self, number: int) -> None:
        """Poses of a batch; the core goes on where it was stopped."""
        batches = self._batches()
        results = batches.path(number, RESULTS)
        words = ["--particles_star_fname", batches.path(number, INPUT), "--results_dir", results, *self._inferArguments()]
        self._runCore("cryopares_infer", words, os.path.join(results, FINISHED))

    def reconstructStep(self) -> None:
        """Half maps of all particles kept, and their correlation."""
        particles = getattr(self, "outputParticles", None)
        if particles is None or len(ParticleRows(particles).distinct([f"_{HALF_SET}"])) < 2:
            self.warning("There is no map: it needs particles of both half sets.")
            return
        star = self._getExtraPath("output_particles.star")
        write_star(self, particles, star)
        words = ["--particles_star_fname", star, "--out_dir", self._mapFolder(), *self._reconstructArguments()]
        written_last = os.path.join(self._mapFolder(), RECONSTRUCTED)
        cleanPath(written_last)  # of an earlier start
        self._runCore("cryopares_reconstruct", words, written_last)
        self._registerMap()

    # ---- what they share

    def _batches(self) -> Batches:
        return Batches(self._getExtraPath("batches"))

    def _mapFolder(self) -> str:
        return self._getExtraPath("reconstruction")

    def _maps(self) -> Dict[str, Any]:
        """The volumes that were given, by the names of their files."""
        reference = self.referenceVolume.get() if self.refine.get() or self._evidence() != NETWORK else None
        mask = self.maskVolume.get() if self.reconstruct.get() else None
        found = {} if mask is None else {MASK: mask}
        if reference is None:
            return found
        halves = half_map_files(reference)
        if len(halves) != len(HALF_REFERENCES):
            return {**found, REFERENCE: reference}
        sampling_rate = reference.getSamplingRate()
        return {**found, **{name: _volume(path, sampling_rate) for name, path in zip(HALF_REFERENCES, halves)}}

    def _runCore(self, command: str, words: List[str], written_last: str) -> None:
        """Run a command of the core on the machine's parts that the form names."""
        machine = ["--n_threads", str(self.binThreads.get()), "--accelerator", "auto" if self.usesGpu() else "cpu"]
        run_core(self, command, [*words, "--particles_dir", os.curdir, *machine], written_last)

    def _evidence(self) -> str:
        """What decides on the poses, as the command calls it."""
        raise NotImplementedError

    def _asksConsensus(self) -> bool:
        """Whether the models of both half sets are compared."""
        return bool(self.consensus.get() or self.consensus_max_error_degs.get() is not None)

    def outputStep(self, number: int) -> None:
        """The particles of a batch into the outputs."""
        raise NotImplementedError

    def closeStep(self) -> None:
        """No more particles come."""
        raise NotImplementedError


def _volume(path: str, sampling_rate: float) -> Volume:
    volume = Volume(location=path)
    volume.setSamplingRate(sampling_rate)
    return volume
