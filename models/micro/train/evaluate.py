"""Measures what a model draws; the questions are those of the model card.

    python evaluate.py DATA MODEL --name NAME                 # everything: hours on two cores
    python evaluate.py DATA MODEL --name NAME --samples 200   # a random part of it
    python evaluate.py DATA MODEL --name real --control real  # what the measure says of real pictures
    python evaluate.py DATA MODEL --name noise --control noise
    python evaluate.py DATA MODEL --name w8a8 --samples 200 --darkroom PROGRAM --options="--quant w8a8"
    python evaluate.py DATA MODEL --name later --concepts later.txt   # of concepts that no weights before had seen

Every icon (concept × style) is asked for on up to three backgrounds that it was trained on and on the held-out
ones of its concept (split.py), with two seeds each, in random order: SIGTERM ends it early with what it has, a random
part too. The result goes to RESULTS (results.json, one entry a NAME),
and the table of all entries to a .md beside it and to stdout.
"""

import argparse
import json
import random
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

import checkpoint
from cache import HERE, Icons
from captions import article, question
from compose import BACKGROUNDS, SIZE, compose, enlarged, framed_composition
from draw import GUIDANCE, STEPS, Drawer, Engine
from retrieval import Gallery, background_of, middle
from split import held_out, held_out_backgrounds, trained_backgrounds

SEEDS = 2
DIVERSITY_SEEDS = 4
TRAINED, HELD_OUT = "trained pairs", "held-out pairs"


def all_cases(icons):
    cases = []
    for i, name in enumerate(icons.names):
        rng = random.Random(f"evaluation {name}")  # the same backgrounds for both styles
        backgrounds = rng.sample(trained_backgrounds(name, BACKGROUNDS), 3) + held_out_backgrounds(name, BACKGROUNDS)
        cases += [(i, b, seed) for b in backgrounds for seed in range(SEEDS)]
    return cases


def real(icons, i, background, rng):
    return framed_composition(icons.pictures[i], background, rng, conditioned=False)[0]


def drawn(icons, cases, drawer, control):
    seeds = [1000 * i + seed for i, _, seed in cases]
    if control == "noise":
        return drawer.noise(seeds)
    if control == "real":
        return drawer.round_trip([real(icons, i, b, random.Random(f"real {s}")) for (i, b, _), s in zip(cases, seeds)])
    return drawer([question(icons.names[i], icons.styles[i], b) for i, b, _ in cases], seeds)


def judge(icons, cases, pictures, gallery, stop):
    """Counts [right, of] by question, and how many cases were judged."""
    counts, judged = {}, 0

    def count(key, right):
        entry = counts.setdefault(key, [0, 0])
        entry[0] += bool(right)
        entry[1] += 1

    for (i, background, _), picture in zip(cases, pictures):
        name, style = icons.names[i], icons.styles[i]
        distances = gallery.distances(picture)
        ranked = gallery.ranked_concepts(distances)
        for group in ("all", HELD_OUT if held_out(name, background) else TRAINED):
            count(f"top-1, {group}", ranked[0] == name)
            count(f"top-5, {group}", name in ranked[:5])
            count(f"background, {group}", background_of(picture) == background)
        if nearest := gallery.nearest_style(name, distances):
            count("style", nearest == style)
        judged += 1
        if stop:
            break
    return counts, judged


def spread(pictures):
    """Mean RMS difference (0…1) over all pairs."""
    x = [p.astype(np.float32) / 255 for p in pictures]
    return float(np.mean([np.sqrt(np.square(a - b).mean()) for a, b in combinations(x, 2)]))


def diversity(icons, drawer, gallery, concepts, rng):
    """Prompts that name no style, of concepts that have two: how often both come within a few seeds, and how far
    pictures differ beside pictures of the data in random styles."""
    both = sorted({n for n in icons.names if icons.names.count(n) > 1})
    asked = rng.sample(both, min(concepts, len(both)))
    kinds, ratio = [0, 0], []
    for name in asked:
        background = rng.choice(trained_backgrounds(name, BACKGROUNDS))
        prompts = [f"{article(name)} {name} on a {background} background"] * DIVERSITY_SEEDS
        pictures = list(drawer(prompts, range(DIVERSITY_SEEDS)))
        own = [i for i, n in enumerate(icons.names) if n == name]
        data = [real(icons, rng.choice(own), background, rng) for _ in range(8)]
        kinds[0] += len({gallery.nearest_style(name, gallery.distances(p)) for p in pictures}) > 1
        kinds[1] += 1
        ratio.append((spread(pictures), spread(data)))
    of_model, of_data = np.mean(ratio, 0)
    return {"both styles within 4 seeds": kinds, "spread, share of the data's": round(of_model / of_data, 3)}


