"""What becomes of a form: its labels, its checks, and the command that it makes."""

import json
from itertools import pairwise

import pytest
from installation import Installation, project_with_particles

LOOK = """
import json
project = open_project("formed")
run = new_training(project, n_epochs=3)
run.setObjId(7)
seen = {"plain": run.validate()}
for gpus in ("0", "0,2-3", "1 1", "", "first"):
    run.gpuList.set(gpus)
    run.useGpu.set(True)
    seen["gpus " + gpus] = run.validate() or run._command("error file").partition("python")[0]
run.gpuList.set("0")
seen["on GPUs"] = run._machineArguments()
project._setHostConfig(run)
run._useQueue.set(True)
run.setQueueParams(["main", {"QUEUE_FOR_JOBS": "N"}])
seen["in a queue"] = run._command("x")
run.setQueueParams(["main", {"QUEUE_FOR_JOBS": "Y"}])
seen["as a job"] = run._command("x")
run._useQueue.set(False)
run.useGpu.set(False)
os.environ["FAST_DISK"] = "/fast"
run.scratch_dir.set("$FAST_DISK/pictures")
run.early_stopping_n_epochs.set(5)
run.checkpoint_every_minutes.set(2.5)
run.erasing_p_final.set(0.0)
run.n_epochs_simulation.set(2)
run.batch_size.set(0)
seen["words"] = run._startOrContinue(run._trainingArguments(), run._settings())
seen["auto"] = run.validate()
run.early_stopping_n_epochs.set(2)
run.batch_size.set(None)
seen["wrong"] = run.validate()
labels = {name: param.getLabel() for name, param in run.getDefinition().iterAllParams() if hasattr(param, "label")}
seen["labels"] = {name: labels[name] for name in ("batch_size", "early_stopping_n_epochs", "erasing_p_final", "scratch_dir")}
more = project.newProtocol(ProtCryoparesContinue, n_epochs=9, useGpu=False, numberOfThreads=2, learning_rate=1e-4)
os.makedirs(os.path.join(more.getRunDir(), "half1", "checkpoints"))
for name in ("run.json", "half1/checkpoints/last.ckpt"):
    open(os.path.join(more.getRunDir(), name), "w").close()
seen["more"] = more._startOrContinue([], [])
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(scipion: Installation) -> dict:
    """All of it, from one look at a project with particles."""
    project_with_particles(scipion, "formed")
    return json.loads(scipion.python(LOOK).strip().splitlines()[-1])


def test_all_gpus_that_are_named_train_together(seen: dict) -> None:
    assert seen["plain"] == []
    assert "export CUDA_VISIBLE_DEVICES=0; " in seen["gpus 0"] and "export CUDA_VISIBLE_DEVICES=0,2,3; " in seen["gpus 0,2-3"]
    assert "export CUDA_VISIBLE_DEVICES=1; " in seen["gpus 1 1"]
    assert "CUDA_VISIBLE_DEVICES" not in seen["gpus "], "all that there are"
    assert seen["gpus first"] == ["GPU IDs: 'first' is not a list of numbers. Write 0, or 0,1, or 0-3; nothing for all GPUs."]
    assert seen["on GPUs"][2:4] == ["--accelerator", "auto"]


def test_a_queue_says_which_gpus_and_when_to_end(seen: dict) -> None:
    assert "CUDA_VISIBLE_DEVICES" not in seen["in a queue"] + seen["as a job"]
    assert "keeper.py" in seen["in a queue"] and seen["as a job"].endswith("-m cryopares_train")


def test_new_settings_reach_the_command(seen: dict) -> None:
    words = seen["words"]
    pairs = list(pairwise(words))
    assert ("--scratch_dir", "/fast/pictures") in pairs and ("--accelerator", "cpu") in pairs and ("--batch_size", "0") in pairs
    settings = {"train.early_stopping_n_epochs=5", "train.checkpoint_every_minutes=2.5", "train.n_epochs_simulation=2"}
    settings.add("datamanager.augmenter.operations.erasing.p_final=0.0")
    assert settings < set(words[words.index("--config") :])
    assert seen["auto"] == []
    told = " ".join(seen["wrong"])
    assert "whole number from 5 to 1000" in told and "cannot be empty: expected whole number from 0." in told


def test_labels_say_what_special_values_mean(seen: dict) -> None:
    assert seen["labels"] == {
        "batch_size": "Batch size (0: auto)",
        "early_stopping_n_epochs": "Patience before training ends (epochs; empty: never)",
        "erasing_p_final": "to",
        "scratch_dir": "Scratch folder",
    }


def test_continuing_takes_no_more_than_epochs_rate_and_machine(seen: dict) -> None:
    words = seen["more"]
    assert words[:2] == ["--train_save_dir", words[1]] and "--particles_star_fname" not in words
    assert words[words.index("--n_epochs") + 1] == "9" and words[-2:] == ["--config", "train.learning_rate=0.0001"]
    assert words[words.index("--scratch_dir") + 1] == "" and words[words.index("--devices") + 1] == "none"
