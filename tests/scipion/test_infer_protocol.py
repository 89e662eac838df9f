"""CryoPARES infer in a real project: from particles to poses and a map, as they come, stopped and gone on with, and looked at."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import starfile
from gui import virtual_screen
from installation import N_PARTICLES, PREAMBLE, ROOT, Installation, project_with_particles, require
from untrained import untrained_run

HERE = Path(__file__).parent
TEMPLATE = ROOT / "cryopares_plugin" / "templates" / "infer.json.template"
pytestmark = pytest.mark.timeout(300)

MODEL = """
project = open_project(sys.argv[1])
imported = project.newProtocol(ProtCryoparesImportModel, modelFolder=sys.argv[2])
project.launchProtocol(imported, wait=True)
"""
NEW = """
from pyworkflow.object import Set

def new_inference(project, **settings):
    run = project.newProtocol(ProtCryoparesInfer, useGpu=False, binThreads=1, **settings)
    for one in project.getRuns():
        if one.getClassName() == "ProtCryoparesImportModel":
            link(run.inputModel, one, "outputModel")
        if one.getClassName() == "ProtImportParticles":
            link(run.inputParticles, one, "outputParticles")
    return run

def times(run, pattern):
    import glob
    return sorted((name, os.stat(name).st_mtime_ns) for name in glob.glob(run._getExtraPath("batches", "*", pattern)))
"""
WHOLE = """
project = open_project("inferred")
# The untrained network alone is unsure of many poses, so that some particles are left out.
settings = dict(confidence_threshold=0.25, keepDiscarded=True, refine=True, resolution_angs=25.0, reconstruct=True)
run = new_inference(project, evidence=1, **settings)
print("validated", run.validate(), run.warnings())
project.launchProtocol(run, wait=True)
print("ended", run.getStatus(), run.getErrorMessage())
kept, left_out = run.outputParticles, run.outputDiscarded
print("sizes", len(kept) + len(left_out), kept.hasAlignmentProj(), kept.isStreamClosed(), kept.hasCTF())
print("sure", all(item._rlnParticleFigureOfMerit.get() >= 0.25 for item in kept))
print("unsure", all(item._rlnParticleFigureOfMerit.get() < 0.25 for item in left_out))
print("parents", sorted(parent.getClassName() for parent in project.getSourceParents(run.outputVolume)))
volume, curve = run.outputVolume, run.outputFSC
print("map", volume.getDim(), volume.getSamplingRate(), [os.path.isfile(name) for name in volume.getHalfMaps().split(",")])
print("curve", len(curve.getData()[0]), curve.getData()[0][1], curve.getData()[1][0])
print("summary", run.summary()[:2])
print("methods", run.methods()[0])
"""
ONWARD = """
from relion.protocols import ProtRelionRefine3D
project = open_project("inferred")
run = next(run for run in project.getRuns() if run.getClassName() == "ProtCryoparesInfer" and run.isFinished())
# Local searches from the start; RELION before version 4 wants to be told that the reference is corrected for the CTF.
refinement = project.newProtocol(
    ProtRelionRefine3D, copyAlignment=True, initialLowPassFilterA=30, doGpu=False, numberOfMpi=3, numberOfThreads=1,
    skipPadding=True, angularSamplingDeg=3, localSearchAutoSamplingDeg=3, pooledParticles=30, extraParams="--ctf_corrected_ref")
