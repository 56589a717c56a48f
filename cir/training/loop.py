"""The training loop of every model: `small` and the official recipes are tasks for it.

A step depends on nothing but the seed, the step's number and the tensors of the last checkpoint, so that a training
that was killed continues as if it had not been.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cir import devices
from cir.errors import DataError, WeightsError
from cir.models.weights import CARD
from cir.training.schedule import OneCycle, half_cosine

CHECKPOINT, LOG = "checkpoint.safetensors", "log.csv"


@dataclass(frozen=True)
class Recipe:
    """How to optimise, for any task.

    Attributes:
        steps: of the optimiser; or `epochs`, which a task with a fixed set of examples turns into steps.
        learning_rate: its highest value; AdamW.
        warmup: steps of linear rise, before a half cosine down.
        one_cycle: the schedule instead, if given.
        betas, eps, weight_decay: of AdamW.
        clip: largest norm of the gradient; 0 for no limit.
        evaluate_every: steps between validations; the last step is always validated.
        checkpoint_every: steps between checkpoints.
        seed: of every random choice.
    """

    learning_rate: float
    steps: int = 0
    epochs: int = 0
    warmup: int = 0
    one_cycle: OneCycle | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip: float = 0.0
    evaluate_every: int = 200
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be trained by."""
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

    def over(self, steps_an_epoch: int) -> Recipe:
        """The same with `steps` set; every epoch is validated."""
        if not self.epochs:
            return self
        return replace(self, steps=self.epochs * steps_an_epoch, evaluate_every=steps_an_epoch)

    def pace(self, step: int) -> tuple[float, float]:
        """Learning rate and beta1 at a step, counted from 0."""
        if self.one_cycle:
            length = self.steps * self.one_cycle.epochs // self.epochs
            return self.one_cycle.at(step, length, self.learning_rate)
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup, self.betas[0]
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (half_cosine(1, 0, done) + 0.005), self.betas[0]


class Task(Protocol):
    """What is trained, on what, and how good it is."""

    @property
    def module(self) -> nn.Module:
        """Its parameters that require a gradient are trained and checkpointed."""

    @property
    def left_out(self) -> int:
        """Pictures that are missing or broken, and that nothing is learned from."""

    def losses(self, step: int) -> dict[str, Tensor]:
        """Named terms of one batch, already weighted; their sum is minimised."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out training data; "headline" decides which checkpoint is kept."""

    def save(self, directory: Path, training: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Write the model directory."""


def train(
    task: Task,
    recipe: Recipe,
    *,
    work: Path,
    out: Path,
    facts: Mapping[str, Any],
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
) -> None:
    """Train until `recipe.steps`, from the checkpoint under `work` if there is one, and keep the best model in `out`.

    Args:
        task: what to train.
        recipe: how.
        work: holds the checkpoint and the log; made if it is not there.
        out: model directory, overwritten whenever a validation is as good as all before.
        facts: written into the model's card beside step, minutes and figures.
        report: called after each step with its losses, and after a validation with its figures.

    Raises:
        WeightsError: the checkpoint is of another task or configuration, or its best model is not in `out`.
        DataError: the loss is no longer a number.
    """
    devices.keep_freed_memory()
    rank, processes = devices.process()
    if not rank:
        work.mkdir(parents=True, exist_ok=True)
    named = {name: value for name, value in task.module.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW(
        named.values(),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
    )
    device = next(iter(named.values())).device
    done = _resume(work / CHECKPOINT, named, optimiser, facts)
    if done.best > float("-inf") and not (out / CARD).is_file():
        raise WeightsError(
            f"{out}: does not hold the best model of the training in {work}, which is at step {done.step}; "
            "name the --out it was given, or start anew with another --work"
        )
    task.module.train()
    with nullcontext() if rank else _Log(work, done.step) as log:
        for step in range(done.step, recipe.steps):
            started = time.monotonic()
            torch.manual_seed((recipe.seed * 1_000_003 + step) * processes + rank)
            rate, beta1 = recipe.pace(step)
            for group in optimiser.param_groups:
                group["lr"], group["betas"] = rate, (beta1, recipe.betas[1])
            with devices.training_autocast(device):
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
            values = {name: float(value.detach()) for name, value in terms.items()}
            report(step, values)
            if log:
                log.write(step, "train", {"rate": rate, **values})
            last = step + 1 == recipe.steps
            if last or (step + 1) % recipe.evaluate_every == 0:
                task.module.eval()
                figures = task.validate()
                task.module.train()
                report(step, figures)
                if log:
                    log.write(step, "validation", figures)
                if figures["headline"] >= done.best:
                    done.best = figures["headline"]
                    minutes = round((done.seconds + time.monotonic() - started) / 60, 1)
                    if not rank:
                        task.save(out, {**facts, "step": step + 1, "minutes": minutes}, figures)
            done.step = step + 1
            done.seconds += time.monotonic() - started
            if log and (last or (step + 1) % recipe.checkpoint_every == 0):
                log.flush()
                _write(work / CHECKPOINT, named, optimiser, done, facts)


class _Log:
    """`log.csv`, and the same for TensorBoard where it is installed. Lines of steps that are done again are dropped."""

    def __init__(self, work: Path, step: int) -> None:
        path = work / LOG
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines[1:] if line.endswith("\n") and int(line.partition(",")[0]) < step]
            path.write_text("".join([*lines[:1], *kept]), encoding="utf-8")
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
        """Bring what was written to the disk."""
        self._file.flush()


@dataclass
class _Done:
    step: int = 0
    best: float = float("-inf")
    seconds: float = 0.0


def _write(
    path: Path,
    named: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    done: _Done,
    facts: Mapping[str, Any],
) -> None:
    """One file, replaced at once: a kill leaves the checkpoint before or this one."""
    from safetensors.torch import save_file

    tensors = {f"parameter.{name}": value.detach() for name, value in named.items()}
    for name, value in named.items():
        tensors |= {f"optimiser.{key}.{name}": state for key, state in optimiser.state.get(value, {}).items()}
    temporary = path.with_suffix(".tmp")
    told = {"done": json.dumps(vars(done)), "facts": json.dumps(facts)}
    save_file({key: value.contiguous() for key, value in tensors.items()}, temporary, told)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def check_work(work: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another training's checkpoint, before anything costly is done for this one.

    Raises:
        WeightsError: it does.
    """
    path = work / CHECKPOINT
    if not path.is_file():
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            known = json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a checkpoint: {error}; delete it to start anew") from None
    if known != json.loads(json.dumps(dict(facts))):
        raise WeightsError(
            f"{path}: a checkpoint of another configuration; name another --work, or delete it to start anew"
        )


def _resume(
    path: Path,
    named: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> _Done:
    """Take up a checkpoint; where there is none, the start."""
    if not path.is_file():
        return _Done()
    check_work(path.parent, facts)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            done = _Done(**json.loads(file.metadata()["done"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        with torch.no_grad():
            for key, value in tensors.items():
                part, _, name = key.partition(".")
                if part == "parameter":
                    named[name].copy_(value)
                else:
                    state, _, name = name.partition(".")
                    kept = value if state == "step" else value.to(named[name].device)
                    optimiser.state[named[name]][state] = kept
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: not a checkpoint of this training: {error}; delete it to start anew") from None
    return done
