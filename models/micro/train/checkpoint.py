"""Checkpoints that are whole or not there, and a way to stop between two steps."""

import os
import signal
import sys
from pathlib import Path

import torch


def save(path, state):
    """Whether it was written. A full disk ends no training: the last checkpoint stays, the next try may have room."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch wraps some of the former in the latter
        temporary.unlink(missing_ok=True)
        print(f"{path} was not saved: {error}", file=sys.stderr, flush=True)
        return False
    return True


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True) if Path(path).exists() else None


class Stop:
    """True once SIGTERM or SIGINT came: the loop then saves and ends."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.ask)

    def ask(self, *_):
        self.asked = True

    def __bool__(self):
        return self.asked
