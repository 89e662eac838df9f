"""The configuration tree: every parameter that `--config` takes, under the names of the training guide."""

# ruff: noqa: RUF009 -- `param` and `section` return dataclass fields, made anew for each instance.

from dataclasses import dataclass
from typing import List, Optional

from cryopares_core.config.augmentation import Augmenter
from cryopares_core.config.parameters import param, section

CTF_CORRECTIONS = ("phase_flip", "none", "concat_phase_flip", "ctf_multiply")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
PRECISIONS = ("auto", "32", "bf16")


@dataclass
class ParticlesDataset:
    """How a particle picture is prepared for the network."""

    sampling_rate_angs_for_nnet: Optional[float] = param(
        None,
        "Pixel size to which pictures are rescaled; null keeps that of the file.",
        unit="Å/px",
        above=0,
        high=100,
        label="Pixel size for the network",
    )
    image_size_px_for_nnet: Optional[int] = param(
        None,
        "Side of the picture after rescaling, by cropping or padding; null keeps the whole rescaled picture.",
        unit="px",
        low=16,
        high=2048,
        label="Box size for the network",
    )
    mask_radius_angs: Optional[float] = param(
        None, "Radius of the soft circular mask; null means half the box.", unit="Å", above=0, label="Mask radius"
    )
    ctf_correction: str = param(
        "phase_flip",
        "CTF correction: flip phases, leave as is, show the network both (two channels), or multiply by the CTF.",
        choices=CTF_CORRECTIONS,
        label="CTF correction",
    )


@dataclass
class DataManager:
    """Preparation, batches and augmentation."""

    particlesDataset: ParticlesDataset = section(ParticlesDataset, "Preparation of the pictures")
    augment_train: bool = param(True, "Data augmentation of the training pictures.", label="Augment the training pictures?")
    num_augmented_copies_per_batch: int = param(
        4,
        "Augmented copies of each particle in a batch; batch_size must be a multiple of it.",
        low=1,
        high=64,
        label="Augmented copies in a batch",
    )
    augmenter: Augmenter = section(Augmenter, "Data augmentation")


@dataclass
class I2SProjector:
    """From the feature map to the sphere."""

    sphere_fdim: int = param(
        512, "Features of the picture on the sphere; typically 256 to 1024.", low=8, high=8192, label="Features on the sphere"
    )
    rand_fraction_points_to_project: float = param(
        0.5,
        "Fraction of the sphere's points drawn in each training step; 1 takes all.",
        low=0.1,
        high=1.0,
        label="Fraction of the sphere's points",
    )
    hp_order: int = param(
        3,
        "HEALPix order of the projection's points; above 4 is not advisable.",
        low=0,
        high=5,
        label="HEALPix order of the projection",
    )


@dataclass
class S2Conv:
    """The convolution on the sphere that leads to rotations."""

    f_out: int = param(
        64, "Features after the convolution; typically 32 to 128.", low=1, high=1024, label="Features after the S2 convolution"
    )
    hp_order: int = param(
        4, "HEALPix order of the filter; it sets the filter's learning gain.", low=0, high=6, label="HEALPix order of the S2 filter"
    )


@dataclass
class SO3OutputGrid:
    """The grid of rotations on which the answer is read."""

    hp_order: int = param(
        4,
        "HEALPix order of the output grid: 3 is 7.5°, 4 is 3.7°, 5 is 1.8°.",
        low=0,
        high=5,
        label="HEALPix order of the output grid",
    )


@dataclass
class SO3Components:
    """The parts of the network that work on spheres and rotations."""

    i2sprojector: I2SProjector = section(I2SProjector, "From the picture to the sphere")
    s2conv: S2Conv = section(S2Conv, "From the sphere to rotations")
    so3outputgrid: SO3OutputGrid = section(SO3OutputGrid, "Where the answer is read")


@dataclass
class ResNet:
    """A residual network in place of the U-Net."""

    resnetName: Optional[str] = param(
        None,
        "Read pictures with this residual network; null takes the U-Net, which learns faster. Larger ones are stronger and slower.",
        choices=RESNETS,
        label="Picture encoder",
        null_label="U-Net",
    )
    output_stride: Optional[int] = param(
        None,
        "Picture pixels per pixel of the feature map; null takes the largest that leaves a map of 8 px or more.",
        unit="px",
        choices=(4, 8, 16, 32),
        advanced=True,
        label="Stride of the residual network",
    )
    weights_fname: Optional[str] = param(
        None,
        "File with weights of that network to start from, named as torchvision's (.pth or .safetensors).",
        advanced=True,
        label="Weights of the residual network",
    )


@dataclass
class UNet:
    """The U-Net that reads the picture."""

    width: int = param(
        32,
        "Channels of its finest map; deeper ones have twice as many each.",
        low=8,
        high=256,
        label="Width of the U-Net",
        advanced=True,
    )


