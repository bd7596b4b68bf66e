//! What a manifest must satisfy beyond its form. Every failure is one sentence about one entry.

use std::collections::{BTreeMap, BTreeSet};

use super::{Component, Defaults, Entry, HubSource, Model, ModelFile, Source};

/// What the schedulers know as timestep spacings.
const SPACINGS: [&str; 3] = ["leading", "linspace", "trailing"];
/// Formats whose loading runs code, by ending.
const PICKLES: [&str; 5] = [".bin", ".ckpt", ".pkl", ".pt", ".pth"];
const MAX_PX: u32 = 16_384;
const MAX_STEPS: u32 = 10_000;

/// An entry by itself.
pub(super) fn model(name: &str, entry: Entry) -> Result<Model, String> {
    for name in std::iter::once(&name.to_owned()).chain(&entry.aliases) {
        if !is_word(name) {
            return Err(format!(
                "the name {name:?} may hold letters, digits, `.`, `_` and `-` only, and must not start with `.` or `-`"
            ));
        }
    }
    if let Some(defaults) = &entry.defaults {
        check_defaults(defaults)?;
    }
    let source = source(&entry)?;
    Ok(Model {
        name: name.to_owned(),
        title: entry.title,
        aliases: entry.aliases,
        source,
        licence: entry.licence,
        defaults: entry.defaults,
        base: entry.base,
        vae_f16: entry.vae_f16,
    })
}

/// Entries among each other. Returns the entry's name and what is wrong.
pub(super) fn references(models: &BTreeMap<String, Model>) -> Result<(), (String, String)> {
    let mut owners: BTreeMap<&str, &str> =
        models.keys().map(|n| (n.as_str(), n.as_str())).collect();
    for model in models.values() {
        let fail = |problem: String| Err((model.name.clone(), problem));
        for alias in &model.aliases {
            if let Some(owner) = owners.insert(alias, &model.name) {
                return fail(format!("the alias `{alias}` already leads to `{owner}`"));
            }
        }
        if let Some(base) = &model.base {
            match models.get(base) {
                None => {
                    return fail(format!(
                        "`base` names `{base}`, which is not in the manifest"
                    ));
                }
                Some(base) if base.base.is_some() => {
                    return fail(format!(
                        "`base` names `{}`, which has a base itself",
                        base.name
                    ));
                }
                Some(base) if base.hub().is_none() => {
                    return fail(format!("`base` names `{}`, which is embedded", base.name));
                }
                Some(_) => {}
            }
        }
        if let Some(vae) = &model.vae_f16 {
            let Some(found) = models.get(vae) else {
                return fail(format!(
                    "`vae_f16` names `{vae}`, which is not in the manifest"
                ));
            };
            let is_vae = |f: &ModelFile| f.component == Component::Vae && f.is_weights();
            if !found.hub().is_some_and(|h| h.files.iter().any(is_vae)) {
                return fail(format!(
                    "`vae_f16` names `{vae}`, which lists no weights for a vae"
                ));
            }
        }
    }
    Ok(())
}

fn source(entry: &Entry) -> Result<Source, String> {
    let hub_keys = [
        ("repo", entry.repo.is_some()),
        ("revision", entry.revision.is_some()),
        ("variant", entry.variant.is_some()),
        ("base", entry.base.is_some()),
        ("vae_f16", entry.vae_f16.is_some()),
        ("files", !entry.files.is_empty()),
    ];
    if entry.embedded {
        return match hub_keys.iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(format!("`{key}` has no meaning beside `embedded = true`")),
            None => Ok(Source::Embedded),
        };
    }
    let repo = entry.repo.clone().ok_or("`repo` is missing")?;
    let revision = entry.revision.clone().ok_or("`revision` is missing")?;
    if repo.split('/').count() != 2 || !repo.split('/').all(is_word) {
        return Err(format!("`repo` must read owner/name, not {repo:?}"));
    }
    if !revision.split('/').all(is_word) {
        return Err(format!(
            "`revision` must be a commit, a branch or a tag, not {revision:?}"
        ));
    }
    if entry.files.is_empty() {
        return Err("`files` is missing or empty".into());
    }
    check_files(&entry.files)?;
    let hub = HubSource {
        repo,
        revision,
        variant: entry.variant.clone(),
        files: entry.files.clone(),
    };
    match &hub.variant {
        Some(v) if !hub.variants().contains(v) => Err(format!(
            "`variant` is {v:?}, and no file is of that variant"
        )),
        None if !hub.variants().is_empty() => {
            Err("files come in variants, so `variant` must say which is the default".into())
        }
        _ => Ok(Source::Hub(hub)),
    }
}

fn check_files(files: &[ModelFile]) -> Result<(), String> {
    let mut paths = BTreeSet::new();
    let mut folders: BTreeMap<Component, &str> = BTreeMap::new();
    for file in files {
        let path = &file.path;
        // Each step of the path a plain name: it can neither leave the snapshot nor hide in it.
        if !path.split('/').all(is_word) {
            return Err(format!(
                "the file {path:?} must be a relative path of plain names, with `/` between them"
            ));
        }
        if PICKLES.iter().any(|end| path.ends_with(end)) {
            return Err(format!(
                "the file {path:?} is a pickle, which can run code when it is read; take the safetensors file"
            ));
        }
        if !paths.insert(path) {
            return Err(format!("the file {path:?} is listed twice"));
        }
        if let Some(sha256) = &file.sha256
            && !is_sha256(sha256)
        {
            return Err(format!(
                "the sha256 of {path:?} must be 64 lower-case hex digits, not {sha256:?}"
            ));
        }
        if file.bytes == Some(0) {
            return Err(format!("the file {path:?} cannot have 0 bytes"));
        }
        if !file.is_weights() {
            let folder = folders.entry(file.component).or_insert(file.folder());
            if *folder != file.folder() {
                return Err(format!(
                    "the files of {} must lie in one folder, not in {folder:?} and {:?}",
                    file.component,
                    file.folder()
                ));
            }
        }
    }
    Ok(())
}

fn check_defaults(defaults: &Defaults) -> Result<(), String> {
    let Defaults {
        width,
        height,
        steps,
        guidance,
        scheduler,
        timestep_spacing,
    } = defaults;
    for (key, value, max) in [
        ("width", *width, MAX_PX),
        ("height", *height, MAX_PX),
        ("steps", *steps, MAX_STEPS),
    ] {
        if value == 0 || value > max {
            return Err(format!(
                "the default {key} must lie in 1…{max}, not {value}"
            ));
        }
    }
    if !guidance.is_finite() || *guidance < 0.0 {
        return Err(format!(
            "the default guidance must be a number from 0 up, not {guidance}"
        ));
    }
    if !is_word(scheduler) {
        return Err(format!(
            "the default scheduler {scheduler:?} is not a scheduler's name"
        ));
    }
    match timestep_spacing {
        Some(spacing) if !SPACINGS.contains(&spacing.as_str()) => Err(format!(
            "timestep_spacing must be one of {}, not {spacing:?}",
            SPACINGS.join(", ")
        )),
        _ => Ok(()),
    }
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.chars().all(plain) && !text.starts_with(['.', '-'])
}

pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
