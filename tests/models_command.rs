//! `darkroom models`, the command itself, with a hub on loopback.

#[path = "support/hub.rs"]
#[allow(dead_code)]
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use support::{COMMIT, Hub, sha256};
use tempfile::TempDir;

const REPO: &str = "owner/tiny";
const WEIGHTS: &str = "unet/model.safetensors";

struct Setup {
    hub: Hub,
    home: TempDir,
    manifest: PathBuf,
}

fn setup() -> Setup {
    let hub = Hub::start();
    hub.put(REPO, WEIGHTS, b"tensors", true);
    let home = TempDir::new().unwrap();
    let manifest = home.path().join("mine.toml");
    let text = format!(
        "schema = 1\n[model.tiny]\ntitle = \"tiny\"\nrepo = \"{REPO}\"\nrevision = \"{COMMIT}\"\n\
         licence = {{ name = \"Test Licence\", url = \"https://example.org\" }}\n\
         files = [{{ component = \"unet\", path = \"{WEIGHTS}\", bytes = 7, sha256 = \"{}\" }}]\n",
        sha256(b"tensors")
    );
    fs::write(&manifest, text).unwrap();
    Setup {
        hub,
        home,
        manifest,
    }
}

impl Setup {
    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_darkroom"))
            .arg("models")
            .args(args)
            .arg("--weights")
            .arg(&self.manifest)
            .env("HF_HOME", self.home.path())
            .env("HF_ENDPOINT", &self.hub.endpoint)
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_TOKEN")
            .output()
            .unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The line of a table that begins with `name`.
fn line<'a>(table: &'a str, name: &str) -> &'a str {
    let found = table
        .lines()
        .find(|l| l.split_whitespace().next() == Some(name));
    found.unwrap_or_else(|| panic!("no line for {name} in\n{table}"))
}

#[test]
fn the_list_tells_what_is_here_before_and_after_a_fetch() {
    let s = setup();
    let before = text(&s.run(&[]).stdout);
    assert!(line(&before, "tiny").contains("no"), "{before}");
    assert!(line(&before, "tiny").contains("Test Licence"), "{before}");
    assert!(line(&before, "micro").contains("in the binary"), "{before}");
    line(&before, "sdxl-base");

    let fetched = s.run(&["fetch", "tiny"]);
    assert!(fetched.status.success(), "{}", text(&fetched.stderr));
    assert!(text(&fetched.stdout).contains("tiny"), "{fetched:?}");
    assert!(
        text(&fetched.stderr).contains("Test Licence"),
        "{fetched:?}"
    );
    let again = s.run(&["fetch", "tiny", "--offline"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(
        !text(&again.stderr).contains("Test Licence"),
        "the licence was shown twice"
    );

    let after = text(&s.run(&[]).stdout);
    assert!(line(&after, "tiny").contains("yes"), "{after}");
}

#[test]
fn json_has_a_schema_and_the_files() {
    let s = setup();
    let fetched = s.json(&["fetch", "tiny", "--json"]);
    assert_eq!(fetched["schema"], 1);
    let weights = &fetched["files"]["parts"]["unet"]["weights"][0];
    assert_eq!(fs::read(weights.as_str().unwrap()).unwrap(), b"tensors");

    let list = s.json(&["--json"]);
    assert_eq!(list["schema"], 1);
    let models = list["models"].as_array().unwrap();
    let tiny = models.iter().find(|m| m["name"] == "tiny").unwrap();
    assert_eq!(tiny["repo"], REPO);
    assert_eq!(tiny["revision"], COMMIT);
    assert_eq!(tiny["cached"]["bytes_present"], 7);
    assert_eq!(tiny["cached"]["missing"], Value::Array(vec![]));
    assert!(
        models
            .iter()
            .any(|m| m["name"] == "micro" && m["repo"].is_null())
    );
}

#[test]
fn what_cannot_be_fetched_is_said_on_stderr_alone() {
    let s = setup();
    let cases: [(&[&str], &str); 3] = [
        (
            &["fetch", "tiny", "--offline"],
            "darkroom models fetch tiny",
        ),
        (&["fetch", "tinny"], "`tiny`"),
        (&["fetch", "tiny", "--variant", "f8"], "f8"),
    ];
    for (args, part) in cases {
        let output = s.run(args);
        assert!(!output.status.success(), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(
            text(&output.stderr).contains(part),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    let micro = s.run(&["fetch", "micro"]);
    assert!(micro.status.success() && s.hub.take_log().is_empty());
}
