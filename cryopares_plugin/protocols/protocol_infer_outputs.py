"""What an inference gives to other protocols: particles, as they are found, a map with its halves, and their correlation."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional

from pwem.objects import FSC, SetOfParticles, Volume
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import Set
from pyworkflow.protocol.constants import MODE_RESUME
from pyworkflow.utils import cleanPath

from cryopares_core.errors import UserError
from cryopares_core.plots.fsc import read_fsc
from cryopares_core.plots.readers import read_json
from cryopares_plugin.batches import PUT_OUT, RESULTS
from cryopares_plugin.convert.read_results import Found, copy_found, read_found
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.files import appearing
from cryopares_plugin.inference_record import write_whole
from cryopares_plugin.protocols.protocol_infer_steps import FINISHED, RECONSTRUCTED, ProtCryoparesInferSteps
from cryopares_plugin.resume import changed_fields, pointed_at

PARTICLES, DISCARDED, MAP, CURVE = "outputParticles", "outputDiscarded", "outputVolume", "outputFSC"
KEPT_STAR, ALL_STAR = "particles.star", "all.star"
RECORD = "asked.json"
WEIGHTS = "the model's weights"
OF_THE_OUTPUTS = ("confidence_threshold", "consensus_max_error_degs", "keepDiscarded")
INPUTS = ("inputModel", "inputParticles", "referenceVolume")
OF_THE_POSES = ("evidence", "policy", "model", "top_k", "consensus", "quarter_turns", "refine", "resolution_angs")


class ProtCryoparesInferOutputs(ProtCryoparesInferSteps):
    """Fills the outputs, and knows what they were made with."""

    _possibleOutputs = {  # noqa: RUF012 -- Scipion's own convention
        PARTICLES: SetOfParticles,
        DISCARDED: SetOfParticles,
        MAP: Volume,
        CURVE: FSC,
    }

    # ---- particles

    def outputStep(self, number: int) -> None:
        """Add the particles of a batch to the outputs, and its figures to those of all."""
        batches = self._batches()
        results = batches.path(number, RESULTS)
        try:
            kept = read_found(os.path.join(results, KEPT_STAR))
            left_out = self._leftOut(results, kept) if self.keepDiscarded.get() else None
        except UserError as error:
            raise PyworkflowException(" ".join(error.problems)) from None
        with self._lock:
            self._append(PARTICLES, kept)
            if left_out is not None:
                self._append(DISCARDED, left_out)
            self._writeWhole()
        batches.finish(number)

    def closeStep(self) -> None:
        """Tell those who wait for particles that no more come."""
        with self._lock:
            self._closeOutputSet()

    def _leftOut(self, results: str, kept: Found) -> Optional[Found]:
        """The particles of a batch that were not kept; None where all were."""
        everything = os.path.join(results, ALL_STAR)
        return read_found(everything).without(kept.ids) if os.path.isfile(everything) else None

    def _append(self, name: str, found: Found) -> None:
        """Add particles to an output, but those that it has already."""
        output = getattr(self, name, None)
        new = found if output is None else found.without(ParticleRows(output).ids())
        if output is None and not len(new.ids):
            return
        particles, target = self.inputParticles.get(), self._newOutput(name) if output is None else _to_append(output)
        copy_found(particles, new, target)
        particles.close()
        # A failure elsewhere has closed the outputs, and must not find one open again.
        self._updateOutputSet(name, target, Set.STREAM_CLOSED if self._hasFailed() else Set.STREAM_OPEN)
        if output is None:
            self._defineTransformRelation(self.inputParticles, target)
            self._defineSourceRelation(self.inputModel, target)

    def _newOutput(self, name: str) -> SetOfParticles:
        output = self._createSetOfParticles(suffix="_discarded" if name == DISCARDED else "")
        output.copyInfo(self.inputParticles.get())
        output.setAlignmentProj()
        return output

    # ---- the map

    def _registerMap(self) -> None:
        """The map with its halves, and the correlation of these, corrected for the mask."""
        folder = self._mapFolder()
        volume, curve = Volume(location=os.path.join(folder, "map.mrc")), FSC(objLabel="corrected for the mask")
        volume.setSamplingRate(read_json(Path(folder, RECONSTRUCTED))["pixel_size_angs"])
        volume.setHalfMaps([os.path.join(folder, name) for name in ("half1_map.mrc", "half2_map.mrc")])
        columns = read_fsc(os.path.join(folder, "fsc.csv"))
        if columns is not None:
            curve.setData([0.0, *(1 / columns["resolution_angs"][1:]).tolist()], columns["corrected"].tolist())
        with self._lock:
            for name, found in ((MAP, volume), (CURVE, curve)):
                self._register(name, found)
            self._writeWhole()

    def _register(self, name: str, found: Any) -> None:
        """A new output, or new content of one that an earlier start made."""
        output = getattr(self, name, None)
        if output is None:
            self._defineOutputs(**{name: found})
            for source in (self.inputParticles, self.inputModel):
                self._defineSourceRelation(source, found)
        else:
            output.copy(found, copyId=False)
            self._store(output)

    # ---- what it was made with

    def _beginOrGoOn(self) -> None:
        """Keep what is asked for. Where an earlier start asked for other outputs of the same poses, they are made again."""
        record, asked = Path(self._getExtraPath(RECORD)), self._asked()
        known = read_json(record)
        changed = known and any(known.get(name) != asked[name] for name in OF_THE_OUTPUTS)
        if changed:
            self._dropParticles()
        if changed or not self.reconstruct.get():
            self._dropMap()
        with appearing(str(record)) as file:
            json.dump(asked, file)

    def _dropParticles(self) -> None:
        """Remove the particles of the outputs; their poses stay."""
        with self._lock:
            for output in self._present(PARTICLES, DISCARDED):
                output.close()
                self.deleteOutput(output)
                cleanPath(output.getFileName())
            batches = self._batches()
            for number in batches.numbers():
                cleanPath(batches.path(number, PUT_OUT), batches.path(number, RESULTS, FINISHED))

    def _dropMap(self) -> None:
        """Remove a map that is not of the particles that are kept now."""
        with self._lock:
            for output in self._present(MAP, CURVE):
                self.deleteOutput(output)
            cleanPath(self._mapFolder())

    def _present(self, *names: str) -> List[Any]:
        """Those of the outputs that there are."""
        return [getattr(self, name) for name in names if getattr(self, name, None) is not None]

    def _asked(self) -> Dict[str, Any]:
        """What results depend on, by the fields' names."""
        fields = {name: getattr(self, name).get() for name in (*OF_THE_POSES, *OF_THE_OUTPUTS)}
        fields["consensus"] = self._asksConsensus()
        return {**pointed_at(self, INPUTS), **fields, WEIGHTS: _stamps(self.inputModel.get().getFiles())}

    def _changesOfRun(self) -> List[str]:
        """What was changed on the form of a run that goes on, which would no longer be that run."""
        known = read_json(Path(self._getExtraPath(RECORD)))
        if self.runMode.get() != MODE_RESUME or not known:
            return []
        asked = {name: value for name, value in self._asked().items() if name not in OF_THE_OUTPUTS}
        changed = changed_fields(self, asked, known)
        if not changed:
            return []
        return [
            f"This run was begun with another value of: {', '.join(changed)}. Set it back to go on, or choose the run mode "
            "Restart, which finds all poses anew. (Least confidence, maximum disagreement, reconstruction, GPUs and threads may "
            "change.)"
        ]

    def _writeWhole(self) -> None:
        batches = self._batches()
        write_whole(self._getExtraPath(), [batches.path(number, RESULTS) for number in batches.numbers()])


def _stamps(paths: List[str]) -> Dict[str, List[int]]:
    """Size and time of files, by name."""
    found = {path: os.stat(path) for path in paths if os.path.isfile(path)}
    return {path: [status.st_size, status.st_mtime_ns] for path, status in found.items()}


def _to_append(output: SetOfParticles) -> SetOfParticles:
    """A set that is there already, as its file says, ready for more."""
    output.close()
    output.load()
    output.enableAppend()
    return output
