"""Settings that several tests share."""

# A network that learns within seconds on pictures of 32 px.
SMALL = [
    "models.image2sphere.lmax=5",
    "models.image2sphere.so3components.i2sprojector.sphere_fdim=64",
    "models.image2sphere.so3components.s2conv.f_out=16",
    "models.image2sphere.so3components.so3outputgrid.hp_order=2",
    "models.image2sphere.imageencoder.unet.width=16",
    "datamanager.num_augmented_copies_per_batch=2",
    "train.label_cleaning=False",  # tests/test_labels.py turns it on; elsewhere it would take most of the time
]
