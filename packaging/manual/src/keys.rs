//! pen.toml(5): every key of a configuration file.

use anyhow::Result;
use pen_common::config::documented;
use roff::roman;

use crate::page::{as_it_stands, term, title};

const ABOUT: &str = "The file that pen --config reads: services, who listens where for them, and \
                     pools of back ends. `pen --check --config FILE` says what is wrong with one, and \
                     `pen --print-config toml ...` writes one from a command line or from Pen's \
                     commands. Most keys are commands of the same names, too (pen -O, penctl(1)).";

const EXAMPLE: &str = r#"control = "/run/pen/control"

[[service]]
name = "web"
mode = "http"
listen = "80"

[[pool]]
name = "web"
backend = ["192.0.2.11:8080", { name = "big", address = "192.0.2.12:8080", weight = 3 }]"#;

/// The page, in section 5.
///
/// # Errors
/// It can't be put together.
pub(crate) fn page() -> Result<Vec<u8>> {
    let mut page = title("pen.toml", "5");
    page.control("SH", ["NAME"]);
    page.text([roman("pen.toml - what pen serves")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(ABOUT)]);
    for (table, keys) in documented() {
        let heading = match table {
            "" => "KEYS OF THE TOP LEVEL".to_owned(),
            "pool.backend" => "KEYS OF A BACK END".to_owned(),
            table => format!("KEYS OF [[{table}]]"),
        };
        page.control("SH", [heading.as_str()]);
        for (key, help) in keys {
            term(&mut page, key, help);
        }
    }
    page.control("SH", ["EXAMPLE"]);
    as_it_stands(&mut page, EXAMPLE);
    page.control("SH", ["FILES"]);
    term(
        &mut page,
        "/etc/pen/pen.toml",
        "what the unit pen.service serves",
    );
    term(
        &mut page,
        "/etc/pen/NAME.toml",
        "what pen@NAME.service serves",
    );
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("pen(1), penctl(1)")]);
    let mut text = Vec::new();
    page.to_writer(&mut text)?;
    Ok(text)
}
