//! PNG with its receipt, and initial pictures beside Pillow.

use std::fs;
use std::path::{Path, PathBuf};

use darkroom::image_file::{
    LatentsFile, PARAMETERS_KEY, RECEIPT_KEY, Receipt, encode_png, png_texts, read_init_image,
    read_receipt, text_of,
};
use darkroom::request::{Dtype, InitImage, Request, Rng, Size};
use darkroom::scheduler::SchedulerKind;
use image::RgbImage;
use proptest::prelude::*;

fn request(prompt: &str) -> Request {
    let size = Size {
        height_px: 8,
        width_px: 16,
    };
    Request::new("micro", prompt, size, 20, 5.0)
}

fn receipt_of(request: &Request, index: usize) -> Receipt {
    Receipt::of_image(request, index, "cuda:1", SchedulerKind::Euler)
}

fn picture() -> RgbImage {
    RgbImage::from_fn(16, 8, |x, y| image::Rgb([x as u8 * 16, y as u8 * 32, 7]))
}

fn texts(file: &[u8]) -> Vec<(String, String)> {
    png_texts(file).expect("a PNG file")
}

fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("room for a small file");
    (folder, path)
}

/// Adds a chunk behind the header, the way any other program may.
fn with_chunk(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    const HEADER_END: usize = 8 + 25;
    let mut crc_input = kind.to_vec();
    crc_input.extend(data);
    let mut out = png[..HEADER_END].to_vec();
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(&crc_input);
    out.extend(crc32(&crc_input).to_be_bytes());
    out.extend(&png[HEADER_END..]);
    out
}

/// The PNG specification's checksum (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| {
            (c >> 1) ^ (0xEDB8_8320 & (c & 1).wrapping_neg())
        })
    })
}

fn plain_png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    picture().write_with_encoder(encoder).expect("memory");
    bytes
}

#[test]
fn pixels_and_receipt_come_back() {
    let receipt = receipt_of(&request("ein Bär 🐻 и яблоко"), 0);
    let png = encode_png(&picture(), &receipt).expect("encodes");
    let (_folder, path) = file("x.png", &png);
    assert_eq!(read_receipt(&path).expect("has one"), receipt);
    assert_eq!(
        image::open(&path).expect("a PNG file").into_rgb8(),
        picture()
    );
    assert_eq!(
        encode_png(&picture(), &receipt).expect("encodes"),
        png,
        "same bytes every time"
    );
}

#[test]
fn image_i_of_a_batch_is_a_request_of_its_own() {
    let batch = Request {
        seed: 40,
        count: 4,
        ..request("an apple")
    };
    let receipt = receipt_of(&batch, 2);
    assert_eq!(
        receipt.request,
        Request {
            seed: 42,
            count: 1,
            ..batch
        }
    );
}

#[test]
fn receipts_without_a_fingerprint_are_read() {
    let mut json = serde_json::to_value(Receipt {
        model_fingerprint: Some("00".into()),
        ..receipt_of(&request("an apple"), 0)
    })
    .expect("plain data");
    let fields = json.as_object_mut().expect("an object");
    assert!(fields.remove("model_fingerprint").is_some());
    let receipt = Receipt::parse(&json.to_string()).expect("an older darkroom wrote it");
    assert_eq!(receipt.model_fingerprint, None);
}

#[test]
fn other_programs_find_their_line() {
    let request = Request {
        negative: Some("blurry".into()),
        seed: 1,
        ..request("an apple")
    };
    let png = encode_png(&picture(), &receipt_of(&request, 0)).expect("encodes");
    let version = env!("CARGO_PKG_VERSION");
    let line = format!(
        "an apple\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, CFG scale: 5, Seed: 1, \
         Size: 16x8, Model: micro, Version: darkroom {version}"
    );
    assert_eq!(text_of(&texts(&png), PARAMETERS_KEY), Some(line.as_str()));
}

