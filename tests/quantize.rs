//! `darkroom quantize`: what it writes, what it says, what it refuses.

#[path = "support/room.rs"]
mod room;

use room::Room;
use serde_json::Value;

#[test]
fn a_smoothed_checkpoint_is_written_and_drawn_from() {
    let room = Room::new();
    std::fs::write(room.path("prompts.txt"), "a red apple\n\na green frog\n").expect("room for it");
    let smooth = [
        "quantize",
        "--model",
        "micro",
        "--smooth",
        "0.5",
        "--calibration",
        "prompts.txt",
        "--calibration-steps",
        "2",
        "-o",
        "int8",
        "--json",
    ];
    let record: Value = serde_json::from_str(&room.prints(&smooth)).expect("JSON");
    assert_eq!(record["schema"], 1);
    assert_eq!(record["smoothing"]["alpha"], 0.5);
    assert_eq!(record["smoothing"]["prompts"], 2);
    let [before, after] = ["unet_bytes_before", "unet_bytes_after"].map(|key| record[key].as_u64());
    assert!(after < before.map(|b| b * 2 / 3), "{record}");
    let config = std::fs::read(room.path("int8/unet/config.json")).expect("written");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["quantization_config"]["smoothing"]["steps"], 2);
    assert!(room.path("int8/unet/smoothing.safetensors").is_file());
    room.prints(&[
        "generate",
        "a red apple",
        "--model",
        "int8",
        "--steps",
        "1",
        "-o",
        "a.png",
    ]);

    // Not again, and not over what is there.
    for again in ["int8", "micro"] {
        let args = ["quantize", "--model", again, "-o", "int8"];
        let says = if again == "micro" {
            "exists already"
        } else {
            "quantised already"
        };
        room.refuses(1, &[says], &args);
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let room = Room::new();
    std::fs::write(room.path("empty.txt"), "\n \n").expect("room for it");
    let quantize = |code, says: &str, more: &[&str]| {
        let args = [&["quantize", "--model", "micro", "-o", "out"], more].concat();
        room.refuses(code, &[says], &args);
    };
    quantize(2, "0 to 1", &["--smooth", "1.5"]);
    quantize(2, "w8a16", &["--smooth", "0.5", "--scheme", "w8a16"]);
    quantize(2, "--smooth", &["--calibration", "empty.txt"]);
    quantize(
        1,
        "holds no prompt",
        &["--smooth", "0.5", "--calibration", "empty.txt"],
    );
    quantize(
        1,
        "none.txt",
        &["--smooth", "0.5", "--calibration", "none.txt"],
    );
    quantize(2, "no layer of this name", &["--keep", "attn3.to_q"]);
    quantize(2, "conv_in", &["--int8", "attn1"]);
    let made_up = [
        "quantize",
        "--model",
        "synthetic:micro",
        "--smooth",
        "0.5",
        "-o",
        "out",
    ];
    room.refuses(1, &["made up"], &made_up);
}
