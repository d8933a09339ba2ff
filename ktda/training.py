"""The training loop: one student pass per step feeds segmentation and distillation.

On Accelerate: precision, gradient accumulation, several GPUs by ``accelerate launch``. The learning rate is computed
from the step, not by a prepared schedule (Accelerate would step that once per process). Every random draw is keyed by
its place in the run, so a run resumed in mid-epoch is bit-identical on a CPU to one that was not interrupted.
"""

import signal
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ktda.build import build, describe, initialise, make_teacher, save_config
from ktda.config import Config
from ktda.data.folder import TileSet, open_data
from ktda.data.protocol import Splits, choose_splits
from ktda.data.stream import BatchStream, collate
from ktda.data.tiles import Tiles
from ktda.data.transforms import Augment
from ktda.errors import InputError
from ktda.files import read_json
from ktda.images import normalise
from ktda.losses import distillation_loss, segmentation_loss
from ktda.optimisation import learning_rate, parameter_groups
from ktda.runs.folder import check_folder, earlier_manifest, start_manifest
from ktda.runs.progress import CHECKPOINT, Progress
from ktda.runs.record import ended_by
from ktda.seeding import derive_seed
from ktda.targets import Targets
from ktda.teacher import Teacher

CACHED_TILES = 256  # sets up to this size stay decoded in memory


def train(data: str, config: Config, out: Path | str, resume: bool = False, init: str | None = None) -> dict:
    """Train, keep the weights that score best on the selection tiles, and score the reported split once.

    Args:
        data: name or folder of the data set.
        config: settings.
        out: run folder; see "What a run leaves" in README.md.
        resume: go on from the folder's checkpoint; a finished run is left as it is.
        init: run folder or checkpoint to start the weights from.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: a folder in use, or data and settings that do not fit.
    """
    out = Path(out)
    if check_folder(out, data, config, resume, init):
        return read_json(out / "metrics.json")
    before, tile_set = earlier_manifest(out), open_data(data)
    drawn = (config.tiles, config.scenes, config.seed, config.class_tiles)
    splits = choose_splits(tile_set, config.protocol, config.holdout, *drawn)
    if config.class_weights and len(config.class_weights) != tile_set.num_classes:
        raise InputError(f"{len(config.class_weights)} class_weights for {tile_set.num_classes} classes")
    accelerator = _accelerator(config)
    teacher = make_teacher(config) if config.model in ("ktda", "teacher") else None
    description = describe(config, tile_set.num_classes, teacher)
    model = build(description, teacher, config.student_weights)
    init, fresh = init or before.get("init"), before.get("left_fresh", [])
    if init and not (out / CHECKPOINT).is_file():  # a checkpoint holds weights that have gone on from there
        fresh = initialise(model, init)
    trainer = Trainer(accelerator, config, model, teacher, tile_set, splits, out)
    manifest = None
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        more = {"processes": accelerator.num_processes, "init": init, "left_fresh": fresh}
        manifest = start_manifest(out, data, tile_set, splits, config, model, teacher, accelerator.device, **more)
        save_config(out, description, tile_set.classes, tile_set.palette, tile_set.ignore_index)
    try:
        with ended_by(signal.SIGTERM):  # which batch systems send
            trainer.fit(resume)
            metrics = trainer.progress.report()
    except BaseException as error:  # a stopped run says so too
        if manifest:
            manifest.end("failed", error=f"{type(error).__name__}: {error}")
        raise
    if manifest:
        manifest.end("finished", seconds=metrics["seconds"])
    return metrics


def _accelerator(config: Config) -> Accelerator:
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision=fp16 needs a GPU; use bf16 or fp32 on this machine")
    # Accelerate's settings are global to the process, and a second run in it may want others.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    precision = "no" if config.precision == "fp32" else config.precision
    return Accelerator(mixed_precision=precision, gradient_accumulation_steps=config.accumulate)


