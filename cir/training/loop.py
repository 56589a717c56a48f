"""The training loop of every model: `small` and the official recipes are tasks for it.

A step depends only on the seed, the step's number and the tensors of the last checkpoint, so that a training that was
killed continues as if it had not been.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cir import devices
from cir.errors import DataError, WeightsError
from cir.files import make_folder, write_text
from cir.models.kinds import is_model
from cir.training.checkpoint import CHECKPOINT, resume, write_checkpoint
from cir.training.schedule import Count, OneCycle, half_cosine
from cir.training.validation import Validation
from cir.typed_json import Within

LOG = "log.csv"

V = TypeVar("V", bound=Validation)
Below1 = Annotated[float, Within(0, 1 - 1e-9)]


@dataclass(frozen=True)
class Recipe:
    """How to optimise, for any task.

    Attributes:
        learning_rate: the highest, for AdamW.
        steps: of the optimiser; or `epochs`, which a task with a fixed set of examples turns into steps.
        warmup: steps of linear rise, before a half cosine down.
        one_cycle: replaces that schedule if given.
        betas, eps, weight_decay: of AdamW.
        clip: largest norm of the gradient; 0 for no limit.
        evaluate_every: steps between validations; the last step is always validated.
        checkpoint_every: steps between checkpoints.
        seed: of every random choice.
    """

    learning_rate: Annotated[float, Within(0, 1000)]
    steps: Count = 0
    epochs: Count = 0
    warmup: Count = 0
    one_cycle: OneCycle | None = None
    betas: tuple[Below1, Below1] = (0.9, 0.98)
    eps: Annotated[float, Within(0, 1)] = 1e-8
    weight_decay: Annotated[float, Within(0, 1000)] = 0.05
    clip: Annotated[float, Within(0, 1e9)] = 0.0
    evaluate_every: int = 200
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for an invalid recipe."""
        if not self.steps and not self.epochs:
            raise ValueError("a recipe has steps or epochs")
        if min(self.steps or 1, self.epochs or 1, self.evaluate_every, self.checkpoint_every) < 1:
            raise ValueError("steps, epochs, evaluate_every and checkpoint_every are 1 or more")
        if self.one_cycle and not self.epochs:
            raise ValueError("one_cycle counts epochs; give the recipe epochs, not steps")
        if self.one_cycle and self.one_cycle.epochs < self.epochs:
            raise ValueError(
                f"a cycle of {self.one_cycle.epochs} epochs ends before the {self.epochs} that are trained"
            )

    def over(self, steps_per_epoch: int) -> Recipe:
        """The same recipe with `epochs` turned into `steps`, and a validation after every epoch."""
        if not self.epochs:
            return self
        return replace(self, steps=self.epochs * steps_per_epoch, evaluate_every=steps_per_epoch)

    def pace(self, step: int) -> tuple[float, float]:
        """Learning rate and beta1 at a step, counted from 0."""
        if self.one_cycle:
            length = self.steps * self.one_cycle.epochs // self.epochs
            return self.one_cycle.at(step, length, self.learning_rate)
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup, self.betas[0]
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (half_cosine(1, 0, done) + 0.005), self.betas[0]


class Task(Protocol[V]):
    """A model in training, its data, and its validation."""

    @property
    def module(self) -> nn.Module:
        """Its parameters that require a gradient are trained and checkpointed."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Name of a parameter -> its share of the learning rate; parameters that are not named have all of it."""

    @property
    def left_out(self) -> int:
        """Number of pictures that are missing or broken, and not trained on."""

    def losses(self, step: int) -> dict[str, Tensor]:
        """Name -> weighted term of one batch; the sum of the terms is minimised."""

    def validate(self) -> V:
        """Figures on held-out training data; the headline decides which checkpoint is kept."""

    def save(self, directory: Path, training: Mapping[str, Any], validation: V) -> None:
        """Write the model directory; `training` and the figures of the validation go into its card."""


def _ignore(step: int, value: object) -> None:
    """Reports nothing."""


