//! Fetching for real, from a hub on loopback.

#[path = "support/hub.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use darkroom::weights::fetch::{
    ExpectedBy, FetchError, FetchEvent, FetchOptions, ModelFiles, Token, cached, fetch,
};
use darkroom::weights::manifest::{Component, Manifest};
use support::{COMMIT, Fault, Hub, sha256};
use tempfile::TempDir;

const REPO: &str = "owner/tiny";
const WEIGHTS: &str = "unet/model.safetensors";
const CONFIG: &str = "unet/config.json";

/// A hub with one model, and a home of its own for the cache.
struct Setup {
    hub: Hub,
    _home: TempDir,
    options: FetchOptions,
    manifest: Manifest,
    weights: Vec<u8>,
}

/// Bytes that do not repeat within a chunk, so that a wrong offset shows.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn manifest(revision: &str, weights_keys: &str) -> Manifest {
    let text = format!(
        r#"
        schema = 1
        [model.tiny]
        title = "tiny"
        aliases = ["t"]
        repo = "{REPO}"
        revision = "{revision}"
        licence = {{ name = "Test Licence", url = "https://example.org/licence" }}
        files = [
          {{ component = "unet", path = "{CONFIG}" }},
          {{ component = "unet", path = "{WEIGHTS}"{weights_keys} }},
        ]
        "#
    );
    Manifest::parse(&text, "test").unwrap()
}

fn setup_with(revision: &str, keys: impl Fn(&[u8]) -> String) -> Setup {
    let hub = Hub::start();
    let weights = noise(3_000_000, 7);
    hub.put(REPO, WEIGHTS, &weights, true);
    hub.put(REPO, CONFIG, b"{\"a\": 1}", false);
    let home = TempDir::new().unwrap();
    let mut options = FetchOptions::new(home.path());
    options.endpoint = hub.endpoint.clone();
    options.retries = 0;
    let manifest = manifest(revision, &keys(&weights));
    Setup {
        hub,
        _home: home,
        options,
        manifest,
        weights,
    }
}

fn setup() -> Setup {
    setup_with(COMMIT, |weights| {
        format!(
            ", bytes = {}, sha256 = \"{}\"",
            weights.len(),
            sha256(weights)
        )
    })
}

/// What a fetch told.
#[derive(Default, Debug)]
struct Heard {
    licences: Vec<String>,
    downloads: Vec<(String, u64, u64)>,
    verified: Vec<String>,
    ready: usize,
    begin: Option<(usize, u64, usize)>,
}

impl Setup {
    fn fetch(&self) -> (Result<ModelFiles, FetchError>, Heard) {
        let mut heard = Heard::default();
        let model = self.manifest.model("tiny").unwrap();
        let result = fetch(
            &self.manifest,
            model,
            &self.options,
            &mut |event| match event {
                FetchEvent::Licence { licence, .. } => heard.licences.push(licence.name.clone()),
                FetchEvent::Begin {
                    files,
                    bytes,
                    unknown,
                } => heard.begin = Some((files, bytes, unknown)),
                FetchEvent::Download { path, done, total } => {
                    heard.downloads.push((path.into(), done, total));
                }
                FetchEvent::Verify { path, .. } => heard.verified.push(path.into()),
                FetchEvent::Ready { .. } => heard.ready += 1,
                FetchEvent::Warning(text) => panic!("{text}"),
            },
        );
        (result, heard)
    }

    fn fetch_ok(&self) -> ModelFiles {
        self.fetch().0.unwrap()
    }

    fn fetch_err(&self) -> FetchError {
        self.fetch().0.unwrap_err()
    }

    fn repo_dir(&self) -> PathBuf {
        self.options.cache_dir.join("models--owner--tiny")
    }

    fn snapshot(&self, path: &str) -> PathBuf {
        self.repo_dir().join("snapshots").join(COMMIT).join(path)
    }

    fn blob(&self) -> PathBuf {
        self.repo_dir().join("blobs").join(sha256(&self.weights))
    }

