"""What the viewer of an inference offers."""

from cryopares_plugin.viewers.contents import Item

INFER_ITEMS = [
    Item(
        "confidence",
        "Poses",
        "Confidence",
        "How many particles have which confidence, and what each least confidence would keep, in particles and in right poses. The "
        "dashed line is the one that was asked for.",
    ),
    Item(
        "views",
        "Poses",
        "View directions",
        "How many of the particles kept were seen from each direction, and how sure their poses are there. Views that the training "
        "set did not have cannot be found.",
    ),
    Item(
        "calibration",
        "Poses",
        "Calibration",
        "How far confidence is to be trusted: what came true of it with the particles that were held out in training.",
    ),
    Item(
        "fsc",
        "Map",
        "Fourier shell correlation",
        "How well the maps of the two half sets agree, at each resolution, and where it falls below 0.143.",
    ),
    Item(
        "slices",
        "Map",
        "Slices",
        "Planes through the map along its three axes. Noise that streaks through the box means few views.",
    ),
    Item(
        "report",
        "All of it",
        "HTML report",
        "Everything on one page, in the web browser. One file, which can be sent on.",
    ),
]
