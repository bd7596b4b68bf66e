use darkroom::pipeline::Start;
use darkroom::request::{Dtype, Request, Rng};
use darkroom::scheduler::SchedulerKind;

use crate::{Dump, MICRO, generate, micro, psnr, request};

/// Image i of a batch is the image of seed + i alone, to the bit.
#[test]
fn a_batch_is_its_images() {
    for (guidance, scheduler, rng) in [
        (5.0, None, Rng::Torch),
        (1.0, None, Rng::Torch),
        (5.0, Some(SchedulerKind::EulerAncestral), Rng::Philox),
    ] {
        let batch = Request {
            seed: 11,
            count: 3,
            guidance,
            scheduler,
            rng,
            ..request()
        };
        let together = generate(&MICRO, &batch);
        assert_eq!(together.len(), 3);
        for (i, image) in together.iter().enumerate() {
            let alone = Request {
                seed: 11 + i as u64,
                count: 1,
                ..batch.clone()
            };
            let alone = generate(&MICRO, &alone);
            assert!(
                image.as_raw() == alone[0].as_raw(),
                "image {i} of the batch differs, guidance {guidance}, {scheduler:?}"
            );
        }
        assert_ne!(together[0], together[1]);
    }
}

#[test]
fn a_batch_in_half_precision_is_its_images_too() {
    let pipeline = micro(Dtype::Bf16);
    let batch = Request {
        count: 2,
        ..request()
    };
    let alone = Request {
        seed: 1,
        ..request()
    };
    assert_eq!(
        generate(&pipeline, &batch)[1],
        generate(&pipeline, &alone)[0]
    );
}

#[test]
fn any_number_of_threads_gives_the_same_image() {
    let pool = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| generate(&MICRO, &request()))
    };
    let one = pool(1);
    assert_eq!(one, pool(2));
    assert_eq!(one, pool(5));
}

/// Every stored activation is off by up to 2⁻⁹ (bf16) or 2⁻¹² (f16) of itself. Some hundred such
/// roundings, independent, lie between the noise and the image: √100 · 2⁻⁹ ≈ 2 % and 0.25 % of the
/// signal, and guidance at 5 multiplies the difference of two predictions. That is about 25 and 43 dB.
#[test]
fn half_precision_stays_close() {
    let want = &generate(&MICRO, &request())[0];
    let values = |image: &image::RgbImage| image.as_raw().clone().into_iter().map(f64::from);
    for (dtype, limit) in [(Dtype::F16, 43.0), (Dtype::Bf16, 25.0)] {
        let got = &generate(&micro(dtype), &request())[0];
        let psnr = psnr(values(got), values(want), 255.0);
        println!("{}: {psnr:.1} dB", dtype.name());
        assert!(psnr > limit, "{}: {psnr:.1} dB", dtype.name());
        assert_ne!(got, want, "nothing was rounded");
    }
}

#[test]
fn without_guidance_there_is_no_negative_side() {
    let run = |guidance: f64, negative: Option<&str>| {
        let request = Request {
            guidance,
            negative: negative.map(str::to_owned),
            ..request()
        };
        let mut dump = Dump::default();
        let images = MICRO.generate(&request, Start::default(), &mut dump);
        (images.unwrap(), dump.find("negative_context").is_some())
    };
    let (plain, negative) = run(1.0, None);
    assert!(!negative);
    for (guidance, text) in [(1.0, Some("blurry")), (0.0, None), (0.5, Some("blurry"))] {
        let (images, negative) = run(guidance, text);
        assert!(!negative && images == plain, "guidance {guidance}");
    }
    let (guided, negative) = run(1.01, Some("blurry"));
    assert!(negative && guided != plain);
}

#[test]
fn a_long_prompt_is_read_whole() {
    let run = |prompt: &str, negative: Option<&str>, long_prompt: bool| {
        let request = Request {
            prompt: prompt.to_owned(),
            negative: negative.map(str::to_owned),
            long_prompt,
            ..request()
        };
        let mut dump = Dump::default();
        let images = MICRO.generate(&request, Start::default(), &mut dump);
        let tokens = |name| dump.find(name).unwrap().dim(1).unwrap();
        let tokens = [tokens("context"), tokens("negative_context")];
        (images.unwrap(), tokens)
    };
    // 75 tokens fit into a chunk, between its begin and end.
    let words = |count: usize| vec!["apple"; count].join(" ");
    for (count, chunks) in [(1, 1), (75, 1), (76, 2), (150, 2), (151, 3)] {
        let (_, tokens) = run(&words(count), None, true);
        assert_eq!(tokens, [chunks * 77; 2], "{count} words");
    }
    // Both sides are as long as the longer.
    assert_eq!(run("apple", Some(&words(100)), true).1, [154; 2]);
    assert_eq!(run(&words(160), Some("grey"), true).1, [231; 2]);
    // Where nothing is long, nothing changes; what is cut off matters.
    let short = ("a red apple", Some("grey"));
    assert_eq!(run(short.0, short.1, true), run(short.0, short.1, false));
    let tail = format!("{} on a blue background", words(80));
    assert_eq!(run(&tail, None, false).0, run(&words(80), None, false).0);
    assert_ne!(run(&tail, None, true).0, run(&words(80), None, true).0);
}