    fn part(&self) -> PathBuf {
        self.blob().with_extension("part")
    }

    fn write_part(&self, content: &[u8]) {
        fs::create_dir_all(self.part().parent().unwrap()).unwrap();
        fs::write(self.part(), content).unwrap();
    }

    /// Where the bodies of the weights began that were asked for, probes aside.
    fn starts(&self) -> Vec<usize> {
        let log = self.hub.take_log();
        let bodies = log.iter().filter(|r| r.path.starts_with("/storage/"));
        bodies
            .filter_map(|r| {
                r.range
                    .as_deref()?
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')
            })
            .map(|start| start.parse().unwrap())
            .collect()
    }

    fn assert_right(&self, files: &ModelFiles) {
        let unet = files.part(Component::Unet).unwrap();
        assert_eq!(unet.weights, [self.snapshot(WEIGHTS)]);
        assert_eq!(unet.folder, self.snapshot("unet"));
        assert!(
            fs::read(&unet.weights[0]).unwrap() == self.weights,
            "content differs"
        );
        assert_eq!(
            fs::read(unet.folder.join("config.json")).unwrap(),
            b"{\"a\": 1}"
        );
    }
}

#[test]
fn a_model_comes_into_the_standard_cache_and_is_asked_for_once() {
    let s = setup();
    let (result, heard) = s.fetch();
    s.assert_right(&result.unwrap());
    assert_eq!(heard.licences, ["Test Licence"]);
    assert_eq!(heard.begin, Some((2, 3_000_000, 1)));
    assert_eq!(heard.ready, 2);
    assert_eq!(
        fs::read_to_string(s.repo_dir().join("refs").join(COMMIT)).unwrap(),
        COMMIT
    );
    assert!(s.blob().is_file());
    assert!(!s.part().exists());

    assert!(!s.hub.take_log().is_empty());
    let (again, heard) = s.fetch();
    s.assert_right(&again.unwrap());
    assert!(s.hub.take_log().is_empty(), "a cached model was asked for");
    assert!(heard.licences.is_empty() && heard.downloads.is_empty() && heard.begin.is_none());
    assert!(
        heard.verified.is_empty(),
        "a verified file was hashed again"
    );
}

#[test]
fn progress_only_grows_and_ends_at_the_total_even_over_a_broken_connection() {
    let mut s = setup();
    s.options.retries = 2;
    s.hub.fault(REPO, WEIGHTS, Fault::CloseAfter(1_000_000));
    s.hub.fault(REPO, WEIGHTS, Fault::CloseAfter(500_000));
    let (result, heard) = s.fetch();
    s.assert_right(&result.unwrap());
    let weights: Vec<_> = heard.downloads.iter().filter(|d| d.0 == WEIGHTS).collect();
    assert!(weights.len() > 3);
    assert!(weights.windows(2).all(|w| w[0].1 < w[1].1), "progress fell");
    assert!(weights.iter().all(|d| d.2 == 3_000_000));
    assert_eq!(weights.last().unwrap().1, 3_000_000);
    let starts = s.starts();
    assert_eq!(starts.len(), 3);
    assert!(
        starts[0] == 0 && starts[0] < starts[1] && starts[1] < starts[2],
        "{starts:?}"
    );
}

#[test]
fn a_later_fetch_goes_on_where_a_broken_one_stopped() {
    let s = setup();
    s.hub.fault(REPO, WEIGHTS, Fault::CloseAfter(1_234_567));
    let error = s.fetch_err();
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    assert!(
        error.to_string().contains("goes on where it stopped"),
        "{error}"
    );
    let here = fs::metadata(s.part()).unwrap().len() as usize;
    assert!(here > 0 && here <= 1_234_567);
    assert_eq!(s.starts(), [0]);

    s.assert_right(&s.fetch_ok());
    assert_eq!(s.starts(), [here]);
}

