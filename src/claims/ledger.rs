//! The white paper's claims, each once, in our words.

use super::Claim;
use super::checks::{
    advice, batch, cluster, cost, dynamic, fusion, latency, memory, photonic, savings, training,
    utilisation,
};

const fn claim(
    [id, title, statement]: [&'static str; 3],
    check: fn(&super::grounds::Grounds) -> crate::error::Result<Vec<super::Point>>,
) -> Claim {
    Claim {
        id,
        title,
        statement,
        check,
    }
}

/// W1 to W15.
pub static LEDGER: [Claim; 15] = [
    claim(
        [
            "W1",
            "time of an image",
            "One inference of SDXL's pipeline takes 2.8 s on average on an H800 in FP16.",
        ],
        latency::w1,
    ),
    claim(
        [
            "W2",
            "a dynamic pipeline",
            "A pipeline like Midjourney V7's (multimodal encoder, mixture of experts, dynamic \
             diffusion, super-resolution) takes 1.2 s there, 0.43 of it.",
        ],
        dynamic::w2,
    ),
    claim(
        [
            "W3",
            "batch of the stress test",
            "The compute figures come from a stress test with batches of 64.",
        ],
        batch::w3,
    ),
    claim(
        [
            "W4",
            "cost of training",
            "Training costs 6 × parameters / (0.7 × 1978 TFLOP/s); with 6.8 B parameters for SDXL and \
             34 B for Midjourney, that is 4.9 times as much.",
        ],
        training::w4,
    ),
    claim(
        [
            "W5",
            "memory in 8 bits",
            "Quantised to 8 bits, SDXL needs 12.4 GB of memory.",
        ],
        memory::w5,
    ),
    claim(
        [
            "W6",
            "kernel fusion",
            "One fused kernel over latent and text embedding merges the UNet's computation with \
             CLIP's.",
        ],
        fusion::w6,
    ),
    claim(
        [
            "W7",
            "dynamic batching",
            "The batch follows the free memory, between 4 and 64 images.",
        ],
        batch::w7,
    ),
    claim(
        [
            "W8",
            "utilisation",
            "A private mixture of experts doubles the compute density; asynchronous pipelining raises \
             the utilisation of an H800 to 91 %.",
        ],
        utilisation::w8,
    ),
    claim(
        [
            "W9",
            "choice of hardware",
            "A table advises which hardware to take for which model.",
        ],
        advice::w9,
    ),
    claim(
        [
            "W10",
            "cluster scheduler",
            "A scheduler trained by reinforcement learning raises a cluster's utilisation by 23 %.",
        ],
        cluster::w10,
    ),
    claim(
        [
            "W11",
            "compute under a quality bound",
            "Allowing an FID of 22 instead of 18 saves 47 % of the compute.",
        ],
        savings::w11,
    ),
    claim(
        [
            "W12",
            "dynamic transformer",
            "DyDiT saves 51 % of the inference compute of a diffusion transformer.",
        ],
        savings::w12,
    ),
    claim(
        [
            "W13",
            "photonic matrix units",
            "Matrix work on photonic units, with the H800 for the rest, is 17 times as energy \
             efficient.",
        ],
        photonic::w13,
    ),
    claim(
        [
            "W14",
            "cost of an image",
            "An image costs $0.007 to infer on the H800 cluster.",
        ],
        cost::w14,
    ),
    claim(
        [
            "W15",
            "Midjourney's cost",
            "Midjourney makes over 40 million images a day at a compute cost 37 % below that of the \
             open Stable Diffusion stack; a modelled number, as it says.",
        ],
        cost::w15,
    ),
];
