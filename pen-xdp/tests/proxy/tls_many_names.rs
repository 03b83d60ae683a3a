//! Ten thousand certificates by name, all of them renewed while clients shake hands.

use std::fs;
use std::time::{Duration, Instant};

use lab::Nginx;

use crate::{
    authority::{Authority, Wish},
    python,
    rig::lab,
    tls_names::{folder, start, subject},
};

const NAMES: usize = 10_000;
/// Within this the last of them is served anew, on a machine that has other work as well.
const EFFECT: Duration = Duration::from_secs(30);

/// Handshakes for any of the names until a file is there, and then until a hundred in a row got the
/// new certificate: a look that began before all files were new sees some of them. Who fails ends it;
/// whether all got one of both before.
const ASKING: &str = "import ssl, os, random\n\
     x = ssl.create_default_context(cafile=CA); x.check_hostname = False\n\
     def ask():\n\
     \x20with x.wrap_socket(connect(), server_hostname=f'n{random.randrange(NAMES)}.test') as c:\n\
     \x20 return dict(f[0] for f in c.getpeercert()['subject'])['commonName']\n\
     print('ready', flush=True)\n\
     seen = []\n\
     while not os.path.exists(END): seen.append(ask())\n\
     after = 0\n\
     while after < 100: after = after + 1 if ask() == 'new' else 0\n\
     print('got', 'old' in seen and set(seen) <= {'old', 'new'}, flush=True)\n";

#[test]
fn ten_thousand_names_are_renewed_under_load() {
    if !lab::ready("ten_thousand_names_are_renewed_under_load") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    for name in ["old", "new"] {
        authority.issue(Wish::of(name, "n.test"));
    }
    let fill = |which: &str| {
        let bytes = fs::read(authority.file(which, "pem")).unwrap();
        for number in 0..NAMES {
            let place = folder.join(format!("n{number}.test.pem"));
            let beside = folder.join("new");
            fs::write(&beside, &bytes).unwrap();
            fs::rename(beside, place).unwrap();
        }
    };
    fill("old");
    let pen = start(&lab, &authority, &folder);
    let status = || pen.service().certificates.unwrap();
    assert!(status().names >= NAMES, "{:?}", status());
    let end = lab.folder().join("end");
    let ca = authority.ca();
    let known = format!("CA = {ca:?}\nNAMES = {NAMES}\nEND = {end:?}\n");
    let asking = python::start_client(&lab, &format!("{known}{ASKING}"));

    fill("new");
    let begun = Instant::now();
    let last = format!("n{}.test", NAMES - 1);
    while subject(&lab, &last, &[]) != "new" {
        assert!(begun.elapsed() < EFFECT, "{last} is not served anew");
    }
    fs::write(&end, "").unwrap();
    let line = asking.wait_for_line("got", EFFECT).unwrap();
    assert_eq!(line, "got True");
    assert_eq!(status().in_trouble, 0);
    pen.wait_until_idle();
    pen.stop();
}
