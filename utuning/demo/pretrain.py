"""Trains the demo backbone: ``python -m utuning.demo.pretrain --to utuning/demo/``.

Draws pictures of the pretraining species, trains a small vision transformer to name them, and
writes its weights without the classification head (``vit.safetensors``), a line for each epoch
(``pretrain_log.jsonl``) and what the run was made of (``pretrain.json``).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import safetensors
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from utuning.demo.drawing import draw
from utuning.demo.species import GENERA, SPECIES_PER_GENUS, species

MODEL_NAME = "vit_tiny_patch16_224"
MODEL_SETTINGS = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 4,
    "mlp_ratio": 2.0,
    "num_heads": 3,
}


@dataclass(frozen=True)
class Settings:
    """Settings of a pretraining run."""

    seed: int = 0
    classes: int = GENERA["pretraining"] * SPECIES_PER_GENUS
    train_per_class: int = 200
    val_per_class: int = 10
    epochs: int = 8
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.03
    label_smoothing: float = 0.05
    warmup: float = 0.08
    """Share of all steps in which the learning rate rises."""
    shift: int = 4
    """Greatest random shift of a training picture along each axis, in pixels."""
    threads: int = 1


def pictures(settings: Settings, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures ``start`` to ``start + count`` of every class: uint8 (N, 3, 64, 64), labels (N,)."""
    kinds = species(settings.seed, "pretraining", settings.classes)
    drawn = np.stack(
        [np.asarray(draw(kind, settings.seed, index)) for kind in kinds for index in range(start, start + count)]
    )
    labels = torch.arange(len(kinds)).repeat_interleave(count)
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous(), labels


def normalised(batch: Tensor) -> Tensor:
    """Uint8 pictures as floats in -1 to 1 (mean and deviation 0.5)."""
    return batch.float() / 127.5 - 1


def augmented(batch: Tensor, shift: int, rng: torch.Generator) -> Tensor:
    """Uint8 pictures (N, 3, S, S), each mirrored half of the time and moved by up to ``shift``."""
    count, _, size, _ = batch.shape
    padded = nn.functional.pad(batch.float(), (shift,) * 4, mode="replicate").to(torch.uint8)
    moves = torch.randint(0, 2 * shift + 1, (count, 2), generator=rng)
    steps = torch.arange(size)
    rows, columns = moves[:, :1] + steps, moves[:, 1:] + steps
    mirrored = torch.rand(count, generator=rng) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    places = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[places, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def rate(settings: Settings, step: int, steps: int) -> float:
    """Learning rate at ``step`` of ``steps``: a linear rise, then half a cosine down to zero."""
    rise = max(1, round(settings.warmup * steps))
    if step < rise:
        return settings.lr * (step + 1) / rise
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of ``images`` (uint8) whose label the model names."""
    model.eval()
    with torch.inference_mode():
        named = [model(normalised(batch)).argmax(1) for batch in torch.split(images, 256)]
    return float((torch.cat(named) == labels).float().mean())


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    epoch: int,
    rng: torch.Generator,
) -> tuple[float, float]:
    """Train for one epoch; the mean loss and the share of training pictures named rightly on the way."""
    model.train()
    loss_of = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    batches = len(labels) // settings.batch_size
    order = torch.randperm(len(labels), generator=rng)[: batches * settings.batch_size]
    loss_sum, right = 0.0, 0
    for number, chosen in enumerate(torch.split(order, settings.batch_size)):
        for group in optimizer.param_groups:
            group["lr"] = rate(settings, epoch * batches + number, settings.epochs * batches)
        scores = model(normalised(augmented(images[chosen], settings.shift, rng)))
        loss = loss_of(scores, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss_sum += float(loss.detach())
        right += int((scores.argmax(1) == labels[chosen]).sum())
    return loss_sum / batches, right / len(order)


def train(settings: Settings, log: Path) -> tuple[nn.Module, float]:
    """Train a model, with a line in `log` for each epoch; the model and its last val accuracy (a share)."""
    torch.manual_seed(settings.seed)
    rng = torch.Generator().manual_seed(settings.seed)
    images, labels = pictures(settings, 0, settings.train_per_class)
    val_images, val_labels = pictures(settings, settings.train_per_class, settings.val_per_class)
    model: nn.Module = timm.create_model(MODEL_NAME, num_classes=settings.classes, **MODEL_SETTINGS)
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=settings.weight_decay)
    val_accuracy = 0.0
    with log.open("w") as lines:
        for epoch in range(settings.epochs):
            started = time.perf_counter()
            loss, train_accuracy = train_epoch(model, optimizer, images, labels, settings, epoch, rng)
            val_accuracy = accuracy(model, val_images, val_labels)
            line = {
                "epoch": epoch + 1,
                "loss": round(loss, 4),
                "train_accuracy": round(train_accuracy, 4),
                "val_accuracy": round(val_accuracy, 4),
                "seconds": round(time.perf_counter() - started, 2),
            }
            lines.write(json.dumps(line) + "\n")
            lines.flush()
    return model, val_accuracy


def save(model: nn.Module, path: Path) -> str:
    """Writes the weights without the head, as fp16; returns the file's sha256."""
    kept = {key: value.half().contiguous() for key, value in model.state_dict().items() if not key.startswith("head.")}
    save_file(kept, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Reads the command line, trains and writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="folder for the three files")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--threads", type=int, default=Settings.threads)
    given = parser.parse_args()
    settings = Settings(seed=given.seed, epochs=given.epochs, threads=given.threads)
    torch.set_num_threads(settings.threads)
    given.to.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    model, val_accuracy = train(settings, given.to / "pretrain_log.jsonl")
    record: dict[str, Any] = {
        "settings": dataclasses.asdict(settings),
        "model": {"name": MODEL_NAME, **MODEL_SETTINGS},
        "sha256": save(model, given.to / "vit.safetensors"),
        "val_accuracy": round(val_accuracy, 4),
        "seconds": round(time.perf_counter() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{one.__name__: one.__version__ for one in (torch, timm, np, PIL, safetensors)},
        },
    }
    (given.to / "pretrain.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
