"""darkroom beside its peers, in one run: diffusers on torch, OpenVINO, stable-diffusion.cpp, candle-transformers.

    cargo build --release
    python3 benches/peers/compare.py WORK_FOLDER [--smoke] [--json FILE] [--markdown FILE]

Sets up a virtual environment in WORK_FOLDER from requirements.txt, makes what the peers read, then times every
side in processes of their own that take turns. README.md beside this file says what is compared.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import work

HERE = Path(__file__).resolve().parent
FEATURES = ["avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]


@dataclass
class Side:
    """Something that is timed: an engine at a precision."""

    name: str
    engine: str
    variant: str
    works: tuple = ("micro", "unet")
    once: bool = False  # in the first turn only: slow, or beside the point


OURS = {"f32": [], "bf16": ["--dtype", "bf16"], "w8a8": ["--quant", "w8a8"]}
SIDES = [
    Side("darkroom f32", "darkroom", "f32"),
    Side("darkroom bf16", "darkroom", "bf16"),
    Side("darkroom w8a8", "darkroom", "w8a8"),
    Side("torch f32", "torch", "f32"),
    Side("torch f32, channels last", "torch", "f32-channels-last"),
    Side("OpenVINO f32", "openvino", "f32"),
    Side("OpenVINO int8", "openvino", "int8"),
    Side("OpenVINO int8 by NNCF", "openvino", "int8-nncf", works=("micro",), once=True),
    Side("OpenVINO int8 weights", "openvino", "int8-weights", works=("micro",), once=True),
    Side("torch bf16", "torch", "bf16", once=True),
    Side("stable-diffusion.cpp q8_0", "sdcpp", "q8_0", once=True),
    Side("candle-transformers f32", "candle", "f32", once=True),
]
# darkroom prepares its UNet's keys and values of the text, and the embedding of the sizes, once a run, after the text
# encoders; the peers do it in every forward. These rows of both halves of the guidance tell such operations apart.
PREPARED_ROWS = (2, 2 * 77)
# A run during which others used more of the processors is left out where a quieter one is there.
QUIET_CORES = 0.25
SMOKE = ["darkroom f32", "torch f32"]
BASES = ["darkroom f32", "darkroom bf16", "darkroom w8a8"]
REFERENCE = "torch f32"


def main():
    options = parse()
    enter_venv(options)
    if options.hold:
        name, *here = options.hold
        print(json.dumps([measure(name, side, options) for side in here]))
        return
    sides = [side for side in SIDES if not options.sides or side.name in options.sides]
    for name in options.works:
        prepare(name, options)
    runs = []
    for name in options.works:
        here = [side for side in sides if name in side.works]
        todo = [
            (turn, side.name)
            for turn in range(options.turns[name])
            for side in (here if turn % 2 == 0 else here[::-1])
            if turn == 0 or not side.once
        ]
        for at in range(0, len(todo), options.batch[name]):
            held = todo[at : at + options.batch[name]]
            timed = hold(name, [side for _, side in held], options)
            runs += [{"turn": turn, **run} for (turn, _), run in zip(held, timed)]
            if options.json:  # what was measured is kept, whatever ends the rest
                options.json.write_text(json.dumps({"schema": 1, "runs": runs}, indent=1) + "\n")
    report = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shown(["python3", *sys.argv], options),
        "machine": machine(),
        "threads": options.threads,
        "versions": versions(runs),
        "works": {name: rows(name, sides, runs, options) for name in options.works},
        "bar": bar(options.works, runs),
        "runs": runs,
    }
    print(terminal(report))
    for path, text in ((options.json, json.dumps(report, indent=1)), (options.markdown, markdown(report))):
        if path:
            path.write_text(text + "\n")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the environment, the checkpoint and what is made of it: 25 GB")
    parser.add_argument("--smoke", action="store_true", help="only micro, darkroom and diffusers, one repeat")
    parser.add_argument("--works", nargs="+", choices=["micro", "unet"], default=["micro", "unet"])
    parser.add_argument("--sides", nargs="+", metavar="NAME", choices=[side.name for side in SIDES])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", nargs=2, type=int, metavar=("MICRO", "UNET"), default=[2, 2])
    parser.add_argument("--limit", type=int, default=900, metavar="S", help="seconds that a process may take")
    parser.add_argument("--darkroom", type=Path, default=work.ROOT / "target/release/darkroom")
    parser.add_argument("--candle", type=Path, help="the built peer_candle [default: built by cargo]")
    parser.add_argument("--venv", type=Path, help="an environment that is there [default: FOLDER/venv]")
    parser.add_argument("--prefix", default="", help="a command that keeps the machine quiet while its argument runs")
    parser.add_argument("--batch", nargs=2, type=int, metavar=("MICRO", "UNET"), default=[1000, 1000],
                        help="processes that are timed behind one prefix")  # fmt: skip
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--hold", nargs="+", help=argparse.SUPPRESS)  # a work and sides: times them, prints JSON
    options = parser.parse_args()
    if options.smoke:
        options.works, options.sides, options.turns = ["micro"], SMOKE, [1, 0]
    options.turns = dict(zip(["micro", "unet"], options.turns))
    options.batch = dict(zip(["micro", "unet"], options.batch))
    options.folder = options.folder.resolve()
    options.venv = (options.venv or options.folder / "venv").absolute()
    return options


# The environment, and what the peers read


def enter_venv(options):
    """Goes on in the virtual environment, which is made where it is not there."""
    if Path(sys.prefix) == options.venv:
        return
    python = options.venv / "bin/python"
    if not python.exists():
        venv.create(options.venv, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-r", HERE / "requirements.txt"], check=True)
    os.execv(python, [python, *sys.argv])


def prepare(name, options):
    """Pictures and tensors of darkroom, and the other engines' files."""
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "out").mkdir(exist_ok=True)
    if name == "unet" and not (options.folder / "checkpoint/model_index.json").exists():
        run([sys.executable, "-c", "import checkpoint, pathlib, sys; checkpoint.make(pathlib.Path(sys.argv[1]), added=False)",
             options.folder / "checkpoint"], options)  # fmt: skip
    if name == "unet":
        small_vae(options.folder)
    for precision, flags in OURS.items():
        dump = output(name, f"darkroom {precision}", options).with_suffix(".dump")
        if dump.exists():
            continue
        size, steps, guidance = {
            "micro": (work.MICRO_SIZE_PX, work.MICRO_STEPS, work.MICRO_GUIDANCE),
            "unet": (8 * work.CHECK_EDGE, 1, work.GUIDANCE),
        }[name]  # fmt: skip
        run(
            [*options.prefix.split(), options.darkroom, "generate", work.PROMPT, "--model", model(name, options),
             "--width", size, "--height", size, "--steps", steps, "--guidance", guidance, "--seed", work.SEED, *flags,
             "--threads", options.threads, "--quiet", "--force", "--offline", "--device", "cpu",
             "-o", dump.with_suffix(".png"), "--dump", dump], options)  # fmt: skip
    picture = options.folder / "out/unet-darkroom-w8a8-linspace.png"
    if name == "unet" and not picture.exists():  # stable-diffusion.cpp draws this one
        run(
            [*options.prefix.split(), options.darkroom, "generate", work.PROMPT, "--model", options.folder / "checkpoint",
             "--width", 8 * work.CHECK_EDGE, "--height", 8 * work.CHECK_EDGE, "--steps", work.SDCPP_CHECK_STEPS,
             "--guidance", work.GUIDANCE, "--seed", work.SEED, "--timestep-spacing", "linspace", "--quant", "w8a8",
             "--threads", options.threads, "--quiet", "--offline", "--device", "cpu", "-o", picture], options)  # fmt: skip
    labels = ["micro"] if name == "micro" else [work.EDGE, work.CHECK_EDGE]
    if not all((options.folder / f"inputs-{label}.safetensors").exists() for label in labels):
        import values

        values.make_inputs(name, options.folder, output(name, "darkroom w8a8", options).with_suffix(".dump"))
    if not options.smoke:
        for script, variant, made in (
            ("openvino", "f32", f"openvino/{name}/made"), ("sdcpp", "q8_0", f"sdcpp-{name}-q8_0.gguf")):  # fmt: skip
            if not (options.folder / made).exists():
                run([sys.executable, HERE / f"peer_{script}.py", "prepare", variant, "--for", name,
                     "--folder", options.folder, "--threads", options.threads], options)  # fmt: skip
        if not options.candle:
            built = subprocess.run(
                ["cargo", "bench", "--bench", "peer_candle", "--no-run", "--message-format", "json"],
                cwd=work.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout  # fmt: skip
            artifacts = (json.loads(line) for line in built.splitlines())
            options.candle = next(Path(artifact["executable"]) for artifact in artifacts
                                  if artifact.get("target", {}).get("name") == "peer_candle")  # fmt: skip


def small_vae(folder):
    """The checkpoint with micro's VAE: darkroom's bench would decode, and only the UNet is compared."""
    small = folder / "checkpoint-small-vae"
    if not small.exists():
        small.mkdir()
        for part in (folder / "checkpoint").iterdir():
            (small / part.name).symlink_to(work.MICRO / "vae" if part.name == "vae" else part)


def model(name, options):
    return "micro" if name == "micro" else options.folder / "checkpoint-small-vae"


def run(command, options):
    """Something that is not timed."""
    print("·", shown(command, options), file=sys.stderr, flush=True)
    subprocess.run([str(part) for part in command], check=True, cwd=HERE, env=environment(options), stdout=sys.stderr)


def environment(options):
    threads = str(options.threads)
    return dict(os.environ, OMP_NUM_THREADS=threads, RAYON_NUM_THREADS=threads, HF_HUB_OFFLINE="1")


# Timing


def output(name, side_name, options):
    suffix = ".png" if name == "micro" else ".safetensors"
    return options.folder / "out" / (f"{name}-{side_name}".replace(" ", "-").replace(",", "") + suffix)


def command(name, side, options):
    """The command of one process, and the file in which darkroom leaves its record."""
    repeat = 3 if name == "micro" and not options.smoke else 1
    # At full size all but OpenVINO, whose shapes are fixed, warm up on a smaller picture; candle is too slow for any.
    warmup = 0 if name == "unet" and side.engine != "openvino" else 1
    file = output(name, side.name, options)
    if side.engine == "darkroom":
        size, steps, guidance = {
            "micro": (work.MICRO_SIZE_PX, work.MICRO_STEPS, work.MICRO_GUIDANCE),
            "unet": (f"{8 * work.CHECK_EDGE},{8 * work.EDGE}", 1, work.GUIDANCE),
        }[name]  # fmt: skip
        return [options.darkroom, "bench", "--model", model(name, options), "--size", size, "--steps", steps,
                "--guidance", guidance, *OURS[side.variant], "--threads", options.threads, "--repeat", repeat,
                "--warmup", warmup, "--by", "stage,op", "--device", "cpu", "--offline", "--quiet", "--force",
                "--json", file.with_suffix(".jsonl")]  # fmt: skip
    if side.engine == "candle":
        inputs_name = "micro" if name == "micro" else work.EDGE
        return [options.candle, work.MICRO / "unet" if name == "micro" else options.folder / "checkpoint/unet",
                 options.folder / f"inputs-{inputs_name}.safetensors",
                file.with_suffix(".safetensors"), warmup, repeat]  # fmt: skip
    if side.engine == "sdcpp":
        file = file.with_suffix(".png")
    return [sys.executable, HERE / f"peer_{side.engine}.py", name, side.variant, "--folder", options.folder,
            "--threads", options.threads, "--warmup", warmup, "--repeat", repeat, "--output", file]  # fmt: skip


def hold(name, side_names, options):
    """Times sides one after the other, behind the prefix."""
    ended = subprocess.run(
        [*options.prefix.split(), sys.executable, __file__, options.folder, "--venv", options.venv, "--darkroom",
         options.darkroom, "--threads", str(options.threads), "--limit", str(options.limit),
         *(["--candle", options.candle] if options.candle else []),
         *(["--smoke"] if options.smoke else []), "--hold", name, *side_names],
        check=True, stdout=subprocess.PIPE, text=True)  # fmt: skip
    return json.loads(ended.stdout)


def measure(name, side_name, options):
    print(f"· {name}, {side_name} … ", end="", file=sys.stderr, flush=True)
    record = measured(name, side_name, options)
    print(record["error"] or f"{statistics.median(record['samples_ms']):,.0f} ms", file=sys.stderr, flush=True)
    return {"work": name, "side": side_name, **record}


def measured(name, side_name, options):
    """Runs a side's process: its own answer, its processor time and peak memory, and what others used meanwhile."""
    side = next(side for side in SIDES if side.name == side_name)
    line = [str(part) for part in command(name, side, options)]
    load_average, busy = os.getloadavg()[0], busy_s()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            ["timeout", str(options.limit), *line], stdout=out, stderr=err, env=environment(options), cwd=work.ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        printed, complaint = out.read(), err.read()
    cpu_s = usage.ru_utime + usage.ru_stime
    record = {
        "command": shown(line, options),
        "load_average": load_average,
        "cores_used_by_others": max(0.0, (busy_s() - busy - cpu_s) / wall_s),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_mib": usage.ru_maxrss / 1024,  # Linux counts in KiB
        "error": None,
    }
    if process.returncode == 124:
        return record | {"error": f"not done after {options.limit} s"}
    if process.returncode != 0:
        said = [text.strip() for text in (printed + complaint).splitlines() if text.strip()]
        telling = [text for text in said if "wrong shape" in text] or said[-1:]
        reason = telling[0] if telling else "without a word"
        return record | {"error": f"ended with code {process.returncode}: {shown([reason], options)}"}
    if side.engine == "darkroom":
        file = output(name, side.name, options)
        file.with_suffix(".txt").write_text(printed)
        return record | ours(name, json.loads(file.with_suffix(".jsonl").read_text().splitlines()[-1]))
    return record | json.loads(printed.splitlines()[-1])


def ours(name, record):
    stages = {stage["stage"]: stage for stage in record["stages"]}
    denoise_ms = stages["denoise"]["samples_ms"]
    if name == "micro":
        samples_ms = record["total"]["samples_ms"]
    else:
        prepare_ms = sum(op["p50_ms"] for op in stages["text_encode"]["ops"] if op["sizes"][0] in PREPARED_ROWS)
        samples_ms = [step_ms + prepare_ms for step_ms in denoise_ms]
    return {
        "load_ms": record["load"]["p50_ms"],
        "samples_ms": samples_ms,
        "denoise_ms": denoise_ms,
        "versions": {"darkroom": f"{record['version']}, commit {record['build']['commit'][:7]}"},
    }


def busy_s():
    """Processor seconds since the start of the machine, of everybody and stolen."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


# What is said of it


def shown(line, options):
    """A command without this machine's folders."""
    text = " ".join(str(part) for part in line)
    for path, name in (
        (sys.executable, "python"), (options.darkroom, "darkroom"), (options.candle or "\0", "peer_candle"), (options.venv, "VENV"), (options.folder, "FOLDER"),
        (f"{work.ROOT}/", ""), (options.prefix or "\0", "")):  # fmt: skip
        text = text.replace(str(path), name)
    return text


def machine():
    cpu = Path("/proc/cpuinfo").read_text()
    lines = dict(line.split(":", 1) for line in cpu.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = fields["flags"].split()
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": f"{fields['model name']}, family {fields['cpu family']}, model {fields['model']}",
        "cores": os.cpu_count(),
        "simd": [feature for feature in FEATURES if feature in flags],
        "simd_missing": [feature for feature in FEATURES if feature not in flags],
        "memory_gib": round(memory_kib / 2**20, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions(runs):
    return {name: version for record in runs for name, version in record.get("versions", {}).items()}


def counted(runs, name, side_name):
    """A side's runs that ended; of those, where there are any, the ones that others left alone."""
    ended = [run for run in runs if (run["work"], run["side"]) == (name, side_name) and not run["error"]]
    return [run for run in ended if run["cores_used_by_others"] <= QUIET_CORES] or ended


def samples(runs, name, side_name, field="samples_ms"):
    return [sample for run in counted(runs, name, side_name) for sample in run[field]]


def rows(name, sides, runs, options):
    """A row a side; ratios are the side's time to darkroom's, so above 1 darkroom is faster."""
    import values

    bases = {base: samples(runs, name, base) for base in BASES}
    table = []
    for side in sides:
        everything = [run for run in runs if (run["work"], run["side"]) == (name, side.name)]
        if not everything:
            continue
        error = next((run["error"] for run in everything if run["error"]), None)
        mine = counted(runs, name, side.name)
        times = samples(runs, name, side.name)
        row = {"side": side.name, "error": error}
        if times:
            median = statistics.median(times)
            step_only = side.engine == "candle" and name == "micro"
            against = {
                base: samples(runs, name, base, "denoise_ms") if step_only else bases[base] for base in BASES
            }  # fmt: skip
            scale = work.MICRO_STEPS if step_only else 1
            row |= {
                "median_ms": median * scale, "least_ms": min(times) * scale, "most_ms": max(times) * scale,
                "samples": len(times),
                "ratios": {base: median * scale / statistics.median(of) for base, of in against.items() if of},
                "peak_mib": max(run["peak_mib"] for run in mine),
                "load_s": statistics.median(run["load_ms"] for run in mine) / 1e3,
                "cores_used_by_others": max(
                    run["cores_used_by_others"] for run in counted(runs, name, side.name)),
                "agrees": values.agreement(name, side, output(name, side.name, options), output(name, REFERENCE, options)),
            }  # fmt: skip
        table.append(row)
    return table


def bar(works, runs):
    """What was promised, and whether this run keeps it."""
    lines = []
    for name in works:
        of = {side.name: statistics.median(samples(runs, name, side.name)) for side in SIDES
              if samples(runs, name, side.name) and side.engine != "candle"}  # fmt: skip
        peers = {side: ms for side, ms in of.items() if not side.startswith("darkroom")}
        if "darkroom w8a8" in of and peers:
            slower_than = [side for side, ms in peers.items() if ms <= of["darkroom w8a8"]]
            lines.append({"work": name, "bar": "darkroom w8a8 faster than every peer", "missed_by": slower_than})
        torch = {side: ms for side, ms in peers.items() if side.startswith("torch")}
        floats = [of[side] for side in ("darkroom f32", "darkroom bf16") if side in of]
        if torch and floats:
            slower_than = [side for side, ms in torch.items() if ms < min(floats)]
            lines.append({"work": name, "bar": "darkroom f32 or bf16 no slower than torch", "missed_by": slower_than})
    return lines


TITLES = {
    "micro": "micro, text to image, 128×128, 20 Euler steps",
    "unet": "SDXL base's UNet, one guided step (batch 2) at 512×512",
}
HEAD = ["side", "median", "least … most", "samples", "÷ f32", "÷ bf16", "÷ w8a8", "peak MiB", "load s", "others' cores",
        "agreement"]  # fmt: skip


def cells(row):
    if row["error"] and "median_ms" not in row:
        return [row["side"], "–", row["error"][:200], "", "", "", "", "", "", "", ""]
    ratio = [f"{row['ratios'][base]:.2f}" if base in row["ratios"] else "–" for base in BASES]
    unit, scale = ("s", 1e3) if row["median_ms"] >= 1e4 else ("ms", 1)
    digits = 2 if unit == "s" else 0
    least, median, most = (f"{row[key] / scale:.{digits}f}" for key in ("least_ms", "median_ms", "most_ms"))
    return [row["side"], f"{median} {unit}", f"{least} … {most}", str(row["samples"]), *ratio,
            f"{row['peak_mib']:.0f}", f"{row['load_s']:.1f}", f"{row['cores_used_by_others']:.2f}", row["agrees"]]  # fmt: skip


def said(report):
    for line in report["bar"]:
        missed = line["missed_by"]
        yield f"{line['bar']} ({line['work']}): " + ("**not reached**: " + ", ".join(missed) if missed else "reached")


def terminal(report):
    parts = []
    for name, table in report["works"].items():
        lines = [HEAD, *(cells(row) for row in table)]
        widths = [max(len(line[column]) for line in lines if len(line[2]) < 40 or column != 2) for column in range(len(HEAD))]
        parts += [TITLES[name], *("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines), ""]
    return "\n".join(parts + list(said(report)))


def markdown(report):
    found = report["machine"]
    parts = [
        f"{found['cpu']}; {found['cores']} cores, {report['threads']} threads for all; {', '.join(found['simd'])}; "
        f"without {', '.join(found['simd_missing'])}; {found['memory_gib']} GiB; {report['date']}.", "",
        "; ".join(f"{name} {version}" for name, version in sorted(report["versions"].items())) + ".", "",
        f"`{report['command']}`", "",
    ]  # fmt: skip
    for name, table in report["works"].items():
        parts += [f"## {TITLES[name]}", "", "| " + " | ".join(HEAD) + " |", "|---|" + "--:|" * (len(HEAD) - 2) + "---|"]
        parts += ["| " + " | ".join(cells(row)) + " |" for row in table] + [""]
    parts += [f"The load average before a run was at most {max(run['load_average'] for run in report['runs']):.1f}; runs during "
              f"which others used more than {QUIET_CORES} cores count only where no quieter one is there.", ""]  # fmt: skip
    parts += ["## The bar", "", *(f"- {line}" for line in said(report)), "", "## Commands", "", "```sh"]
    parts += list(dict.fromkeys(run["command"] for run in report["runs"])) + ["```"]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
