//! `darkroom inspect`: how an image was made.

use std::path::PathBuf;

use crate::error::Error;
use crate::image_file::{PARAMETERS_KEY, RECEIPT_KEY, Receipt, png_texts, read, text_of};
use serde_json::Value;

use super::stdout;

/// What was typed.
#[derive(clap::Args)]
pub struct Args {
    /// A PNG file
    file: PathBuf,

    /// Print the receipt as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the receipt; of another program's PNG, the text that image generators share.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let wrong = |problem: String| Error::file(&args.file, problem);
    let texts = png_texts(&read(&args.file)?).map_err(wrong)?;
    let parameters = text_of(&texts, PARAMETERS_KEY);
    let Some(json) = text_of(&texts, RECEIPT_KEY) else {
        return match parameters {
            Some(text) if !args.json => stdout::line(text),
            Some(_) => Err(wrong(format!(
                "holds no receipt of darkroom, only the text `{PARAMETERS_KEY}` of another program; \
                 without --json it is shown"
            )))?,
            None => Err(wrong(
                "holds no receipt of darkroom: another program wrote it, or its texts were removed"
                    .into(),
            ))?,
        };
    };
    let receipt = Receipt::parse(json).map_err(wrong)?;
    match args.json {
        true => stdout::json(&receipt),
        false => stdout::line(table(&receipt)?),
    }
}

/// Name and value, one a line; what was not asked for is left out.
fn table(receipt: &Receipt) -> anyhow::Result<String> {
    let mut lines = vec![format!(
        "darkroom {} on {}",
        receipt.version, receipt.device
    )];
    rows(&serde_json::to_value(&receipt.request)?, "", &mut lines);
    if let Some(fingerprint) = &receipt.model_fingerprint {
        lines.push(format!("{:24} {fingerprint}", "model_fingerprint"));
    }
    if let Some(latents) = &receipt.latents {
        rows(&serde_json::to_value(latents)?, "latents.", &mut lines);
    }
    Ok(lines.join("\n"))
}

fn rows(value: &Value, prefix: &str, lines: &mut Vec<String>) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let name = format!("{prefix}{name}");
        match value {
            Value::Null => {}
            Value::Object(_) => rows(value, &format!("{name}."), lines),
            Value::String(text) => lines.push(format!("{name:24} {text}")),
            other => lines.push(format!("{name:24} {other}")),
        }
    }
}
