"""One step of training: pictures, gradients, new weights."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.particles.augmentation import Augmenter
from cryopares_core.particles.batches import Batch
from cryopares_core.training.curriculum import NoiseCurriculum
from cryopares_core.training.distribution import mean_over_processes
from cryopares_core.training.seeds import seed_of

logger = logging.getLogger(__name__)
STATISTICS = ("loss", "geo_degs", "median_degs", "noise", "stop")


class TrainingStep:
    """Makes steps that follow from the weights, the batches and the step's number alone.

    Parameters
    ----------
    fabric : the processes that train together
    module : a `PoseTraining` that fabric has set up
    optimizer : its optimizer
    config : the whole configuration tree
    curriculum : takes noise off the training pictures at first
    seed : the stage's
    weights : of each particle's loss, `(n,)` of all particles of the run; None weighs all alike

    Attributes
    ----------
    pieces : how many parts the pictures are given to the network in, more where memory was too small for all at once
    """

    def __init__(
        self,
        fabric: Fabric,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: Config,
        curriculum: NoiseCurriculum | None,
        seed: int,
        weights: Tensor | None = None,
    ):
        self.fabric, self.module, self.optimizer, self.curriculum, self.seed = fabric, module, optimizer, curriculum, seed
        self.clip_norm, self.data = config.train.gradient_clip_norm, config.datamanager
        self.augmenter = Augmenter(config.datamanager.augmenter)
        self.weights = None if weights is None else weights.float().to(fabric.device)
        self.pieces = 1

    def __call__(self, batches: list[Batch], step: int, progress: float, noisy: bool, stop: bool) -> Tensor:
        """Change the weights by the gradients over all the batches.

        Parameters
        ----------
        step : how many steps there were before
        progress : 0 at the training's start, 1 at its end
        noisy : the curriculum has ended
        stop : this process was asked to stop

        Returns the `STATISTICS`, means over pictures and processes; `(5,)` float64, on the device.
        """
        while (found := self._gradients(batches, step, progress, noisy)) is None:
            self._take_smaller_pieces(min(map(len, batches)))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.optimizer.step()
        return self._statistics(*found, step, stop)

    def _gradients(self, batches: list[Batch], step: int, progress: float, noisy: bool) -> tuple[Tensor, Tensor] | None:
        """Sum the gradients and return losses and errors; None where memory was too small."""
        self.optimizer.zero_grad(set_to_none=True)
        losses, errors = [], []
        try:
            for number, batch in enumerate(batches):
                torch.manual_seed(seed_of(self.seed, step, number, self.fabric.global_rank))
                images, eulers_degs = self._pictures(batch.to(self.fabric.device, non_blocking=True), progress, noisy)
                columns = images, eulers_degs, self._weights(batch, len(images))
                parts = list(zip(*(column.tensor_split(self.pieces) for column in columns), strict=True))
                for place, (some, angles, weights) in enumerate(parts):
                    last = number == len(batches) - 1 and place == len(parts) - 1
                    share = len(some) / (len(images) * len(batches))
                    # What the network draws is the same for all batches, pieces and processes of a step.
                    torch.manual_seed(seed_of(self.seed, step))
                    with self.fabric.no_backward_sync(self.module, enabled=not last and self.fabric.world_size > 1):  # type: ignore[arg-type]
                        loss, _, _, error = self.module(some, angles)
                        self.fabric.backward((loss * weights).mean() * share)
                    losses.append(loss.detach())
                    errors.append(error)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            return None
        return torch.cat(losses), torch.cat(errors)

    def _pictures(self, batch: Batch, progress: float, noisy: bool) -> tuple[Tensor, Tensor]:
        """Each picture as often as there are copies of it, with the curriculum's noise, augmented; and their angles."""
        augmented = self.data.augment_train
        copies = self.data.num_augmented_copies_per_batch if augmented else 1
        images, eulers_degs = batch.images.float().repeat(copies, 1, 1, 1), batch.eulers_degs.repeat(copies, 1)
        if self.curriculum is not None and batch.ids is not None and not noisy:
            images, eulers_degs = self.curriculum(images, eulers_degs, batch.ids.repeat(copies))
        return self.augmenter(images, eulers_degs, progress) if augmented else (images, eulers_degs)

    def _weights(self, batch: Batch, n_images: int) -> Tensor:
        """`(n_images,)` of the copies of all particles of a batch, in the order of `_pictures`."""
        if self.weights is None or batch.ids is None:
            return torch.ones(n_images, device=self.fabric.device)
        return self.weights[batch.ids.to(self.weights.device)].repeat(n_images // len(batch))

    def _take_smaller_pieces(self, n_particles: int) -> None:
        """Raises UserError where nothing smaller is left, or where other processes wait for this one."""
        pictures = n_particles * (self.data.num_augmented_copies_per_batch if self.data.augment_train else 1)
        if self.fabric.world_size > 1 or self.pieces >= pictures:
            raise UserError(
                f"The memory is too small for a batch of {pictures} pictures{' a process' if self.fabric.world_size > 1 else ''}. "
                "Lower --batch_size (and raise train.accumulate_grad_batches as much), or take a smaller box or network."
            )
        self.pieces = min(2 * self.pieces, pictures)
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning(
            "The memory is too small for a batch at once: from here on each batch is computed in %d pieces. Its gradients are the "
            "same, but for norms over fewer pictures, and steps are slower. A smaller --batch_size avoids that",
            self.pieces,
        )

    def _statistics(self, losses: Tensor, errors: Tensor, step: int, stop: bool) -> Tensor:
        noise = self.curriculum.noise if self.curriculum is not None else errors.new_ones(())
        own = torch.stack((losses.mean(), errors.mean(), errors.median(), noise.to(errors), errors.new_full((), float(stop))))
        return mean_over_processes(self.fabric, own.double())


def _is_out_of_memory(error: Any) -> bool:
    """PyTorch has a class for GPUs and a sentence for processors."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error) or "can't allocate memory" in str(error)
