"""Builds the icons from the npm packages of the two sets.

    python build_data.py OUT

Fetches the three packages below with npm, checks them against the registry's own sha512, rasterises the
chosen icons to 128 × 128 RGBA (resvg) and writes OUT/data.npz, OUT/meta.json and OUT/SOURCES.json (versions,
licences, hashes, of what was read and of what was written). It says whether the result is the one that micro was
trained on.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from compose import SIZE

PACKAGES = {
    "noto": {
        "package": "@iconify-json/noto",
        "version": "1.2.9",
        "what": "Noto Emoji, © Google LLC",
        "licence": "Apache-2.0",
        "sha512": "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    },
    "flat": {
        "package": "@iconify-json/fluent-emoji-flat",
        "version": "1.2.6",
        "what": "Fluent Emoji (flat), © Microsoft Corporation",
        "licence": "MIT",
        "sha512": "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    },
    "tags": {
        "package": "emojibase-data",
        "version": "17.0.0",
        "what": "tags, © Miles Johnson",
        "licence": "MIT",
        "sha512": "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    },
}
CATEGORIES = [
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "Travel & Places",
    "Activities",
    "Smileys & Emotion",
    "Symbols",
]
SYMBOLS = re.compile("heart|star|circle|square|diamond|triangle|sign|button")
TRAINED_ON = "269cdb174f11169c51d18e7cb7afff0e5ec8552f386be0dcc40916f4ca13d56f"  # sha256 of the pictures
NEARLY_EMPTY = 10  # mean alpha (of 255) below which an icon is left out


def fetched(source, folder):
    """The package's files, name → bytes, once its hash is right."""
    spec = f"{source['package']}@{source['version']}"
    command = ["npm", "pack", "--silent", spec]
    packed = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    name = packed.stdout.split()[-1]
    archive = (Path(folder) / name).read_bytes()
    found = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if found != source["sha512"]:
        raise SystemExit(f"{spec}: its sha512 is {found}, that of the package used is {source['sha512']}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        wanted = ("icons.json", "metadata.json", "en/data.json")
        return {m.name.removeprefix("package/"): tar.extractfile(m).read() for m in tar if m.name.endswith(wanted)}


def chosen(files):
    """Category, name, body and size of each icon that is taken, in the package's order."""
    icons, metadata = (json.loads(files[f]) for f in ("icons.json", "metadata.json"))
    for category in CATEGORIES:
        for name in metadata["categories"].get(category, []):
            icon = icons["icons"].get(name)
            if icon is None or "skin-tone" in name or (category == "Symbols" and not SYMBOLS.search(name)):
                continue
            yield category, name, icon["body"], icon.get("width", icons["width"]), icon.get("height", icons["height"])


def rasterised(body, width, height):
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="0 0 {width} {height}">{body}</svg>'
    )
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))
    return np.asarray(picture.convert("RGBA").resize((SIZE, SIZE)))


def build():
    with tempfile.TemporaryDirectory() as folder:
        files = {key: fetched(source, folder) for key, source in PACKAGES.items()}
    tags = {e["label"].lower(): e.get("tags", []) for e in json.loads(files["tags"]["en/data.json"])}
    pictures, meta = [], []
    for style in ("noto", "flat"):
        for category, name, body, width, height in chosen(files[style]):
            picture = rasterised(body, width, height)
            if picture[..., 3].mean() > NEARLY_EMPTY:
                name = name.replace("-", " ")
                pictures.append(picture)
                meta.append({"style": style, "cat": category, "name": name, "tags": tags.get(name, [])})
    return np.stack(pictures), meta


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    pictures, meta = build()
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out / "data.npz", img=pictures)
    (args.out / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    made = {"pictures_sha256": hashlib.sha256(pictures.tobytes()).hexdigest(), "icons": len(meta)}
    sources = json.dumps({"packages": PACKAGES, "made": made}, indent=1, ensure_ascii=False)
    (args.out / "SOURCES.json").write_text(sources + "\n", encoding="utf-8")
    print(f"{len(meta)} icons, pictures sha256 {made['pictures_sha256']}")
    same = made["pictures_sha256"] == TRAINED_ON
    print(f"{'' if same else 'NOT '}the pictures that micro was trained on")


if __name__ == "__main__":
    main()