#[test]
fn a_partial_file_that_is_complete_or_too_long_is_no_dead_end() {
    let s = setup();
    s.write_part(&s.weights);
    s.assert_right(&s.fetch_ok());
    assert_eq!(
        *s.starts().last().unwrap(),
        s.weights.len() - 1,
        "fetched anew"
    );

    let s = setup();
    s.write_part(&noise(3_000_001, 1));
    s.assert_right(&s.fetch_ok());
}

#[test]
fn a_server_that_sends_all_when_asked_for_the_rest_is_noticed() {
    // Neither size nor hash is known beforehand: only what the server says.
    let s = setup_with(COMMIT, |_| String::new());
    s.write_part(&s.weights[..1000]);
    s.hub.fault(REPO, WEIGHTS, Fault::IgnoreRange);
    let error = s.fetch_err();
    assert!(
        matches!(
            error,
            FetchError::WrongSize {
                got: 3_001_000,
                by: ExpectedBy::Hub,
                ..
            }
        ),
        "{error}"
    );
    assert!(!s.snapshot(WEIGHTS).exists() && !s.blob().exists());
    s.assert_right(&s.fetch_ok());
}

#[test]
fn a_spoilt_partial_file_is_found_by_its_hash_and_fetched_anew() {
    let s = setup();
    s.write_part(&noise(1000, 99));
    let error = s.fetch_err();
    assert!(matches!(error, FetchError::WrongHash { .. }), "{error}");
    s.assert_right(&s.fetch_ok());
}

