"""The icons that `data.py` built: pictures [N, 128, 128, 4] uint8 and, for each, style, concept, category and tags."""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


class Icons:
    def __init__(self, folder, concepts=HERE / "concepts.txt"):
        """Those whose name is in the file `concepts`, one a line; all of them for None."""
        folder = Path(folder)
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        wanted = concepts and set(Path(concepts).read_text(encoding="utf-8").split("\n"))
        kept = [i for i, m in enumerate(meta) if not wanted or m["name"] in wanted]
        self.pictures = np.load(folder / "data.npz")["img"][kept]  # [N, S, S, 4]
        self.names = [meta[i]["name"] for i in kept]
        self.styles = [meta[i]["style"] for i in kept]
        self.tags = [meta[i]["tags"] for i in kept]

    def __len__(self):
        return len(self.names)