link(refinement.inputParticles, run, "outputParticles")
link(refinement.referenceVolume, run, "outputVolume")
project.launchProtocol(refinement, wait=True)
print("ended", refinement.getStatus(), refinement.getErrorMessage())
print("sizes", len(run.outputParticles), len(refinement.outputParticles), len(refinement.outputVolume.getHalfMaps().split(",")))
refinement._initialize()
given, refined = refinement._getFileName("input_star"), refinement._getExtraPath("relion_data.star")
print("stars", *map(os.path.abspath, (given, run._getExtraPath("output_particles.star"), refined)))
"""
ANOTHER_THRESHOLD = """
project = open_project("inferred")
run = [run for run in project.getRuns() if run.getClassName() == "ProtCryoparesInfer"][-1]
run.runMode.set(0)
run.policy.set(1)
print("refused", run.validate())
run.policy.set(0)
before, found = len(run.outputParticles), (times(run, "results/*/*.npz"), times(run, "particles.star"))
run.confidence_threshold.set(0.0)
print("accepted", run.validate())
project.launchProtocol(run, wait=True)
print("ended", run.getStatus(), run.getErrorMessage())
print("more", before < len(run.outputParticles) == 240, len(set(run.outputParticles.getIdSet())))
print("untouched", found == (times(run, "results/*/*.npz"), times(run, "particles.star")), len(found[0]))
"""
GROWING = """
from pwem.objects import SetOfParticles
project = open_project("streamed")
source = next(run for run in project.getRuns() if run.getClassName() == "ProtImportParticles")
items = {item.getObjId(): item.clone() for item in source.outputParticles}
path = source.outputParticles.getFileName()
source.outputParticles.close()
os.remove(path)
growing = SetOfParticles(filename=path)
growing.copyInfo(source.outputParticles)

def grow(target, ids, state):
    for number in ids:
        target.append(items[number])
    source._updateOutputSet("outputParticles", target, state)

def opened():
    target = source.outputParticles
    target.load()
    target.enableAppend()
    return target

def size():
    return run.outputParticles.getSize() if status(run) and hasattr(run, "outputParticles") else 0

def reaches(count):
    wait_for(lambda: size() == count or run.getStatus() == "failed")
    print("reached", size(), run.outputParticles.isStreamOpen(), run.getErrorMessage())

grow(growing, [*range(1, 61), *range(121, 151)], Set.STREAM_OPEN)
run = new_inference(project, streamingBatchSize=50, streamingSleepOnWait=1, reconstruct=True, numberOfThreads=1)
print("refused", run.validate())
run.numberOfThreads.set(3)
training = run.inputModel.getObjValue()
training.setStatus("running")
print("training", run.validate())
training.setStatus("finished")
print("validated", run.validate())
weights = os.path.join(run.inputModel.get().getPath(), "half1", "model.safetensors")
sound, times_of = open(weights, "rb").read(), os.stat(weights)
open(weights, "wb").write(sound[:1000])
os.utime(weights, ns=(times_of.st_mtime_ns, times_of.st_mtime_ns))
project.launchProtocol(run)
wait_until_ended(run)
print("alive", os.path.exists(f"/proc/{run.getPid()}") if run.getPid() else False, len(times(run, "ids.npy")))
open(weights, "wb").write(sound)
os.utime(weights, ns=(times_of.st_mtime_ns, times_of.st_mtime_ns))
run._store()
from cryopares_core.plots.readers import read_json
import json, pathlib
record = pathlib.Path(run._getExtraPath("asked.json"))
print("other weights", run.validate())
record.write_text(json.dumps({name: value for name, value in read_json(record).items() if "weights" not in name}))
project.launchProtocol(run)
reaches(90)
grow(opened(), range(61, 121), Set.STREAM_OPEN)
reaches(150)
grow(opened(), range(151, 241), Set.STREAM_CLOSED)
wait_until_ended(run)
print("closed", len(run.outputParticles), run.outputParticles.isStreamClosed(), run.hasAttribute("outputVolume"))
same = ("_index", "_filename", "_ctfModel._defocusU", "_rlnRandomSubset", "_coordinate._x", "_acquisition._voltage", "_micId")
wrong = [
    (item.getObjId(), name)
    for item in run.outputParticles
    for name in same
    if item.getNestedValue(name) != items[item.getObjId()].getNestedValue(name)
]
print("kept", wrong, sorted(items) == sorted(item.getObjId() for item in run.outputParticles), len(times(run, "ids.npy")))
"""
CUT_OFF = """
import signal
project = open_project("cut_off")
run = new_inference(project, objLabel="cut off")
project.launchProtocol(run)
wait_for(lambda: os.path.isdir(run._getExtraPath("batches", "0001", "results")))
os.killpg(0, signal.SIGKILL)
"""
GO_ON = """
project = open_project("cut_off")
run = [run for run in project.getRuns(checkPids=True) if run.getClassName() == "ProtCryoparesInfer"][-1]
before = times(run, "particles.star")
print("before", run.getStatus(), hasattr(run, "outputParticles"), len(before))
project.launchProtocol(run, wait=True)
print("ended", run.getStatus(), len(run.outputParticles), times(run, "particles.star") == before, run.getErrorMessage())
"""
DAMAGED = """
project = open_project("cut_off")
run = new_inference(project, objLabel="damaged")
weights = os.path.join(run.inputModel.get().getPath(), "half1", "model.safetensors")
with open(weights, "r+b") as file:
    file.truncate(1000)