def train(
    task: Task[V],
    recipe: Recipe,
    *,
    work: Path,
    out: Path,
    facts: Mapping[str, Any],
    on_step: Callable[[int, Mapping[str, float]], None] = _ignore,
    on_validation: Callable[[int, V], None] = _ignore,
) -> None:
    """Train until `recipe.steps`, from the checkpoint under `work` if there is one, and keep the best model in `out`.

    Args:
        task: what to train.
        recipe: how to optimise.
        work: folder of the checkpoint and the log; created if missing.
        out: model directory, overwritten whenever a validation is as good as all before.
        facts: written into the model's card beside step, minutes and figures.
        on_step: called after each step with its number from 0 and its loss terms.
        on_validation: called after each validation with the step's number and the result.

    Raises:
        WeightsError: the checkpoint belongs to another task or configuration, or its best model is not in `out`.
        DataError: the loss is no longer a number, or the disk is full.
    """
    devices.keep_freed_memory()
    rank, _ = devices.process()
    if not rank:
        make_folder(work)
    named = {name: value for name, value in task.module.named_parameters() if value.requires_grad}
    shares = dict(task.rates)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, value in named.items():
        groups.setdefault(shares.get(name, 1.0), []).append(value)
    optimiser = torch.optim.AdamW(
        [{"params": values, "share": share} for share, values in groups.items()],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
    )
    done = resume(work / CHECKPOINT, named, optimiser, facts)
    if done.best is not None and not is_model(out):
        raise WeightsError(
            f"{out}: does not hold the best model of the training in {work}, which is at step {done.step}; "
            "name its --out, or start anew with another --work"
        )
    task.module.train()
    with nullcontext() if rank else _Log(work, done.step) as log:
        for step in range(done.step, recipe.steps):
            started = time.monotonic()
            rate, terms = _optimise(task, recipe, step, optimiser, named)
            on_step(step, terms)
            if log:
                log.write(step, "train", {"rate": rate, **terms})
            last = step + 1 == recipe.steps
            if last or (step + 1) % recipe.evaluate_every == 0:
                task.module.eval()
                validation = task.validate()
                task.module.train()
                on_validation(step, validation)
                if log:
                    log.write(step, "validation", validation.figures)
                if done.best is None or validation.headline >= done.best:
                    done.best = validation.headline
                    minutes = round((done.seconds + time.monotonic() - started) / 60, 1)
                    if not rank:
                        task.save(out, {**facts, "step": step + 1, "minutes": minutes}, validation)
            done.step = step + 1
            done.seconds += time.monotonic() - started
            if log and (last or (step + 1) % recipe.checkpoint_every == 0):
                log.flush()
                write_checkpoint(work / CHECKPOINT, named, optimiser, done, facts)


def _optimise(
    task: Task[V],
    recipe: Recipe,
    step: int,
    optimiser: torch.optim.Optimizer,
    named: Mapping[str, nn.Parameter],
) -> tuple[float, dict[str, float]]:
    """Take one step; its learning rate and its loss terms. Raises DataError for a loss that is not a number."""
    rank, processes = devices.process()
    torch.manual_seed((recipe.seed * 1_000_003 + step) * processes + rank)
    rate, beta1 = recipe.pace(step)
    for group in optimiser.param_groups:
        group["lr"], group["betas"] = rate * group["share"], (beta1, recipe.betas[1])
    with devices.training_autocast(next(iter(named.values())).device):
        terms = task.losses(step)
    total = torch.stack(list(terms.values())).sum()
    if not torch.isfinite(total):
        raise DataError(f"step {step}: the loss is {total.item()}; lower the learning rate and start anew")
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    devices.average_gradients(named.values())
    if recipe.clip:
        torch.nn.utils.clip_grad_norm_(named.values(), recipe.clip)
    optimiser.step()
    return rate, {name: float(value.detach()) for name, value in terms.items()}


class _Log:
    """`log.csv`, and the same values for TensorBoard if it is installed.

    Lines of steps that will be repeated after the last checkpoint are dropped.
    """

    def __init__(self, work: Path, step: int) -> None:
        path = work / LOG
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines[1:] if line.endswith("\n") and _step_of(line) < step]
            write_text(path, "".join([*lines[:1], *kept]))
        self._file = path.open("a", newline="", encoding="utf-8")
        self._lines = csv.writer(self._file, lineterminator="\n")
        if not path.stat().st_size:
            self._lines.writerow(["step", "part", "name", "value"])
        self._board: Any = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(work), purge_step=step)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board:
            self._board.close()

    def write(self, step: int, part: str, values: Mapping[str, float]) -> None:
        """A line for each value: step, part, name, value."""
        for name, value in values.items():
            self._lines.writerow([step, part, name, f"{value:.5g}"])
            if self._board:
                self._board.add_scalar(f"{part}/{name}", value, step)

    def flush(self) -> None:
        """Pass the written lines to the operating system."""
        self._file.flush()


def _step_of(line: str) -> float:
    """The step in a line of the log; endless for a damaged line, which is dropped."""
    step = line.partition(",")[0]
    return int(step) if step.isascii() and step.isdecimal() and len(step) < 20 else float("inf")