class Trainer:
    """The loop and its losses; the teacher is asked if the config distils."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: Config,
        model: nn.Module,
        teacher: Teacher | None,
        tile_set: TileSet,
        splits: Splits,
        out: Path,
    ) -> None:
        self.accelerator, self.config, self.ignore_index = accelerator, config, tile_set.ignore_index
        keep = not (config.crop or config.photometric) and accelerator.device.type == "cpu"  # images come again
        self.targets = Targets(teacher, config.standardise, config.teacher_images, keep) if config.distils else None
        holder = getattr(model, "student", getattr(model, "network", None))
        if config.student_frozen and holder is None:
            raise InputError("student_frozen=true, but model=teacher has no student")
        self.frozen = holder.encoder.requires_grad_(False) if config.student_frozen else None
        optimiser = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
        self.model, self.optimiser = accelerator.prepare(model, optimiser)
        weights = config.class_weights
        self.class_weights = torch.tensor(weights, device=accelerator.device) if weights else None
        augment = Augment(config.hflip, config.vflip, config.rot90, config.crop or None, config.photometric)
        # the unlabelled tiles follow the labelled ones
        pairs, self.labelled = splits.train + (splits.unlabelled if config.unlabelled else []), len(splits.train)
        self.tiles = Tiles(tile_set, pairs, augment, config.seed, len(pairs) <= CACHED_TILES, self.labelled)
        bare = accelerator.unwrap_model(self.model)
        self.progress = Progress(accelerator, config, bare, self.optimiser, tile_set, splits, out)
        self.stream()  # refuses too few tiles before anything is written

    def stream(self) -> BatchStream:
        """The batches that are left."""
        c, a = self.config, self.accelerator
        place = (self.progress.batch, c.seed, a.process_index, a.num_processes)
        extra = len(self.tiles) - self.labelled
        return BatchStream(self.labelled, c.batch_size, c.steps * c.accumulate, *place, c.unlabelled, extra)

    def fit(self, resume: bool = False) -> None:
        """The loop, to the last step; its bar shows on a terminal only."""
        config, progress, rank = self.config, self.progress, self.accelerator.process_index
        if resume:
            progress.load()
        if self.targets:
            self.targets.statistics = progress.statistics
            self.targets.measure((self.tiles[i]["image"] for i in range(self.labelled)), self.accelerator.device)
            progress.statistics = self.targets.statistics
        stream, begun, due = self.stream(), time.perf_counter() - progress.seconds, False
        loader = DataLoader(self.tiles, batch_sampler=stream, num_workers=config.workers, collate_fn=collate)
        for item in tqdm(loader, total=stream.batches, initial=progress.batch, disable=rank > 0 or None):
            self.model.train()
            if self.frozen:
                self.frozen.eval()
            # Dropout and drop path draw from the global generator: keyed, a resumed run draws the same.
            torch.manual_seed(derive_seed(config.seed, "step", progress.batch, rank))
            step = progress.batch // config.accumulate
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(step, config)
            with self.accelerator.accumulate(self.model):
                terms = self.losses(item["image"], item["mask"])
                self.accelerator.backward(sum(terms.values()))
                self.optimiser.step()
                self.optimiser.zero_grad()
            progress.add(terms)
            epoch, position = divmod(progress.batch, stream.per_epoch)
            last = progress.batch == stream.batches
            progress.seconds = time.perf_counter() - begun
            if position == 0 or last:
                evaluated = last or epoch % config.evaluate_epochs == 0
                progress.end_epoch(epoch + bool(position), step + 1, position or stream.per_epoch, evaluated)
                due |= evaluated
            due |= config.checkpoint_steps > 0 and progress.batch % (config.checkpoint_steps * config.accumulate) == 0
            if due and progress.batch % config.accumulate == 0:  # between steps: no half-summed gradient is lost
                progress.save()
                due = False

    def losses(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The weighted terms of one batch: images (N, 3, H, W) in [0, 1], masks (N, H, W)."""
        c, device = self.config, self.accelerator.device
        seen, images, masks = images, images.to(device, non_blocking=True), masks.to(device, non_blocking=True)
        bare, twice = self.progress.model, c.student_passes == 2 and c.distils
        out = self.model(normalise(images, bare.mean, bare.std), outputs=True, second_pass=twice)
        ce = {"ignore_index": self.ignore_index, "average": c.ce_average, "class_weights": self.class_weights}
        terms = {"segmentation": segmentation_loss(out.logits, masks, **ce, dice=c.dice_weight, focal=c.focal_weight)}
        if out.auxiliary_logits is not None:
            terms["auxiliary"] = c.auxiliary_weight * segmentation_loss(out.auxiliary_logits, masks, **ce)
        if self.targets:
            with self.accelerator.autocast():
                maps = self.targets(seen, device)
            students, teachers = ([m[i] for i in c.distill_levels] for m in (out.aligned, maps))
            if c.distill_sum:
                students, teachers = [sum(students)], [sum(teachers)]
            distillation = distillation_loss(students, teachers, c.alpha, c.temperature, c.kl_axis, c.reduction)
            terms["distillation"] = c.distill_weight * distillation
        return terms