project.launchProtocol(run, wait=True)
print("ended", run.getStatus(), run.getErrorMessage(), hasattr(run, "outputParticles"))
"""
LOADED = """
project = Manager().loadProject("from_template")
print([[run.getClassName(), [name for name, _ in run.iterInputAttributes()]] for run in project.getRuns()])
print([run.resolution_angs.get() for run in project.getRuns() if run.getClassName() == "ProtCryoparesInfer"])
"""


@pytest.fixture(scope="module")
def project(scipion: Installation):
    """A function that makes a project of a name, with particles and a model in it."""
    model = untrained_run(scipion.folder / "untrained")

    def make(name: str) -> Path:
        folder = project_with_particles(scipion, name)
        scipion.python(MODEL, name, str(model))
        return folder

    return make


def told(said: str) -> dict[str, str]:
    """The lines that a script printed, by their first words."""
    return dict(line.split(" ", 1) for line in said.splitlines() if " " in line)


@pytest.fixture(scope="module")
def inferred(scipion: Installation, project) -> dict[str, str]:
    """What was seen of a run with everything."""
    project("inferred")
    return told(scipion.python(NEW + WHOLE))


def test_from_particles_to_poses_and_a_map(inferred: dict[str, str]) -> None:
    seen = inferred
    assert seen["validated"] == "[] []" and seen["ended"].startswith("finished"), seen
    assert seen["sizes"] == f"{N_PARTICLES} True True True"
    assert seen["sure"] == seen["unsure"] == "True"
    assert seen["parents"] == "['ProtCryoparesImportModel', 'ProtImportParticles']", seen
    assert seen["map"] == "(32, 32, 32) 10.0 [True, True]"
    assert seen["curve"].startswith("17 0.003125 ") and float(seen["curve"].split()[2]) == pytest.approx(1, abs=0.01)
    assert f"of {N_PARTICLES} particles are kept (confidence of at least 0.25)." in seen["summary"]
    assert "refined against a map at 25 Å" in seen["methods"]


def test_another_confidence_needs_no_new_poses(scipion: Installation, inferred: dict[str, str]) -> None:
    seen = told(scipion.python(NEW + ANOTHER_THRESHOLD))
    assert "begun with another value of: Which model. Set it back" in seen["refused"]
    assert seen["accepted"] == "[]" and seen["ended"].startswith("finished"), seen
    assert seen["more"] == f"True {N_PARTICLES}" and seen["untouched"] == "True 2", seen


def test_what_analyze_results_shows(scipion: Installation, inferred: dict[str, str], artefacts: Path) -> None:
    require("Xvfb", "xdotool", "import")
    with virtual_screen() as display:
        command = [sys.executable, "-O", str(HERE / "drive_infer.py"), "inferred", str(artefacts / "infer")]
        done = scipion.run(*command, DISPLAY=display, BROWSER="true")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["form opened"] < 1.0 and (seen["resolution before"], seen["resolution after"]) == (False, True)
    assert all("No poses have been found yet" in seen[f"{name} before"] for name in ("confidence", "views", "report"))
    assert all("There is no map yet" in seen[f"{name} before"] for name in ("fsc", "slices"))
    assert [seen[name] for name in ("confidence", "views", "fsc", "slices")] == [2, 4, 1, 15]
    assert f" of {N_PARTICLES} particles are kept." in seen["status"]
    assert "no calibration" in seen["calibration"] and seen["report"] == 3
    assert not seen["torch"]


def test_a_refinement_takes_over(scipion: Installation, inferred: dict[str, str]) -> None:
    """A 3D auto-refine of scipion-em-relion starts from our poses, shifts and half sets, and finishes."""
    require("relion_refine_mpi", "mpirun")
    # The folder of RELION's programs, all three processes on however many cores, as root in a container too.
    variables = {"RELION_HOME": str(Path(shutil.which("relion_refine_mpi")).parents[1]), "RELION_ENV_ACTIVATION": "true"}
    variables |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    seen = told(scipion.python(ONWARD, **variables))
    assert seen["ended"].startswith("finished"), seen
    assert len(set(seen["sizes"].split()[:2])) == 1 and seen["sizes"].endswith(" 2"), seen
    given, ours, refined = (starfile.read(path)["particles"] for path in seen["stars"].split())
    assert len(given) == len(ours) == len(refined)
    for name in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnRandomSubset"):
        assert np.allclose(given[name], ours[name], atol=1e-4), name
    merged = given.merge(refined, on="rlnImageName", suffixes=("", "_refined"))
    assert len(merged) == len(given) and (merged["rlnRandomSubset"] == merged["rlnRandomSubset_refined"]).all()


def test_particles_are_taken_as_they_come(scipion: Installation, project) -> None:
    """Also those that come between others."""
    project("streamed")
    said = scipion.python(NEW + GROWING)
    seen = told(said)
    assert "is still training the model" in seen["training"] and "ended: failed None" in said, said
    assert seen["alive"] == "False 1" and "another value of: the model's weights." in seen["other"], said
    assert said.count("reached") == 2 and "reached 90 True" in said and "reached 150 True" in said, said
    assert "give at least 3 Scipion threads" in seen["refused"] and seen["validated"] == "[]"
    assert seen["closed"] == f"{N_PARTICLES} True True", said
    assert seen["kept"] == "[] True 3", said


@pytest.fixture(scope="module")
def cut_off(project) -> None:
    project("cut_off")


def test_a_power_cut(scipion: Installation, cut_off: None) -> None:
    done = scipion.run("setsid", "--wait", sys.executable, "-c", PREAMBLE + NEW + CUT_OFF)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    seen = told(scipion.python(NEW + GO_ON))
    assert seen["before"] == "failed False 1" and seen["ended"].startswith(f"finished {N_PARTICLES} True"), seen


def test_what_the_core_refuses_is_told_in_its_own_words(scipion: Installation, cut_off: None) -> None:
    seen = told(scipion.python(NEW + DAMAGED))
    assert seen["ended"].startswith("failed") and "half1/model.safetensors: damaged" in seen["ended"], seen
    assert "Traceback" not in seen["ended"] and seen["ended"].endswith("False")


def test_the_template(scipion: Installation) -> None:
    star = scipion.folder / "simulated" / "particles.star"
    fields = [part.split("|") for part in TEMPLATE.read_text(encoding="utf-8").split("~")[1::2]]
    own = {"star": star, "new_star": star, "sampling_rate": 10, "new_sampling_rate": 10, "resolution": 22}
    values = [f"{alias}={own.get(alias, default)}" for _, default, _, alias in fields]
    command = ["template", "CryoPARES-infer", "--nogui", "--noschedule", "project_name=from_template", *values]
    done = scipion.run(sys.executable, "-m", "scipion", *command)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    said = scipion.python(LOADED)
    assert "['ProtCryoparesInfer', ['inputModel', 'inputParticles']]" in said and "[22.0]" in said, said
