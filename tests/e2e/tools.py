"""What end-to-end tests share: a folder of images, a small space, and the real command line."""

import os
import random
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import pytest
import yaml
from PIL import Image, ImageDraw

from pipelines import cli

COLOURS = {"amber": (230, 160, 20), "blue": (30, 60, 220), "coral": (240, 90, 80), "green": (20, 160, 60)}
NOWHERE = Path(os.devnull)
"""A folder of runs for commands that neither read nor write one."""
COUNTS = {"train": 12, "val": 4, "test": 4}


def draw_images(root: Path) -> Path:
    """Write root/<split>/<class>/*.jpg: discs of four colours on grey."""
    rng = random.Random(0)
    for split, count in COUNTS.items():
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40, 36), (rng.randrange(90, 160),) * 3)
                left, top = rng.randrange(0, 12), rng.randrange(0, 8)
                ImageDraw.Draw(image).ellipse((left, top, left + 24, top + 24), fill=colour)
                image.save(folder / f"{number}.jpg")
    return root


def write_space(path: Path, images: Path, **changes: object) -> Path:
    """Write a space that takes seconds: a linear probe and two adapters on a random ViT of two blocks."""
    space = {
        "name": path.stem,
        "hypothesis": "a test",
        "dataset": {"name": path.stem, "source": "folder", "path": str(images)},
        "backbone": {
            "name": "vit_tiny_patch16_224",
            "weights": "none",
            "img_size": 32,
            "crop_pct": 1.0,
            "options": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        },
        "train": {"lr": {"choice": [5e-3, 1e-2]}, "epochs": 2, "batch_size": 8},
        "tuners": [{"method": "p_adapter", "ops": ["attn", "mlp"], "bottleneck_dim": 4}],
        "baselines": [{"tuners": []}],
        "budget": {"num_trials": 2},
        **changes,
    }
    if "families" in space:
        del space["tuners"]
    path.write_text(yaml.safe_dump(space))
    return path


def utuning(home: Path, *arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(home), timeout=timeout)


def utuning_here(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which has imported most of it already; it never shows a traceback."""
    words, out, err = ["utuning", *map(str, arguments)], StringIO(), StringIO()
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.dict(os.environ, environment(home)),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as exit,
    ):
        cli.main()
    done = subprocess.CompletedProcess(words, int(exit.value.code or 0), out.getvalue(), err.getvalue())
    assert "Traceback" not in done.stdout + done.stderr
    return done


def command(*arguments: str) -> list[str]:
    """The command line of this interpreter."""
    return [sys.executable, "-m", "pipelines.cli", *arguments]


def environment(home: Path) -> dict[str, str]:
    """The user's environment with a folder of runs of its own."""
    return {**os.environ, "UTUNING_HOME": str(home), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def spoil(dataset: Path, split: str = "test") -> dict[Path, bytes]:
    """Overwrite the rows of a split's shards, and leave their footers; gives what stood there."""
    before = {file: file.read_bytes() for file in (dataset / "data").glob(f"{split}-*.parquet")}
    assert before
    for file, content in before.items():
        footer = int.from_bytes(content[-8:-4], "little") + 8
        file.write_bytes(content[:4] + b"\xff" * (len(content) - footer - 4) + content[-footer:])
    return before