@dataclass
class ImageEncoder:
    """From the picture to a feature map: a U-Net, or a residual network where one is named."""

    resnet: ResNet = section(ResNet, "Residual network")
    unet: UNet = section(UNet, "U-Net")


@dataclass
class Image2Sphere:
    """The network and its loss."""

    lmax: int = param(
        12, "Highest degree of the spherical harmonics; typically 8, 10 or 12.", low=1, high=16, label="Highest degree (lmax)"
    )
    label_smoothing: float = param(
        0.05, "Share of the uniform density in the label; 0 is none, 0.2 is strong.", low=0.0, high=0.5, label="Label smoothing"
    )
    label_sigma_degs: float = param(
        5.0,
        "Width of the label around the true pose (heat kernel); 0 is a point.",
        unit="degrees",
        low=0.0,
        high=60.0,
        label="Label width",
    )
    so3components: SO3Components = section(SO3Components, "Spheres and rotations")
    imageencoder: ImageEncoder = section(ImageEncoder, "Picture encoder")


@dataclass
class Models:
    """The models that can be trained."""

    image2sphere: Image2Sphere = section(Image2Sphere, "From a picture to a density over rotations")


@dataclass
class Train:
    """Optimizer and schedule."""

    learning_rate: float = param(
        1e-3, "Initial learning rate of Adam; it falls on plateaus.", above=0, high=1.0, label="Learning rate"
    )
    weight_decay: float = param(
        1e-5, "L2 regularisation; more of it counters overfitting.", low=0.0, high=1.0, label="Weight decay"
    )
    accumulate_grad_batches: int = param(
        1,
        "Batches over which gradients are summed before a step: a larger batch in the same memory.",
        low=1,
        high=1024,
        label="Batches per update",
    )
    patient_reduce_lr_plateau_n_epochs: int = param(
        3,
        "Epochs without a better val_loss before the learning rate is halved.",
        unit="epochs",
        low=0,
        high=1000,
        label="Patience before the rate falls",
    )
    early_stopping_n_epochs: Optional[int] = param(
        None,
        "Training ends after so many epochs without a better val_loss; null means never.",
        unit="epochs",
        low=5,
        high=1000,
        label="Patience before training ends",
        null_label="never",
    )
    checkpoint_every_minutes: float = param(
        5.0,
        "A run that is killed loses no more than this; the end of each epoch is kept as well.",
        unit="minutes",
        above=0,
        high=1440,
        label="Minutes between checkpoints",
        advanced=True,
    )
    noise_curriculum: bool = param(
        True,
        "Fresh networks begin on particles with part of their noise taken off, by a map made of the training half itself.",
        label="Begin with less noise?",
    )
    label_cleaning: bool = param(
        True,
        "Particles count in training by the probability that their known poses are right, judged by the training half's own map.",
        label="Give wrong poses less weight?",
    )
    n_epochs_simulation: int = param(
        0,
        "Epochs on simulated views of a map before the real particles; 0 means 3 where a map is given.",
        unit="epochs",
        low=0,
        high=1000,
        label="Epochs on simulated views",
    )
    simulation_snr: float = param(
        0.1,
        "Signal-to-noise ratio of the last simulated views; the first have 2.",
        above=0,
        high=2.0,
        label="Last signal-to-noise ratio",
        advanced=True,
    )
    n_views_per_epoch_simulation: Optional[int] = param(
        None,
        "Simulated views in an epoch; null means as many as there are training particles, and 10,000 without particles.",
        unit="views",
        low=1,
        high=100_000_000,
        label="Simulated views in an epoch",
        advanced=True,
    )
    val_fraction: float = param(
        0.1, "Share of the particles held out for validation.", above=0, high=0.5, label="Share for validation"
    )
    gradient_clip_norm: float = param(
        5.0, "Longer gradients are cut to this norm.", above=0, advanced=True, label="Gradient clipping (norm)"
    )
    precision: str = param(
        "auto",
        "Arithmetic of the encoder: 32 bits, bfloat16, or auto (bfloat16 on GPUs and processors that have it).",
        choices=PRECISIONS,
        advanced=True,
        label="Precision",
    )
    seed: int = param(2024, "Seed of all that is drawn at random.", low=0, high=2**31 - 1, label="Random seed")


@dataclass
class Config:
    """The whole tree. `load_config` makes one; the defaults alone are `Config()`."""

    datamanager: DataManager = section(DataManager, "Data")
    models: Models = section(Models, "Networks")
    train: Train = section(Train, "Optimizer and schedule")

    def batch_problems(self, batch_size: int) -> List[str]:
        """What is wrong with a batch size under this configuration (particles and their copies share the batch)."""
        copies = self.datamanager.num_augmented_copies_per_batch
        if not self.datamanager.augment_train or batch_size % copies == 0:
            return []
        return [
            f"--batch_size={batch_size} is not a multiple of datamanager.num_augmented_copies_per_batch={copies}: "
            f"use {copies * max(1, round(batch_size / copies))}, or change the number of copies."
        ]
