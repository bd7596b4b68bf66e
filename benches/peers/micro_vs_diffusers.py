"""darkroom beside diffusers: one image of the micro model, from starting the process to the PNG.

All runs are fresh processes that take turns; the table has the medians of one run of this script, and
their ratio. See README.md beside this file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/micro"
PROMPT = "a red apple on a blue background"
STEPS, GUIDANCE, SIZE, SEED = 20, 4.0, 128, 0
WARM_IMAGES = 3
COMPUTE_STAGES = ("text_encode", "denoise", "vae_decode", "post_process")


def diffusers(output, threads, repeats):
    """One process of the peer. Prints its own times as JSON: imports, loading, then each image."""
    began = time.perf_counter()
    import torch
    from diffusers import StableDiffusionXLPipeline

    torch.set_num_threads(threads)
    imported = time.perf_counter()
    pipeline = StableDiffusionXLPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    loaded = time.perf_counter()
    images_ms = []
    for _ in range(repeats):
        start = time.perf_counter()
        image = pipeline(
            PROMPT,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            width=SIZE,
            height=SIZE,
            generator=torch.Generator("cpu").manual_seed(SEED),
        ).images[0]
        images_ms.append((time.perf_counter() - start) * 1e3)
    image.save(output)
    print(json.dumps({
        "import_ms": (imported - began) * 1e3,
        "load_ms": (loaded - imported) * 1e3,
        "images_ms": images_ms,
    }))


def run(command, environment):
    """Runs a process: seconds on the wall and on the processors, peak memory, its JSON."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if process.returncode != 0:
            sys.exit(f"{command[0]} failed ({process.returncode}):\n{err.read()}")
        return {
            "wall_s": wall,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_mib": usage.ru_maxrss / 1024,  # Linux counts in KiB
            "own": json.load(out),
        }


def levels_apart(a, b):
    """The largest difference between two pictures, and the share of values that differ."""
    import numpy
    from PIL import Image

    pictures = [numpy.asarray(Image.open(path).convert("RGB"), dtype=int) for path in (a, b)]
    apart = abs(pictures[0] - pictures[1])
    return int(apart.max()), float((apart != 0).mean())


def compare(arguments):
    """Takes turns, then prints the table."""
    environment = dict(
        os.environ,
        OMP_NUM_THREADS=str(arguments.threads),
        RAYON_NUM_THREADS=str(arguments.threads),
        HF_HUB_OFFLINE="1",
    )
    if arguments.omp_wait_policy:
        environment["OMP_WAIT_POLICY"] = arguments.omp_wait_policy
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "darkroom.png"), Path(folder, "diffusers.png")
        commands = {
            "darkroom": [
                str(arguments.darkroom), "generate", PROMPT, "--model", "micro",
                "--steps", str(STEPS), "--guidance", str(GUIDANCE), "--seed", str(SEED),
                "--width", str(SIZE), "--height", str(SIZE), "--threads", str(arguments.threads),
                "--device", "cpu", "--offline", "--quiet", "--json", "--force", "-o", str(ours),
            ],
            "diffusers": [
                sys.executable, __file__, "--peer", str(theirs),
                "--threads", str(arguments.threads),
            ],
        }  # fmt: skip
        # The same process again, for the images after its first.
        commands["warm"] = commands["diffusers"] + ["--repeats", str(1 + WARM_IMAGES)]
        runs = {name: [] for name in commands}
        for command in list(commands.values())[:2]:  # reads the files into the system's cache
            run(command, environment)
        for turn in range(arguments.repeats):
            order = list(commands) if turn % 2 == 0 else list(commands)[::-1]
            for name in order:
                runs[name].append(run(commands[name], environment))
        apart, share = levels_apart(ours, theirs)

    def median(name, value):
        return statistics.median(value(run) for run in runs[name])

    def compute_ms(run):
        return sum(run["own"]["stage_ms"][stage] for stage in COMPUTE_STAGES)

    # What darkroom computes in a fresh process, beside what diffusers computes once it is warm.
    rows = [
        (label, median("darkroom", ours), theirs)
        for label, ours, theirs in [
            ("whole process, s", lambda r: r["wall_s"], median("diffusers", lambda r: r["wall_s"])),
            ("processor time, s", lambda r: r["cpu_s"], median("diffusers", lambda r: r["cpu_s"])),
            ("peak memory, MiB", lambda r: r["peak_mib"],
             median("diffusers", lambda r: r["peak_mib"])),
            ("load (with imports), ms", lambda r: r["own"]["stage_ms"]["load"],
             median("diffusers", lambda r: r["own"]["import_ms"] + r["own"]["load_ms"])),
            ("compute: first image, ms", compute_ms,
             median("diffusers", lambda r: r["own"]["images_ms"][0])),
            ("compute: diffusers warm, ms", compute_ms,
             median("warm", lambda r: statistics.median(r["own"]["images_ms"][1:]))),
        ]
    ]  # fmt: skip
    print(f"| {arguments.threads} threads, {arguments.repeats} runs each, medians "
          "| darkroom | diffusers | ratio |")
    print("|---|--:|--:|--:|")
    for label, ours, theirs in rows:
        print(f"| {label} | {ours:.4g} | {theirs:.4g} | {ours / theirs:.3f} |")
    print(f"\nPictures: at most {apart} of 255 levels apart; {share:.2%} of values differ.")
    load = f"{load_before[0]:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"Load average of the machine: {load}.")
    if arguments.json:
        record = {
            "schema": 1,
            "threads": arguments.threads,
            "omp_wait_policy": arguments.omp_wait_policy,
            "rows": [dict(zip(("what", "darkroom", "diffusers", "ratio"), (*row, row[1] / row[2])))
                     for row in rows],
            "levels_apart": apart,
            "share_of_values_apart": share,
            "load_average": load,
            "runs": runs,
        }  # fmt: skip
        Path(arguments.json).write_text(json.dumps(record, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--darkroom", type=Path, default=ROOT / "target/release/darkroom")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="runs of each side [default: 5]")
    parser.add_argument("--omp-wait-policy", choices=["passive", "active"],
                        help="how torch's threads wait; `passive` is kinder on a busy machine")
    parser.add_argument("--json", help="write all runs to this file")
    parser.add_argument("--peer", metavar="PNG", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        diffusers(arguments.peer, arguments.threads, arguments.repeats or 1)
    else:
        arguments.repeats = arguments.repeats or 5
        compare(arguments)


if __name__ == "__main__":
    main()
