"""What several benchmarks measure: seconds, in turns, and memory. Needs torch alone."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch


def in_turns(rounds: int, *sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side, measured in turns; the first run of each is not counted."""
    for side in sides:
        seconds_of(side)
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for place, side in enumerate(sides):
            seconds[place].append(seconds_of(side))
    return [median(each) for each in seconds]


def seconds_of(side: Callable[[], object]) -> float:
    """Seconds until it is done; a GPU works off what is queued."""
    started = time.perf_counter()
    side()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def resident_bytes(process: int | None = None) -> int:
    """Memory of a process, by default this one, that lies in RAM (Linux)."""
    pages = Path(f"/proc/{process or 'self'}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
