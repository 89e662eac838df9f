"""What one step of training does, for Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.network import PoseNetwork
from cryopares_core.particles.augmentation import Augmenter
from cryopares_core.particles.batches import Batch
from cryopares_core.training.curriculum import NoiseCurriculum
from cryopares_core.training.records import Validated

WARM_UP_STEPS = 20
COOL_DOWN_SHARE = 0.25


class PoseTraining(lightning.LightningModule):
    """Loss, errors, optimizer and schedule around a `PoseNetwork`.

    Parameters
    ----------
    network : the network to train
    config : the whole configuration tree
    symmetry : the point group under which errors are the smallest
    mask : `(n, n)` soft circular mask, laid on each picture after augmentation
    curriculum : takes noise off the training pictures at first

    Attributes
    ----------
    validated : poses and errors of the last validation
    """

    mask: Tensor
    group: Tensor

    def __init__(self, network: PoseNetwork, config: Any, symmetry: str, mask: Tensor, curriculum: NoiseCurriculum | None = None):
        super().__init__()
        self.network, self.settings, self.data_settings = network, config.train, config.datamanager
        self.curriculum = curriculum
        self.augmenter = Augmenter(config.datamanager.augmenter)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("group", point_group(symmetry).matrices.float(), persistent=False)
        self._scores: Callable[[Tensor, Tensor], Any] = network.scores
        self._found: list[Validated] = []
        self.validated = Validated(torch.empty(0, 3, 3), torch.empty(0))
        self.total_steps = 1

    def on_train_start(self) -> None:
        self.total_steps = max(1, int(self.trainer.estimated_stepping_batches))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        images, eulers_degs = self._training_pictures(batch)
        loss, found = self._loss_and_poses(images, eulers_degs, newton_steps=2)
        if not bool(torch.isfinite(loss)):
            raise UserError(
                f"The loss is not a number after {self.global_step} steps: training has diverged. The checkpoints of earlier "
                "epochs are kept. Lower the learning rate, for example --config train.learning_rate="
                f"{self.settings.learning_rate / 10:g}."
            )
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(images))
        self.log("lr", self._learning_rates()[0] * self._ramp(), on_step=False, on_epoch=True, batch_size=len(images))
        self.log("geo_degs", found.error_degs.mean(), on_step=False, on_epoch=True, batch_size=len(images))
        if self.curriculum is not None:
            self.log("noise", self.curriculum.noise, on_step=False, on_epoch=True, batch_size=len(images))
            self.curriculum.advance(found.error_degs, self.global_step, self.total_steps)
        return loss

    def _training_pictures(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each picture as often as there are copies of it, with the curriculum's noise, augmented; and their angles."""
        augmented = self.data_settings.augment_train
        copies = self.data_settings.num_augmented_copies_per_batch if augmented else 1
        images, eulers_degs = batch.images.float().repeat(copies, 1, 1, 1), batch.eulers_degs.repeat(copies, 1)
        if self.curriculum is not None and batch.ids is not None and not self.curriculum.finished:
            images, eulers_degs = self.curriculum(images, eulers_degs, batch.ids.repeat(copies))
        return self.augmenter(images, eulers_degs) if augmented else (images, eulers_degs)

    def validation_step(self, batch: Batch, _: int) -> None:
        loss, found = self._loss_and_poses(batch.images.float(), batch.eulers_degs, newton_steps=4)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(batch))
        self._found.append(found)

    def on_validation_epoch_end(self) -> None:
        errors = torch.cat([found.error_degs for found in self._found])
        self.validated = Validated(torch.cat([found.poses for found in self._found]), errors)
        self._found.clear()
        self.log("val_geo_degs", errors.mean())
        self.log("val_median_geo_degs", errors.quantile(0.5))
        self.log("val_share_under_5_degs", (errors < 5).float().mean())

    def compile_step(self) -> None:
        """Compile the training step, all of it as one graph. Validation, whose batches have several sizes, stays as it is."""
        self._scores = torch.compile(self.network.scores, fullgraph=True)

    def _loss_and_poses(self, images: Tensor, eulers_degs: Tensor, newton_steps: int) -> tuple[Tensor, Validated]:
        """The mean loss, and each picture's predicted pose and its error."""
        scores = self._scores if self.training else self.network.scores
        coefficients, values, loss = scores(images * self.mask, eulers_degs)
        with torch.autocast(images.device.type, enabled=False):
            poses = self.network.density.poses(coefficients.detach(), values.detach(), newton_steps)
            return loss.mean(), Validated(poses, pose_error_degs(poses, euler_degs_to_matrix(eulers_degs), self.group))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=True
        )
        patience = self.settings.patient_reduce_lr_plateau_n_epochs
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "interval": "epoch"},
        }

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """By the norm of all gradients. Lightning itself would refuse fused optimizers in bfloat16, though nothing is unscaled."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """The plateau's rule counts epochs from the end of the curriculum on: before it, the loss says little."""
        if self.curriculum is None or self.curriculum.finished:
            scheduler.step(metric)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step at the plateau's learning rate times the ramp."""
        rates = self._learning_rates()
        ramp = self._ramp()
        for group, rate in zip(self._groups(), rates, strict=True):
            group["lr"] = rate * ramp
        super().optimizer_step(*args, **kwargs)
        for group, rate in zip(self._groups(), rates, strict=True):
            group["lr"] = rate

    def _ramp(self) -> float:
        """Up over the first steps, and down to nearly zero over the last quarter, where the error falls fastest."""
        step, total = self.global_step, self.total_steps
        warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
        cool_down = min(1.0, max(0.01, (total - step) / (COOL_DOWN_SHARE * total)))
        return warm_up * cool_down

    def _groups(self) -> list[dict[str, Any]]:
        return self.trainer.optimizers[0].param_groups

    def _learning_rates(self) -> list[float]:
        return [group["lr"] for group in self._groups()]
