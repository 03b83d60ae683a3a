//! What the program writes, as readers and shells take it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command, Output},
};

use pen_common::config::documented;

/// A folder with all of it, removed with this.
struct Written(PathBuf);

impl Written {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("pen-manual-{name}-{}", process::id()));
        let output = run(env!("CARGO_BIN_EXE_manual"), &[&folder]);
        assert!(output.status.success(), "{output:?}");
        Self(folder)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn run(program: &str, words: &[&Path]) -> Output {
    let output = Command::new(program).args(words).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// With CI=true what is not installed is a failure.
fn installed(program: &str) -> bool {
    let found = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join(program).is_file());
    assert!(
        found || env::var("CI").as_deref() != Ok("true"),
        "{program} is missing: packaging/setup.sh test installs it"
    );
    found
}

/// mandoc and groff disagree on what is a fault; neither may find one.
#[test]
fn readers_find_no_fault_in_the_pages() {
    let written = Written::new("faults");
    for name in ["pen.1", "penctl.1", "pen.toml.5"] {
        let page = written.0.join(name);
        if installed("mandoc") {
            let output = run("mandoc", &["-Tlint".as_ref(), "-Wwarning".as_ref(), &page]);
            assert!(output.status.success(), "{name}: {output:?}");
        }
        if installed("groff") {
            let words = ["-man", "-ww", "-z", "-Tutf8"].map(Path::new);
            let output = run("groff", &[&words[..], &[&page]].concat());
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{name}: {said}");
        }
    }
}

/// As a reader sees it, in one line.
fn shown(written: &Written, name: &str) -> String {
    let page = written.0.join(name);
    let words = ["-Tascii", "-Owidth=1000"].map(Path::new);
    let output = run("mandoc", &[&words[..], &[&page]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    // A bold letter is struck twice.
    let mut plain = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letters.peek() == Some(&'\u{8}') {
            letters.next();
        } else {
            plain.push(letter);
        }
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_flag_and_every_key_is_told() {
    let written = Written::new("told");
    if !installed("mandoc") {
        return;
    }
    let pen = shown(&written, "pen.1");
    let command = pen::cli::command();
    for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
        let help = argument.get_help().unwrap().to_string();
        if let Some(long) = argument.get_long() {
            assert!(pen.contains(&format!("--{long}")), "{long} in {pen}");
        }
        // Defaults stand on a line of their own there.
        let begin: String = help.chars().take(20).collect();
        assert!(pen.contains(begin.trim()), "{help:?} in {pen}");
    }
    assert!(pen.contains("pen -H -O \"redirect https\" 80"), "{pen}");
    let penctl = shown(&written, "penctl.1");
    for word in ["--json", "--service", "blacklist T", "Exit status: 0"] {
        assert!(penctl.contains(word), "{word} in {penctl}");
    }
    let toml = shown(&written, "pen.toml.5");
    for (table, keys) in documented() {
        for (key, help) in keys {
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            let told = format!("{key} {help}");
            assert!(toml.contains(&told), "{table}: {told:?} in {toml}");
        }
    }
}

#[test]
fn shells_take_the_completions() {
    let written = Written::new("shells");
    let script = "source \"$0\"/pen.bash; source \"$0\"/penctl.bash; COMP_WORDS=(pen --print); \
                  COMP_CWORD=1; _pen pen --print pen; echo \"${COMPREPLY[@]}\"; complete -p pen penctl";
    let output = run("bash", &["-c".as_ref(), script.as_ref(), &written.0]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert!(said.starts_with("--print-config\n"), "{said}");
    assert!(
        said.contains(" pen\n") && said.contains(" penctl\n"),
        "{said}"
    );
    assert!(written.text("_pen").starts_with("#compdef pen\n"));
    assert!(written.text("pen.fish").contains("-l print-config"));
}
