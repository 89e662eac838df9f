"""What the viewer's form offers: one line for each picture, with its label, help and place."""

from typing import Dict, List, NamedTuple


class Item(NamedTuple):
    """A line of the form. `name` is that of the form's parameter."""

    name: str
    group: str
    label: str
    help: str


ITEMS = [
    Item(
        "curves",
        "Training",
        "Learning curves",
        "Loss, error of the particles that were held out, and learning rate, epoch by epoch. The window follows a run that is "
        "still going on. Validation loss that rises while training loss falls means overfitting.",
    ),
    Item(
        "histogram",
        "Particles held out, at the best epoch",
        "Angular errors",
        "How far predicted poses are from the known ones, as a histogram. Good models have most particles under 5°.",
    ),
    Item(
        "error_map",
        "Particles held out, at the best epoch",
        "Errors by view direction",
        "The median error on a map of the sphere. Views with large errors are rare in the training set, or look like others.",
    ),
    Item(
        "defocus",
        "Particles held out, at the best epoch",
        "Errors by defocus",
        "The median error of particles of about the same defocus, with the middle half of them. Little defocus shows little.",
    ),
    Item(
        "confidence",
        "Particles held out, at the best epoch",
        "Confidence",
        "Whether the confidence that the network states comes true, and how much better its surest particles are.",
    ),
    Item(
        "view_map",
        "Training particles",
        "View directions",
        "How many training particles were seen from each direction. Views that are missing here cannot be learned.",
    ),
    Item(
        "gallery",
        "Training particles",
        "Gallery",
        "Some particles as the network gets them: before and after their preparation, and augmented. Check that they are white on "
        "dark, centred, and not cut by the mask.",
    ),
    Item(
        "report",
        "All of it",
        "HTML report",
        "Everything on one page, with a judgement in words and all settings, in the web browser. One file, which can be sent on.",
    ),
    Item(
        "tensorboard",
        "All of it",
        "TensorBoard",
        "Starts TensorBoard on a free port of this machine and opens it in the web browser. It is stopped with this window.",
    ),
    Item(
        "model",
        "All of it",
        "Model",
        "Symmetry, pixel size, box, half sets and errors of the trained model, and where its files are.",
    ),
]


def groups() -> Dict[str, List[Item]]:
    """The items under their groups' titles, in order."""
    titles = dict.fromkeys(item.group for item in ITEMS)
    return {title: [item for item in ITEMS if item.group == title] for title in titles}
