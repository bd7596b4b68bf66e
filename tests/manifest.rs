//! weights.toml: the one compiled in, what is refused and how, and that nothing makes it panic.

use std::collections::BTreeSet;

use darkroom::weights::manifest::{Component, Manifest, ManifestError, Slot};
use proptest::prelude::*;

const BUILTIN: &str = include_str!("../weights.toml");

/// A manifest with one good entry, and `more` in it.
fn entry(more: &str) -> String {
    format!(
        "schema = 1\n[model.a]\ntitle = \"a\"\nrepo = \"o/n\"\nrevision = \"main\"\n\
         licence = {{ name = \"l\", url = \"u\" }}\n{more}\n"
    )
}

fn files(file: &str) -> String {
    entry(&format!("files = [{{ component = \"unet\", {file} }}]"))
}

fn refusal(text: &str) -> String {
    match Manifest::parse(text, "mine.toml") {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_builtin_manifest_is_sound_and_complete() {
    let manifest = Manifest::parse(BUILTIN, "weights.toml").unwrap();
    assert_eq!(manifest, Manifest::builtin());
    for name in [
        "micro",
        "sdxl-base",
        "sdxl-turbo",
        "sdxl-refiner",
        "sdxl-vae-fp16-fix",
    ] {
        assert_eq!(manifest.model(name).unwrap().name, name);
    }
    for model in manifest.models() {
        let Some(hub) = model.hub() else { continue };
        let commit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        assert!(
            hub.revision.len() == 40 && hub.revision.chars().all(commit),
            "{} is not pinned to a commit",
            model.name
        );
    }
}

#[test]
fn every_builtin_pipeline_has_what_it_needs() {
    let manifest = Manifest::builtin();
    for model in manifest
        .models()
        .filter(|m| m.is_pipeline() && m.hub().is_some())
    {
        for variant in [None, Some("fp16"), Some("f32")] {
            let plan = manifest.plan(model, variant).unwrap();
            let count = |slot, weights| {
                let is = |p: &&_| {
                    let p: &darkroom::weights::manifest::PlannedFile<'_> = p;
                    p.slot == slot && p.file.is_weights() == weights
                };
                plan.iter().filter(is).count()
            };
            for part in [Component::TextEncoder2, Component::Unet, Component::Vae] {
                assert_eq!(count(Slot::Part(part), true), 1, "{} {part}", model.name);
                assert_eq!(count(Slot::Part(part), false), 1, "{} {part}", model.name);
            }
            let first_encoder = usize::from(model.name != "sdxl-refiner");
            assert_eq!(
                count(Slot::Part(Component::TextEncoder), true),
                first_encoder
            );
            assert_eq!(count(Slot::VaeF16, true), 1);
            assert!(count(Slot::Part(Component::Tokenizer2), false) >= 2);
            assert_eq!(count(Slot::Part(Component::ModelIndex), false), 1);
            assert_eq!(count(Slot::Part(Component::Scheduler), false), 1);
        }
    }
}

#[test]
fn lightning_takes_only_its_unet_from_its_own_repository() {
    let manifest = Manifest::builtin();
    let plan = manifest
        .plan(manifest.model("lightning").unwrap(), None)
        .unwrap();
    let own: Vec<_> = plan
        .iter()
        .filter(|p| p.owner.name == "sdxl-lightning")
        .collect();
    assert_eq!(own.len(), 1);
    let unets: Vec<_> = plan
        .iter()
        .filter(|p| p.slot == Slot::Part(Component::Unet))
        .map(|p| (p.owner.name.as_str(), p.file.path.as_str()))
        .collect();
    let expected = [
        ("sdxl-lightning", "sdxl_lightning_4step_unet.safetensors"),
        ("sdxl-base", "unet/config.json"),
    ];
    assert_eq!(unets, expected);
}

#[test]
fn an_unknown_model_is_answered_with_names_like_it() {
    let manifest = Manifest::builtin();
    let text = manifest.model("sdlx-base").unwrap_err().to_string();
    assert!(text.contains("`sdxl-base`"), "{text}");
    assert!(text.contains("folder"), "{text}");
    let text = manifest.model("Turbo").unwrap_err().to_string();
    assert!(
        text.contains("`turbo`") && text.contains("sdxl-turbo"),
        "{text}"
    );
    let text = manifest.model("zzzzzzzzzz").unwrap_err().to_string();
    assert!(!text.contains("did you mean"), "{text}");
}

#[test]
fn a_file_adds_and_replaces_by_name() {
    let text = files("path = \"a.safetensors\"").replace("[model.a]", "[model.sdxl-turbo]");
    let manifest = Manifest::builtin().with(&text, "mine.toml").unwrap();
    let turbo = manifest.model("sdxl-turbo").unwrap();
    assert_eq!(turbo.hub().unwrap().repo, "o/n");
    assert!(
        manifest.model("turbo").is_err(),
        "an alias of the entry replaced"
    );
    assert!(manifest.model("sdxl-base").is_ok());

    // Its entries may build on those compiled in.
    let based = files("path = \"a.safetensors\"") + "base = \"sdxl-base\"\n";
    assert!(Manifest::builtin().with(&based, "mine.toml").is_ok());
    assert!(refusal(&based).contains("sdxl-base"));

    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.toml");
    let error = Manifest::load(&missing).unwrap_err();
    assert!(matches!(error, ManifestError::Read { .. }));
    assert!(error.to_string().contains("none.toml"));
    std::fs::write(&missing, text).unwrap();
    assert_eq!(Manifest::load(&missing).unwrap(), manifest);
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let good = "path = \"a.safetensors\"";
    Manifest::parse(&files(good), "mine.toml").unwrap();
    let twice = format!("{}\n[model.b]\n", files(good) + "aliases = [\"x\"]");
    let twice = twice
        + "title = \"b\"\nrepo = \"o/n\"\nrevision = \"main\"\naliases = [\"x\"]\n\
           licence = { name = \"l\", url = \"u\" }\nfiles = [{ component = \"vae\", path = \"c.json\" }]\n";
    let cases: &[(String, &[&str])] = &[
        ("schema = 2".into(), &["mine.toml", "schema 2"]),
        (String::new(), &["schema"]),
        (entry("colour = 1"), &["colour", "line 7", "mine.toml"]),
        (files("path = \"a\", hash = \"b\""), &["hash", "line 7"]),
        (files("path = 3"), &["line 7"]),
        (
            files("path = \"a\"").replace("unet", "brain"),
            &["brain", "line 7"],
        ),
        (entry(""), &["`a`", "files"]),
        (files(good).replace("o/n", "n"), &["owner/name", "\"n\""]),
        (files(good).replace("o/n", "../n"), &["owner/name"]),
        (files(good).replace("\"main\"", "\"a/../b\""), &["revision"]),
        (
            files("path = \"../a.safetensors\""),
            &["../a.safetensors", "relative"],
        ),
        (
            files("path = \"/etc/passwd\""),
            &["/etc/passwd", "relative"],
        ),
        (files("path = \"a\\\\b\""), &["relative"]),
        (files("path = \"a//b\""), &["relative"]),
        (
            files("path = \"unet/model.bin\""),
            &["pickle", "unet/model.bin"],
        ),
        (files("path = \"a\", sha256 = \"abc\""), &["64", "abc"]),
        (
            files(&format!("path = \"a\", sha256 = \"{}\"", "AB".repeat(32))),
            &["64"],
        ),
        (files("path = \"a\", bytes = 0"), &["0 bytes"]),
        (files("path = \"a\", variant = \"fp16\""), &["variant"]),
        (files(good) + "variant = \"fp16\"\n", &["variant", "fp16"]),
        (files(good) + "base = \"b\"\n", &["`base`", "`b`"]),
        (files(good) + "base = \"a\"\n", &["`base`", "`a`"]),
        (files(good) + "vae_f16 = \"b\"\n", &["`vae_f16`", "`b`"]),
        (
            files(good) + "vae_f16 = \"a\"\n",
            &["`vae_f16`", "no weights"],
        ),
        (files(good) + "aliases = [\"a\"]\n", &["alias", "`a`"]),
        (files(good) + "aliases = [\"x y\"]\n", &["x y"]),
        (files(good) + "embedded = true\n", &["embedded"]),
        (twice, &["alias `x`", "`a`", "`b`"]),
    ];
    for (text, parts) in cases {
        let refusal = refusal(text);
        for part in *parts {
            assert!(
                refusal.contains(part),
                "{part:?} is not in {refusal:?} for\n{text}"
            );
        }
    }
    let two = files("path = \"a/c.json\" }, { component = \"unet\", path = \"b/d.json\"");
    assert!(refusal(&two).contains("one folder"));
    let same = files("path = \"a.json\" }, { component = \"unet\", path = \"a.json\"");
    assert!(refusal(&same).contains("twice"));
}

#[test]
fn defaults_that_cannot_be_drawn_are_refused() {
    let with = |key: &str, value: &str| {
        let mut defaults = vec![
            ("width", "8"),
            ("height", "8"),
            ("steps", "1"),
            ("guidance", "1.0"),
            ("scheduler", "\"euler\""),
            ("timestep_spacing", "\"leading\""),
        ];
        for (known, old) in &mut defaults {
            if *known == key {
                *old = value;
            }
        }
        let pairs: Vec<_> = defaults.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        files("path = \"a.safetensors\"") + &format!("defaults = {{ {} }}\n", pairs.join(", "))
    };
    Manifest::parse(&with("", ""), "mine.toml").unwrap();
    let cases = [
        ("width", "0"),
        ("height", "100000"),
        ("steps", "0"),
        ("guidance", "nan"),
        ("guidance", "inf"),
        ("guidance", "-1.0"),
        ("scheduler", "\"\""),
        ("timestep_spacing", "\"even\""),
    ];
    for (key, value) in cases {
        assert!(refusal(&with(key, value)).contains(key), "{key} = {value}");
    }
}

/// Every name and alias leads to its model, and every model can be planned.
fn check_sound(manifest: &Manifest) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    for model in manifest.models() {
        for name in std::iter::once(&model.name).chain(&model.aliases) {
            prop_assert!(seen.insert(name.clone()), "{} leads to two models", name);
            prop_assert_eq!(&manifest.model(name).unwrap().name, &model.name);
        }
        let plan = manifest.plan(model, None).unwrap();
        prop_assert_eq!(plan.is_empty(), model.hub().is_none());
        for planned in plan {
            let steps: Vec<_> = planned.file.path.split('/').collect();
            prop_assert!(
                !steps
                    .iter()
                    .any(|s| s.is_empty() || *s == "." || *s == "..")
            );
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = Manifest::parse(&text, "any");
    }

    #[test]
    fn a_damaged_manifest_is_refused_or_sound(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, ".{0,2}"), 1..3)
    ) {
        let mut text: Vec<char> = BUILTIN.chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(manifest) = Manifest::parse(&text, "damaged") {
            check_sound(&manifest)?;
        }
    }

    #[test]
    fn what_is_accepted_resolves(
        entries in prop::collection::btree_map(
            "[a-f]{1,2}",
            (
                prop::collection::vec("[a-f]{1,4}", 0..2),
                prop::option::weighted(0.1, "[a-f]"),
                prop::option::weighted(0.1, "[a-f]"),
                prop::collection::vec((0usize..3, "[a-c]{1,2}[b./]?", any::<bool>()), 1..4),
            ),
            1..5,
        )
    ) {
        let mut text = String::from("schema = 1\n");
        for (name, (aliases, base, vae, files)) in &entries {
            text += &format!("[model.{name}]\ntitle = \"\"\nrepo = \"o/n\"\nrevision = \"r\"\n");
            text += &format!("licence = {{ name = \"\", url = \"\" }}\naliases = {aliases:?}\n");
            for (key, value) in [("base", base), ("vae_f16", vae)] {
                if let Some(value) = value {
                    text += &format!("{key} = {value:?}\n");
                }
            }
            text += "files = [\n";
            for (part, path, weights) in files {
                let part = ["unet", "vae", "scheduler"][*part];
                let end = if *weights { "w.safetensors" } else { "c.json" };
                text += &format!("{{ component = \"{part}\", path = \"{path}{end}\" }},\n");
            }
            text += "]\n";
        }
        if let Ok(manifest) = Manifest::parse(&text, "made") {
            prop_assert_eq!(manifest.models().count(), entries.len());
            check_sound(&manifest)?;
        }
    }

    #[test]
    fn no_name_makes_the_search_for_it_panic(name in any::<String>()) {
        let manifest = Manifest::builtin();
        if let Err(error) = manifest.model(&name) {
            prop_assert!(error.to_string().contains(&name));
        }
    }
}
