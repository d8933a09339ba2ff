"""The training loop: one student pass per step feeds segmentation and distillation.

On Accelerate: precision, gradient accumulation, several GPUs by ``accelerate launch``. The learning
rate is computed from the step, not by a prepared schedule (Accelerate would step that once per
process). Every random draw is keyed by its place in the run, so a run resumed in mid-epoch is
bit-identical on a CPU to one that was not interrupted.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ktda.config import Config
from ktda.data.bands import teacher_bands
from ktda.data.folder import TileSet
from ktda.data.protocol import Splits
from ktda.data.stream import BatchStream, collate
from ktda.data.tiles import Tiles
from ktda.data.transforms import Augment
from ktda.data.unlabelled import Unlabelled
from ktda.objective import Objective
from ktda.optimisation import arrange, freeze, learning_rate, parameter_groups
from ktda.runs.progress import Progress
from ktda.runs.watch import Watch
from ktda.seeding import derive_seed, training_seed
from ktda.targets import Targets
from ktda.teacher import Teacher

CACHED_TILES = 256  # sets up to this size stay decoded in memory


class Trainer:
    """The loop; the teacher is asked if the config distils."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: Config,
        model: nn.Module,
        teacher: Teacher | None,
        tile_set: TileSet,
        splits: Splits,
        out: Path,
        unlabelled: Unlabelled | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.config = config
        self.seed = training_seed(config.seed, config.repeat)
        self.ignore_index = tile_set.ignore_index
        self.targets = None
        if config.distils:
            # without cuts and distortion the same pixels come again, and so do the teacher's maps
            again = not (config.crop or config.photometric) and accelerator.device.type == "cpu"
            keep = config.batch_size if again else 0
            if keep and not unlabelled and len(splits.unlabelled) <= CACHED_TILES:
                keep += config.unlabelled
            seen = teacher_bands(tile_set)
            self.targets = Targets(teacher, config.standardise, config.teacher_images, keep, seen)
        self.frozen = freeze(model, config)
        arrange(model, config)
        groups = parameter_groups(model, config.weight_decay, config.encoder_rate)
        fused = accelerator.device.type == "cuda" or None  # None: as PyTorch chooses
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
        self.model, self.optimiser = accelerator.prepare(model, optimiser)
        self.objective = Objective(accelerator, config, self.ignore_index, self.targets)
        crop = config.crop or None
        augment = Augment(config.hflip, config.vflip, config.rot90, crop, config.photometric)
        # the unlabelled tiles follow the labelled ones
        self.labelled = len(splits.train)
        pairs = splits.train + (splits.unlabelled if config.unlabelled else [])
        cache = len(pairs) <= CACHED_TILES
        self.tiles = Tiles(tile_set, pairs, augment, self.seed, cache, self.labelled, unlabelled)
        bare = accelerator.unwrap_model(self.model)
        self.progress = Progress(accelerator, config, bare, self.optimiser, tile_set, splits, out)
        self.progress.stems_of = lambda n: [self.tiles.name_of(i) for i in self.stream().at(n)]
        self.stream()  # refuses too few tiles before anything is written

    def stream(self) -> BatchStream:
        """The batches that are left."""
        config = self.config
        return BatchStream(
            self.labelled,
            config.batch_size,
            config.steps * config.accumulate,
            start=self.progress.batch,
            seed=self.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            unlabelled=config.unlabelled,
            extra=len(self.tiles) - self.labelled,
        )

    def fit(self, resume: bool = False) -> None:
        """The loop, to the last step."""
        config = self.config
        progress = self.progress
        if resume:
            progress.load()
        self.measure_teacher()
        stream = self.stream()
        begun = time.perf_counter() - progress.seconds
        checkpoint_due = False
        batches = self.batches(stream)
        with Watch(progress) as watch:
            while progress.batch < stream.batches:
                together = list(itertools.islice(batches, config.accumulate))  # of one step
                shares = self.shares([batch["mask"] for batch in together])
                for batch, share in zip(together, shares, strict=True):
                    terms = self.train(batch, share)
                    progress.seconds = time.perf_counter() - begun
                    if self._end_epoch(stream):
                        checkpoint_due = True
                        watch.evaluated(progress.history[-1])
                watch.step(terms)
                # between steps only: no half-summed gradient is lost
                every = config.checkpoint_steps * config.accumulate
                checkpoint_due |= every > 0 and progress.batch % every == 0
                if checkpoint_due:
                    progress.save()
                    checkpoint_due = False

    def batches(self, stream: BatchStream) -> Iterator[dict[str, Tensor]]:
        """Tiles of a stream, decoded, changed and put together."""
        how = {"num_workers": self.config.workers, "collate_fn": collate}
        return iter(DataLoader(self.tiles, batch_sampler=stream, **how))

    def train(self, batch: dict[str, Tensor], share: float | Tensor = 1.0) -> dict[str, Tensor]:
        """One batch forth and back, and a step where it is the last of one; its loss terms.

        Arguments as `Objective`'s.
        """
        self._set_modes()
        self._seed_dropout()
        self._set_rate()
        with self.accelerator.accumulate(self.model):
            terms = self.objective(self.model, batch["image"], batch["mask"], share)
            self.accelerator.backward(sum(terms.values()))
            self.optimiser.step()  # Accelerate lets it act on the last of a step only
            self.optimiser.zero_grad()
        self.progress.add(terms)  # and counts the batch
        return terms

    def measure_teacher(self) -> None:
        """The teacher's channel statistics: the checkpoint's, or over the labelled tiles."""
        if self.targets is None:
            return
        self.targets.statistics = self.progress.statistics
        images = (self.tiles[index]["image"] for index in range(self.labelled))
        self.targets.measure(images, self.accelerator.device)
        self.progress.statistics = self.targets.statistics

    def shares(self, masks: list[Tensor]) -> Sequence[float | Tensor]:
        """How many pixels count in each batch of a step, over the mean of all its batches.

        The mean is over all processes, so that a pixel weighs the same in whatever batch it is.
        """
        alone = len(masks) == self.accelerator.num_processes == 1
        if alone or self.config.ce_average != "valid":
            return [1.0] * len(masks)
        counts = torch.stack([(mask != self.ignore_index).sum() for mask in masks])
        counts = counts.to(self.accelerator.device, torch.float32)  # (batches of the step,)
        return counts / self.accelerator.gather(counts).mean().clamp(min=1)

    def _set_modes(self) -> None:
        self.model.train()  # an evaluation may have come before
        for part in self.frozen:
            part.eval()  # its BatchNorm statistics shall not move either

    def _seed_dropout(self) -> None:
        # Dropout and drop path draw from the global generator: keyed, a resumed run draws the same.
        rank = self.accelerator.process_index
        torch.manual_seed(derive_seed(self.seed, "step", self.progress.batch, rank))

    def _set_rate(self) -> None:
        rate = learning_rate(self.progress.batch // self.config.accumulate, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["rate"]

    def _end_epoch(self, stream: BatchStream) -> bool:
        """Close the epoch with its last batch, or the run's; whether the model was scored."""
        batches = self.progress.batch
        epoch, position = divmod(batches, stream.per_epoch)
        last = batches == stream.batches
        if position and not last:
            return False
        step = -(-batches // self.config.accumulate)
        evaluated = last or epoch % self.config.evaluate_epochs == 0
        # a last epoch that is not whole counts as one more
        self.progress.end_epoch(
            epoch + (position > 0), step, position or stream.per_epoch, evaluated
        )
        return evaluated