#[test]
fn a_wrong_hash_is_an_error_and_leaves_nothing_in_the_cache() {
    let wrong = "ab".repeat(32);
    let s = setup_with(COMMIT, |_| format!(", sha256 = \"{wrong}\""));
    let error = s.fetch_err();
    let text = error.to_string();
    let right = sha256(&s.weights);
    for part in [&wrong, &right, "weights.toml", WEIGHTS, REPO, "--weights"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(matches!(
        error,
        FetchError::WrongHash {
            by: ExpectedBy::Manifest,
            ..
        }
    ));
    assert!(
        fs::symlink_metadata(s.snapshot(WEIGHTS)).is_err(),
        "the link was left"
    );
    assert!(!s.blob().exists(), "the blob was left");
}

#[test]
fn a_wrong_size_is_an_error_and_leaves_nothing_in_the_cache() {
    let s = setup_with(COMMIT, |_| ", bytes = 3000001".into());
    let error = s.fetch_err();
    assert!(
        matches!(
            error,
            FetchError::WrongSize {
                expected: 3_000_001,
                got: 3_000_000,
                ..
            }
        ),
        "{error}"
    );
    assert!(!s.snapshot(WEIGHTS).exists() && !s.blob().exists());
}

#[test]
fn a_file_that_is_not_what_the_hub_says_is_an_error_without_any_known_hash() {
    let s = setup_with(COMMIT, |_| String::new());
    s.hub
        .put_as(REPO, WEIGHTS, &s.weights, true, &"cd".repeat(32));
    let error = s.fetch_err();
    assert!(
        matches!(
            error,
            FetchError::WrongHash {
                by: ExpectedBy::Hub,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_cached_file_that_was_touched_is_hashed_again() {
    let s = setup();
    s.fetch_ok();
    let mut spoilt = s.weights.clone();
    spoilt[1_500_000] ^= 1;
    // A moment later, so that the file's time differs whatever the clock's grain.
    std::thread::sleep(Duration::from_millis(20));
    fs::write(s.blob(), &spoilt).unwrap();
    assert!(matches!(s.fetch_err(), FetchError::WrongHash { .. }));
    assert!(!s.blob().exists());
    s.assert_right(&s.fetch_ok());
}

#[test]
fn the_first_hash_seen_is_recorded_and_a_later_change_refused() {
    let s = setup_with("main", |_| String::new());
    s.assert_right(&s.fetch_ok());
    let lock = fs::read_to_string(&s.options.lock_file).unwrap();
    assert!(lock.contains(&sha256(&s.weights)), "{lock}");
    assert!(lock.contains("Test Licence"), "{lock}");
    s.hub.take_log();
    s.assert_right(&s.fetch_ok());
    assert!(s.hub.take_log().is_empty(), "a cached branch was asked for");

    fs::remove_dir_all(&s.options.cache_dir).unwrap();
    let other = noise(3_000_000, 8);
    s.hub.put(REPO, WEIGHTS, &other, true);
    let error = s.fetch_err();
    assert!(
        matches!(
            error,
            FetchError::WrongHash {
                by: ExpectedBy::Lock,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("darkroom.lock.toml"), "{error}");

    fs::remove_file(&s.options.lock_file).unwrap();
    let files = s.fetch_ok();
    assert!(fs::read(&files.part(Component::Unet).unwrap().weights[0]).unwrap() == other);
}

#[test]
fn a_broken_lock_file_is_named() {
    let s = setup();
    fs::write(&s.options.lock_file, "schema = 2\n").unwrap();
    let error = s.fetch_err();
    assert!(matches!(error, FetchError::LockFile { .. }), "{error}");
    assert!(error.to_string().contains("darkroom.lock.toml"), "{error}");
}

#[test]
fn gated_repositories_name_their_page_and_open_with_a_token() {
    for status in [401, 403] {
        let mut s = setup();
        s.hub.gate("secret", status);
        let error = s.fetch_err();
        let page = format!("{}/{REPO}", s.options.endpoint);
        assert!(matches!(error, FetchError::Gated { status: got, .. } if got == status));
        let text = error.to_string();
        assert!(text.contains(&page) && text.contains("HF_TOKEN"), "{text}");

        s.options.token = Some(Token("secret".into()));
        s.assert_right(&s.fetch_ok());
        assert!(
            !format!("{:?}", s.options).contains("secret"),
            "the token is in the log"
        );
    }
}

#[test]
fn what_is_not_there_is_named() {
    let s = setup();
    let text = manifest(COMMIT, "");
    let hub = Hub::start();
    hub.put(REPO, CONFIG, b"{}", false);
    let options = FetchOptions {
        endpoint: hub.endpoint.clone(),
        ..s.options.clone()
    };
    let error = fetch(&text, text.model("t").unwrap(), &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, FetchError::NotFound { .. }), "{error}");
    for part in [REPO, WEIGHTS, COMMIT, &hub.endpoint] {
        assert!(
            error.to_string().contains(part),
            "{part} is not in: {error}"
        );
    }
}

#[test]
fn offline_takes_what_is_cached_and_else_says_what_to_run() {
    let mut s = setup();
    s.options.offline = true;
    let (result, heard) = s.fetch();
    let error = result.unwrap_err();
    assert!(heard.licences.is_empty(), "a licence was shown for nothing");
    assert!(matches!(error, FetchError::Offline { .. }), "{error}");
    assert!(
        error.to_string().contains("darkroom models fetch tiny"),
        "{error}"
    );
    assert!(error.to_string().contains(WEIGHTS), "{error}");
    assert!(
        s.hub.take_log().is_empty(),
        "offline, and the hub was asked"
    );

    s.options.offline = false;
    s.fetch_ok();
    s.hub.take_log();
    s.options.offline = true;
    s.assert_right(&s.fetch_ok());
    assert!(
        s.hub.take_log().is_empty(),
        "offline, and the hub was asked"
    );
}

#[test]
fn a_snapshot_of_pythons_client_is_found() {
    let mut s = setup();
    // Python's client writes no refs/ entry for a commit.
    s.fetch_ok();
    fs::remove_dir_all(s.repo_dir().join("refs")).unwrap();
    s.options.offline = true;
    s.assert_right(&s.fetch_ok());
}

#[test]
fn a_hub_that_cannot_be_reached_is_named_with_its_variable() {
    let mut s = setup();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    s.options.endpoint = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let error = s.fetch_err();
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&s.options.endpoint) && text.contains("HF_ENDPOINT"),
        "{text}"
    );
}

#[test]
fn a_silent_hub_is_given_up_and_resumed() {
    let mut s = setup();
    s.options.stall = Duration::from_secs(2);
    s.hub.fault(REPO, WEIGHTS, Fault::StallAfter(2_000_000));
    let error = s.fetch_err();
    assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
    assert!(fs::metadata(s.part()).unwrap().len() > 0);
}

#[test]
fn other_answers_are_told_as_they_are() {
    let s = setup();
    s.hub.break_with(503);
    let error = s.fetch_err();
    assert!(
        matches!(error, FetchError::Status { status: 503, .. }),
        "{error}"
    );

    let s = setup();
    s.hub.forget_to_be_a_hub();
    let error = s.fetch_err();
    assert!(matches!(error, FetchError::NotAHub { .. }), "{error}");
    assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_called_one() {
    let s = setup();
    // Writing to /dev/full fails as a full disk does.
    fs::create_dir_all(s.part().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", s.part()).unwrap();
    let error = s.fetch_err();
    assert!(
        matches!(
            error,
            FetchError::DiskFull {
                bytes: Some(3_000_000),
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("HF_HOME"), "{error}");
}

#[test]
fn a_cache_that_cannot_be_made_is_named() {
    let mut s = setup();
    let file = s.options.cache_dir.with_file_name("a-file");
    fs::write(&file, "").unwrap();
    s.options.cache_dir = file.join("hub");
    let error = s.fetch_err();
    assert!(matches!(error, FetchError::Cache { .. }), "{error}");
}

#[test]
fn cached_says_what_is_here() {
    let s = setup();
    let model = s.manifest.model("tiny").unwrap();
    let state = || cached(&s.manifest, model, &s.options).unwrap();
    let before = state();
    assert_eq!(
        (before.files, before.bytes_present, before.bytes_total),
        (2, 0, None)
    );
    assert_eq!(
        before.missing,
        [format!("{REPO}/{CONFIG}"), format!("{REPO}/{WEIGHTS}")]
    );
    s.fetch_ok();
    let after = state();
    assert!(after.is_complete());
    assert_eq!(
        (after.bytes_present, after.bytes_total),
        (3_000_008, Some(3_000_008))
    );
}

#[test]
fn parts_from_several_repositories_and_variants_make_one_model() {
    let s = setup();
    let text = r#"
        schema = 1
        [model.base]
        title = "base"
        repo = "o/base"
        revision = "main"
        licence = { name = "A", url = "https://example.org/a" }
        variant = "fp16"
        vae_f16 = "fix"
        files = [
          { component = "model_index", path = "model_index.json" },
          { component = "unet", path = "unet/config.json" },
          { component = "unet", variant = "fp16", path = "unet/model.fp16.safetensors" },
          { component = "unet", variant = "f32", path = "unet/model.safetensors" },
          { component = "vae", path = "vae/config.json" },
          { component = "vae", variant = "fp16", path = "vae/model.fp16.safetensors" },
          { component = "vae", variant = "f32", path = "vae/model.safetensors" },
        ]
        [model.fast]
        title = "fast"
        base = "base"
        repo = "o/fast"
        revision = "main"
        licence = { name = "B", url = "https://example.org/b" }
        files = [{ component = "unet", path = "fast_unet.safetensors" }]
        [model.fix]
        title = "fix"
        repo = "o/fix"
        revision = "main"
        licence = { name = "C", url = "https://example.org/c" }
        files = [
          { component = "vae", path = "config.json" },
          { component = "vae", path = "model.safetensors" },
        ]
    "#;
    let manifest = Manifest::parse(text, "test").unwrap();
    for model in manifest.models() {
        let hub = model.hub().unwrap();
        for file in &hub.files {
            let body = format!("{}/{}", hub.repo, file.path);
            s.hub
                .put(&hub.repo, &file.path, body.as_bytes(), file.is_weights());
        }
    }
    let content = |path: &Path| fs::read_to_string(path).unwrap();
    let fetch_as = |name: &str, variant: Option<&str>| {
        let options = FetchOptions {
            variant: variant.map(Into::into),
            ..s.options.clone()
        };
        fetch(
            &manifest,
            manifest.model(name).unwrap(),
            &options,
            &mut |_| {},
        )
    };

    let fast = fetch_as("fast", None).unwrap();
    let unet = fast.part(Component::Unet).unwrap();
    assert_eq!(
        content(&unet.folder.join("config.json")),
        "o/base/unet/config.json"
    );
    assert_eq!(unet.weights.len(), 1);
    assert_eq!(content(&unet.weights[0]), "o/fast/fast_unet.safetensors");
    let vae = fast.part(Component::Vae).unwrap();
    assert_eq!(
        content(&vae.weights[0]),
        "o/base/vae/model.fp16.safetensors"
    );
    let fix = fast.vae_f16.as_ref().unwrap();
    assert_eq!(
        content(&fix.folder.join("config.json")),
        "o/fix/config.json"
    );
    assert_eq!(content(&fix.weights[0]), "o/fix/model.safetensors");
    let index = fast.part(Component::ModelIndex).unwrap();
    assert!(index.folder.join("model_index.json").is_file() && index.weights.is_empty());

    let full = fetch_as("base", Some("f32")).unwrap();
    let unet = full.part(Component::Unet).unwrap();
    assert_eq!(content(&unet.weights[0]), "o/base/unet/model.safetensors");
    let error = fetch_as("base", Some("int4")).unwrap_err();
    assert!(error.to_string().contains("`f32` or `fp16`"), "{error}");
}

#[test]
fn an_embedded_model_needs_no_fetching() {
    let s = setup();
    let manifest = Manifest::builtin();
    let micro = manifest.model("micro").unwrap();
    let error = fetch(&manifest, micro, &s.options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, FetchError::Embedded { .. }), "{error}");
    assert!(s.hub.take_log().is_empty());
}

#[test]
fn the_environment_is_read_as_pythons_client_reads_it() {
    let home = TempDir::new().unwrap();
    let path = home.path().to_str().unwrap();
    let options = |vars: &[(&str, &str)]| {
        let find = |name: &str| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        FetchOptions::from_vars(find, Some("/users/me".into())).unwrap()
    };
    let plain = options(&[]);
    assert_eq!(
        plain.cache_dir,
        Path::new("/users/me/.cache/huggingface/hub")
    );
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert!(!plain.offline && plain.token.is_none());
    assert_eq!(
        options(&[("XDG_CACHE_HOME", "/x")]).cache_dir,
        Path::new("/x/huggingface/hub")
    );

    fs::write(home.path().join("token"), " from-file\n").unwrap();
    let set = options(&[
        ("HF_HOME", path),
        ("HF_ENDPOINT", "http://mirror.example/"),
        ("HF_HUB_OFFLINE", "TRUE"),
    ]);
    assert_eq!(set.cache_dir, home.path().join("hub"));
    assert_eq!(set.lock_file, home.path().join("darkroom.lock.toml"));
    assert_eq!(set.endpoint, "http://mirror.example");
    assert_eq!(set.token, Some(Token("from-file".into())));
    assert!(set.offline);

    let set = options(&[
        ("HF_HOME", path),
        ("HF_HUB_CACHE", "/data/hub"),
        ("HF_TOKEN", "from-env"),
        ("HF_HUB_OFFLINE", "0"),
    ]);
    assert_eq!(set.cache_dir, Path::new("/data/hub"));
    assert_eq!(set.token, Some(Token("from-env".into())));
    assert!(!set.offline);

    let nowhere = FetchOptions::from_vars(|_| None, None).unwrap_err();
    assert!(nowhere.to_string().contains("HF_HOME"), "{nowhere}");
}
