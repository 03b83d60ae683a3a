//! What can't be served is refused in one sentence, and nothing is left behind.

use std::time::Duration;

use crate::rig::{Pen, lab, server};

fn refused(lab: &lab::Lab, words: &[&str]) -> String {
    let words = ["-f"].iter().chain(words);
    let output = lab
        .balancer()
        .run_for(Duration::from_secs(10), env!("CARGO_BIN_EXE_pen"), words)
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", output.text());
    output.text()
}

#[test]
fn a_place_that_somebody_has_is_not_shared_in_silence() {
    if !lab::ready("a_place_that_somebody_has_is_not_shared_in_silence") {
        return;
    }
    let lab = lab(1);
    let pen = Pen::start(&lab, &["80", &server(0)]);
    for listen in ["80", "0.0.0.0:80", "[::]:80"] {
        let text = refused(&lab, &[listen, &server(0)]);
        assert!(
            text.contains("in use") && text.contains("ss -ltnp"),
            "{text}"
        );
    }
    let text = refused(&lab, &["10.77.0.250:80", &server(0)]);
    assert!(
        text.contains("10.77.0.250:80") && text.contains("no interface"),
        "{text}"
    );
    pen.stop();
}

#[test]
fn a_path_that_is_no_socket_stays_what_it_is() {
    if !lab::ready("a_path_that_is_no_socket_stays_what_it_is") {
        return;
    }
    let lab = lab(1);
    let file = lab.folder().join("precious");
    std::fs::write(&file, "text").unwrap();
    let text = refused(&lab, &[file.to_str().unwrap(), "10.77.0.11:80"]);
    assert!(text.contains("something else has that name"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
}
