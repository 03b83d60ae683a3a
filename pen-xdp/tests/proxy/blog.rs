//! What Pen's author published in 2015 for HTTPS, run as he wrote it: the file for A+, the folder of
//! names, the cron job for the OCSP answer, and the line of the systemd unit. Paths alone are a
//! test's own, and `nobody` stands for the user `pen`.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use lab::{Lab, Nginx, Station};

use crate::{
    authority::{Authority, Wish},
    rig::{lab, say, server, wait_for},
};

const UNIT: &str = "[Unit]\nDescription=Pen load balancer (https)\n[Service]\n\
    ExecStart=/usr/local/bin/pen -u pen -C /var/run/pen/https.ctl -F /etc/pen/https.cfg \
    -p /var/run/pen/https.pid -K /etc/pen/your.domain.key -E /etc/pen/your.domain.crt \
    -G /etc/pen/intermediate.crt -S 2 443 SERVER\n";

const HTTPS_CFG: &str = "ssl_option no_sslv2\nssl_option no_sslv3\nssl_option no_tlsv1\n\
    ssl_option no_tlsv1.1\nssl_option cipher_server_preference\n\
    ssl_ciphers ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-SHA384\n\
    ssl_sni_path /etc/pen/sni\n";

/// `/etc/pen` and `/var/run/pen` of the test's own; the second is the user's.
fn folders(lab: &Lab) -> [PathBuf; 2] {
    let all = ["etc", "run"].map(|name| lab.folder().join(name));
    for folder in &all {
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    lab.balancer()
        .run_ok("chown", ["nobody", all[1].to_str().unwrap()])
        .unwrap();
    all
}

/// What openssl sees at the port that everybody knows.
fn seen(lab: &Lab, more: &str) -> String {
    let to = format!("{}:443", Station::balancer(0).v4());
    let script = format!("echo | openssl s_client -connect {to} {more} 2>&1");
    let output = lab.client().run("sh", ["-c", &script]).unwrap();
    output.stdout
}

#[test]
fn the_files_and_the_unit_of_his_blog_do_what_he_says() {
    if !lab::ready("the_files_and_the_unit_of_his_blog_do_what_he_says") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let [etc, run] = folders(&lab);
    let own = |text: &str| {
        text.replace("/etc/pen", etc.to_str().unwrap())
            .replace("/var/run/pen", run.to_str().unwrap())
            .replace("/usr/local/bin/pen", env!("CARGO_BIN_EXE_pen"))
            .replace("-u pen", "-u nobody")
            .replace("SERVER", &format!("{}:80", server(0)))
    };
    let authority = Authority::new(&lab);
    let rsa = &["rsa:2048"];
    for subject in ["your.domain", "www.other.test"] {
        authority.issue(Wish {
            kind: rsa,
            responder: Some("http://10.77.0.1:8080/"),
            ..Wish::of(subject, subject)
        });
        authority.enter(subject, "V");
    }
    let place = |subject: &str, ending: &str, to: &str| {
        fs::copy(authority.file(subject, ending), etc.join(to)).unwrap();
    };
    for ending in ["key", "crt"] {
        place("your.domain", ending, &format!("your.domain.{ending}"));
    }
    fs::set_permissions(
        etc.join("your.domain.key"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    fs::copy(authority.ca(), etc.join("intermediate.crt")).unwrap();
    fs::write(etc.join("https.cfg"), own(HTTPS_CFG)).unwrap();
    // NAME.key, NAME.crt and NAME.ca.
    fs::create_dir(etc.join("sni")).unwrap();
    for ending in ["key", "crt"] {
        place(
            "www.other.test",
            ending,
            &format!("sni/www.other.test.{ending}"),
        );
    }
    fs::copy(authority.ca(), etc.join("sni/www.other.test.ca")).unwrap();

    // The unit's line returns when it serves.
    let unit = own(UNIT);
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    let mut words = line.split_whitespace();
    let started = lab.balancer().run(words.next().unwrap(), words).unwrap();
    assert!(started.ok(), "{}", started.text());
    let pid = fs::read_to_string(run.join("https.pid")).unwrap();
    let control = run.join("https.ctl");

    let ca = authority.ca();
    let good = |text: &str, subject: &str| {
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains(&format!("subject=CN = {subject}")), "{text}");
    };
    let name = |name: &str| format!("-CAfile {ca} -servername {name} -verify_hostname {name}");
    good(&seen(&lab, &name("your.domain")), "your.domain");
    good(&seen(&lab, &name("www.other.test")), "www.other.test");
    good(
        &seen(&lab, &format!("{} -tls1_2", name("your.domain"))),
        "your.domain",
    );
    let old = seen(
        &lab,
        &format!("{} -tls1_1 -cipher DEFAULT@SECLEVEL=0", name("your.domain")),
    );
    assert!(old.contains("no peer certificate available"), "{old}");
    let page = lab.client().run_ok(
        "curl",
        ["-sk", &format!("https://{}/", Station::balancer(0).v4())],
    );
    assert!(page.unwrap().stdout.starts_with("be0"));

    // The cron job: a fresh answer into the file, and Pen is told by its old command.
    let stapled = || seen(&lab, &format!("{} -status", name("your.domain")));
    assert!(stapled().contains("OCSP response: no response sent"));
    let answer = etc.join("your.domain.ocsp");
    authority.answer("your.domain", &answer);
    let said = say(&control, &format!("ssl_ocsp_response {}", answer.display()));
    assert_eq!(said, "");
    let text = stapled();
    assert!(text.contains("Cert Status: good"), "{text}");

    lab.balancer().run_ok("kill", [pid.trim()]).unwrap();
    wait_for("its end", || {
        !control.exists() && !run.join("https.pid").exists()
    });
}
