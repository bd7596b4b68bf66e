"""What is said of a picture. A white background may go unsaid, and so may the style."""

PLAIN = 0.2  # of the captions name no style

def article(name):
    return "an" if name[0] in "aeiou" else "a"


def caption(name, style, tags, background, rng):
    on = f" on a {background} background"
    if background == "white" and rng.random() < 0.7:
        on = ""
    a = article(name)
    plain = [f"{name}{on}", f"{a} {name}{on}"]
    styled = [
        f"{style} style {name}{on}",
        f"{a} {name} in {style} style{on}",
        f"an emoji of {a} {name}{on}, {style} style",
    ]
    said = rng.choice(plain if rng.random() < PLAIN else styled)
    if tags and rng.random() < 0.1:
        said += ", " + ", ".join(rng.sample(tags, min(2, len(tags))))
    return said


def question(name, style, background):
    """What the evaluation asks for."""
    return f"{article(name)} {name} in {style} style on a {background} background"
