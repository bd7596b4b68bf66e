"""Which concept × background pairs are never trained on: one in eight, by a hash, in this one place."""

import hashlib

EVERY = 8


def held_out(concept, background):
    digest = hashlib.sha256(f"{concept}/{background}".encode()).digest()
    return digest[0] % EVERY == 0


def trained_backgrounds(concept, backgrounds):
    return [b for b in backgrounds if not held_out(concept, b)]


def held_out_backgrounds(concept, backgrounds):
    return [b for b in backgrounds if held_out(concept, b)]