#[test]
fn a_file_without_a_receipt_says_so() {
    let receipt = receipt_of(&request("x"), 0);
    let json = serde_json::to_string(&receipt).expect("plain data");
    let texts = |json: &str| [RECEIPT_KEY.as_bytes(), b"\0", json.as_bytes()].concat();
    for (bytes, says) in [
        (b"GIF89a".to_vec(), "not a PNG file"),
        (Vec::new(), "not a PNG file"),
        (plain_png()[..20].to_vec(), "not a readable PNG file"),
        (plain_png(), "holds no receipt"),
        (
            with_chunk(&plain_png(), b"tEXt", &texts("{")),
            "its receipt is broken",
        ),
        (
            with_chunk(
                &plain_png(),
                b"tEXt",
                &texts(&json.replace("\"steps\"", "\"stops\"")),
            ),
            "its receipt is broken: unknown field `stops`",
        ),
        (
            with_chunk(&plain_png(), b"tEXt", &texts(r#"{"schema":99,"more":1}"#)),
            "its receipt has schema 99; this darkroom reads schema 1",
        ),
    ] {
        let (_folder, path) = file("x.png", &bytes);
        let error = read_receipt(&path).expect_err(says).to_string();
        assert!(error.contains(says) && error.contains("x.png"), "{error}");
    }
    let missing = read_receipt(Path::new("no-such-file.png")).expect_err("missing");
    assert!(
        missing.to_string().contains("no-such-file.png"),
        "{missing}"
    );
}

#[test]
fn a_compressed_text_that_explodes_is_passed_over() {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 1, 1);
    for (key, length) in [("bomb", 64 << 20), ("fits", 1000)] {
        encoder
            .add_ztxt_chunk(key.into(), "0".repeat(length))
            .expect("a valid key");
        encoder
            .add_itxt_chunk(key.to_uppercase(), "0".repeat(1000))
            .expect("a valid key");
    }
    let mut writer = encoder.write_header().expect("memory");
    writer.write_image_data(&[0]).expect("memory");
    writer.finish().expect("memory");
    assert!(png.len() < 1 << 20, "it is compressed");
    let texts = texts(&png);
    assert_eq!(text_of(&texts, "fits").map(str::len), Some(1000));
    assert_eq!(text_of(&texts, "bomb"), None);
}

#[test]
fn initial_pictures_are_pillows_to_the_last_bit() {
    let folder = Path::new("tests/fixtures/init_image");
    let mut cases = 0;
    for entry in fs::read_dir(folder).expect("committed") {
        let path = entry.expect("readable").path();
        let Some(name) = path.to_str().and_then(|p| p.strip_suffix(".in.png")) else {
            continue;
        };
        let expected = image::open(format!("{name}.out.png"))
            .expect("committed")
            .into_rgb8();
        let ours = read_init_image(&path)
            .expect("readable")
            .resized(expected.width() as usize, expected.height() as usize)
            .expect("small");
        assert_eq!(ours.as_raw(), expected.as_raw(), "{name}");
        cases += 1;
    }
    assert_eq!(cases, 7);
}

#[test]
fn a_broken_picture_is_an_error() {
    for bytes in [b"".as_slice(), b"RIFF", &plain_png()[..60]] {
        let (_folder, path) = file("x.png", bytes);
        let error = read_init_image(&path).expect_err("broken").to_string();
        assert!(error.contains("not a readable picture"), "{error}");
    }
}

fn any_receipt() -> impl Strategy<Value = Receipt> {
    let texts = (
        any::<String>(),
        any::<Option<String>>(),
        any::<Option<String>>(),
    );
    let numbers = (
        1..5_000_usize,
        0.0..1e4_f64,
        0.0..=1.0_f64,
        any::<u64>(),
        any::<Option<usize>>(),
        any::<(usize, usize)>(),
    );
    let options = (
        0..SchedulerKind::ALL.len(),
        any::<bool>(),
        any::<Option<(String, usize)>>(),
    );
    (texts, numbers, options).prop_map(|((prompt, negative, path), numbers, options)| {
        let (steps, guidance, share, seed, clip_skip, crop) = numbers;
        let (kind, flag, latents) = options;
        let mut request = Request {
            negative,
            long_prompt: flag,
            guidance_rescale: share,
            clip_skip,
            seed,
            crop,
            scheduler: Some(SchedulerKind::ALL[kind]),
            rng: if flag { Rng::Philox } else { Rng::Torch },
            init_image: path.map(|path| InitImage {
                path: path.into(),
                sha256: "00".into(),
                strength: share,
            }),
            ..Request::new(
                &prompt,
                &prompt,
                Size {
                    height_px: 8,
                    width_px: 8,
                },
                steps,
                guidance,
            )
        };
        request.precision.unet = if flag { Dtype::Bf16 } else { Dtype::F16 };
        let mut receipt = receipt_of(&request, 0);
        receipt.model_fingerprint = flag.then(|| "22".into());
        receipt.latents = latents.map(|(path, row)| LatentsFile {
            path: path.into(),
            sha256: "11".into(),
            row,
        });
        receipt
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_receipt_comes_back(receipt in any_receipt()) {
        let png = encode_png(&picture(), &receipt).expect("encodes");
        let texts = texts(&png);
        let json = text_of(&texts, RECEIPT_KEY).expect("written");
        prop_assert_eq!(Receipt::parse(json), Ok(receipt));
    }

    #[test]
    fn any_prompt_can_be_read_by_others(prompt in any::<String>()) {
        let receipt = receipt_of(&request(&prompt), 0);
        let png = encode_png(&picture(), &receipt).expect("encodes");
        let line = receipt.parameters().replace('\0', "\u{FFFD}");
        let texts = texts(&png);
        prop_assert_eq!(text_of(&texts, PARAMETERS_KEY), Some(line.as_str()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = png_texts(&bytes);
        let _ = png_texts(&[b"\x89PNG\r\n\x1a\n", bytes.as_slice()].concat());
        let _ = Receipt::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_file_never_panics(at in 0..2000_usize, value in any::<u8>(), cut in 0..2000_usize) {
        let receipt = receipt_of(&request("ein Bär 🐻"), 0);
        let mut png = encode_png(&picture(), &receipt).expect("encodes");
        let at = at % png.len();
        png[at] = value;
        let _ = png_texts(&png);
        let _ = png_texts(&png[..cut % png.len()]);
    }

    #[test]
    fn arbitrary_chunks_never_panic(
        kind in prop::sample::select(vec![*b"tEXt", *b"zTXt", *b"iTXt", *b"eXIf"]),
        data in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = png_texts(&with_chunk(&plain_png(), &kind, &data));
    }
}
