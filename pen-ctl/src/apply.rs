//! `apply FILE`: sends a whole configuration, or asks what it would change.

use std::io::Read;
use std::path::Path;

use pen_common::config::ConfigForm;
use pen_common::control::BODY_BYTES_MAX;

/// The request for the words behind `apply`: its line and what follows it.
///
/// # Errors
/// There is no such file, it can't be sent, or it is not said which.
pub(crate) fn request(words: &[String], plan: bool) -> Result<String, String> {
    let [file] = words else {
        return Err(
            "apply takes one file, TOML by its name or commands: apply pen.toml".to_owned(),
        );
    };
    let text = read(file).map_err(|error| format!("can't read {file}: {error}"))?;
    if text.len() > BODY_BYTES_MAX {
        return Err(format!("{file} is longer than {BODY_BYTES_MAX} bytes"));
    }
    let is_toml = Path::new(file).extension().is_some_and(|ext| ext == "toml");
    let form = match is_toml {
        true => ConfigForm::Toml,
        false => ConfigForm::Commands,
    };
    let what = if plan { "plan" } else { "apply" };
    Ok(format!("{what} {form} {}\n{text}", text.len()))
}

/// `-` is standard input.
fn read(file: &str) -> std::io::Result<String> {
    if file != "-" {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    let mut stdin = std::io::stdin().take(BODY_BYTES_MAX as u64 + 1);
    stdin.read_to_string(&mut text)?;
    Ok(text)
}