LARGE, SMALL = 192, 32  # px: the originals of crops, and of enlarged pictures
NEAR = 12  # px


def sharpness(pictures):
    """Mean difference of neighbours."""
    x = np.stack(pictures).astype(np.float32)
    return float(np.abs(np.diff(x, axis=1)).mean() + np.abs(np.diff(x, axis=2)).mean())


def conditioning(icons, drawer, count, rng):
    """Whether the corner that is cut out of a larger picture moves the thing drawn to where it would lie, and how much
    less sharp a small original is, beside the data's own. A picture that heeds no crop is about 25 px off."""
    near, plain, blurred, of_data = [0, 0], [], [], []
    width = round(0.9 * SIZE)
    corners = [(top, left) for top in (0, LARGE - SIZE) for left in (0, LARGE - SIZE)]
    for n in range(count):
        i = rng.randrange(len(icons))
        background = rng.choice(trained_backgrounds(icons.names[i], BACKGROUNDS))
        prompt, (top, left) = [question(icons.names[i], icons.styles[i], background)], corners[n % len(corners)]
        [picture] = drawer(prompt, [n], LARGE, (top, left))
        place = (LARGE - width) // 2
        wanted = compose(icons.pictures[i], background, width, place - top, place - left)
        near[0] += max(abs(a - b) for a, b in zip(middle(picture), middle(wanted))) <= NEAR
        near[1] += 1
        if n % len(corners) == 0:
            plain += drawer(prompt, [n])
            blurred += drawer(prompt, [n], SMALL)
            whole = compose(icons.pictures[i], background, width, (SIZE - width) // 2, (SIZE - width) // 2)
            of_data.append((sharpness([enlarged(whole, SMALL)]), sharpness([whole])))
    small, whole = np.mean(of_data, 0)
    return {
        f"crops of {LARGE} px, at most {NEAR} px off": near,
        f"sharpness at {SMALL} px, share of that at {SIZE}": round(sharpness(blurred) / sharpness(plain), 3),
        "the same of the data": round(float(small / whole), 3),
    }


def cell(value):
    if isinstance(value, list):
        return f"{value[0]}/{value[1]} ({100 * value[0] / value[1]:.1f} %)"
    return "–" if value is None else str(value)


def table(results):
    rows = []
    for entry in results.values():
        rows += [k for k in entry["measures"] if k not in rows]
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    lines += [f"| {row} | " + " | ".join(cell(e["measures"].get(row)) for e in results.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--control", choices=("real", "noise"))
    parser.add_argument("--darkroom", type=Path, metavar="PROGRAM", help="draws by it, not by diffusers")
    parser.add_argument("--options", default="", help="of `darkroom generate`")
    parser.add_argument("--concepts", type=Path, metavar="FILE", help="asks for these only, one a line")
    parser.add_argument("--samples", type=int, help="so many, not all")
    parser.add_argument("--seed", type=int, default=0, help="of their order")
    parser.add_argument("--diversity", type=int, help="concepts asked for without a style; by default one per 16 cases")
    parser.add_argument("--crops", type=int, default=100, help="pictures asked for as crops; 0: none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.darkroom and args.control:
        parser.error("a control is drawn by diffusers: leave out --darkroom or --control")
    icons = Icons(args.data)
    drawer = Engine(args.darkroom, args.model, args.options.split()) if args.darkroom else Drawer(args.model)
    gallery, started = Gallery(icons), time.monotonic()
    everything = all_cases(icons)
    if args.concepts:
        asked_for = set(args.concepts.read_text(encoding="utf-8").split("\n"))
        everything = [case for case in everything if icons.names[case[0]] in asked_for]
    random.Random(args.seed).shuffle(everything)
    cases = everything[: args.samples]
    stop = checkpoint.Stop()
    measures, judged = judge(icons, cases, drawn(icons, cases, drawer, args.control), gallery, stop)
    if not args.control:
        asked = args.diversity if args.diversity is not None else judged // 16
        if asked:
            measures |= diversity(icons, drawer, gallery, asked, random.Random(f"diversity {args.seed}"))
        if args.crops:
            measures |= conditioning(icons, drawer, args.crops, random.Random(f"crops {args.seed}"))
    entry = {
        "cases": judged, "of": len(everything), "seed": args.seed, "control": args.control,
        "steps": STEPS, "guidance": GUIDANCE, "concepts": len(set(icons.names)), "icons": len(icons),
        "measures": measures,
    }  # fmt: skip
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    results[args.name] = entry
    args.results.write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    args.results.with_suffix(".md").write_text(text)
    print(f"{args.name}: {judged} of {len(everything)} cases in {time.monotonic() - started:.0f} s\n\n{text}")


if __name__ == "__main__":
    main()
