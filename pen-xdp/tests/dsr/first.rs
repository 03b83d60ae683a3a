//! The first service in DSR of a running Pen, and the last one that goes.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use lab::{Lab, Load, Nginx, Peer, Station, attach_foreign, fetch};
use pen_common::control::Plan;

use crate::{
    rig::{Pen, assert_nothing_left, service},
    user::SMALL,
};

const UDP: &[&str] = &["5353/udp"];
const LIMIT: Duration = Duration::from_secs(30);

/// A service of the proxy that listens on this port.
fn proxy(port: u16) -> String {
    format!(
        "[[service]]\nname = \"proxy\"\nmode = \"http\"\nlisten = \"{}:{port}\"\n\
         [[pool]]\nname = \"proxy\"\nbackend = [\"{}:80\"]\n",
        Station::balancer(0).v4(),
        Station::backend(0).v4()
    )
}

fn file(lab: &Lab) -> PathBuf {
    lab.folder().join("pen0").join("pen.toml")
}

/// Writes the file anew: what stands at its top besides the places of this test, and services.
fn write(lab: &Lab, top: &str, services: &str) {
    let path = file(lab);
    let text = fs::read_to_string(&path).unwrap();
    let places = ["foreground", "control", "pid_file", "bpffs", "run_dir"];
    let kept = text.lines().filter(|line| {
        let name = line.split(" = ").next().unwrap();
        places.contains(&name)
    });
    let kept: Vec<_> = kept.collect();
    fs::write(&path, format!("{}\n{top}{services}", kept.join("\n"))).unwrap();
}

fn in_dsr_all_answer(lab: &Lab) {
    for vip in lab.vips() {
        let load = Load {
            to: SocketAddr::new(vip, 5353),
            flows: 40,
            count: 400,
            rate: 1000,
            tcp: false,
        };
        let tally = load.run(lab.client()).unwrap();
        let seen = (tally.answered, tally.strayed, tally.by_backend.len());
        assert_eq!(seen, (400, 0, 2), "{vip}: {tally:?}");
    }
}

fn the_proxy_answers(lab: &Lab, port: u16) {
    let page = fetch(lab.client(), Station::balancer(0).v4().into(), port, "/").unwrap();
    assert!(page.starts_with("be0"), "{page}");
}

fn no_neighbors_of_ours(lab: &Lab) {
    let left = lab.balancer().ip("neigh show proto 80").unwrap().stdout;
    assert_eq!(left, "");
}

#[test]
fn the_first_service_in_dsr_begins_and_the_last_one_ends_while_pen_runs() {
    if !lab::ready("the_first_service_in_dsr_begins_and_the_last_one_ends_while_pen_runs") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let _echoes: Vec<Peer> = (0..2)
        .map(|index| Peer::udp(&lab, index, 5353).unwrap())
        .collect();
    let pen = Pen::start(&lab, "", &proxy(81));
    write(&lab, "", &proxy(81));
    pen.change("reload");
    the_proxy_answers(&lab, 81);
    assert_nothing_left(&lab, lab.balancer());

    // What can't be had leaves everything as it was.
    let both = |port| proxy(port) + &service(&lab, UDP, 2);
    let taken = format!("{}:82", Station::balancer(0).v4());
    let script = format!(
        "import socket; s = socket.create_server(('{}', 82)); print('ready', flush=True); \
         s.accept()",
        Station::balancer(0).v4()
    );
    let holder = lab.balancer().spawn("python3", ["-c", &script]).unwrap();
    holder.wait_for_line("ready", LIMIT).unwrap();
    for (top, port, why) in [
        ("interface = \"eth0\"\n", 82, taken.as_str()),
        ("interface = \"nosuch\"\n", 81, "nosuch"),
    ] {
        write(&lab, top, &both(port));
        let refusal = pen.ask("reload").refusal.unwrap_or_default();
        assert!(refusal.contains(why), "{top}: {refusal}");
        assert_nothing_left(&lab, lab.balancer());
        no_neighbors_of_ours(&lab);
        the_proxy_answers(&lab, 81);
    }

    // Nor does what fails last, at the interface itself.
    attach_foreign(lab.balancer(), "eth0").unwrap();
    write(&lab, "interface = \"eth0\"\n", &both(81));
    let refusal = pen.ask("reload").refusal.unwrap();
    assert!(refusal.contains("lab_pass"), "{refusal}");
    no_neighbors_of_ours(&lab);
    lab.balancer().ip("link set eth0 xdp off").unwrap();
    assert_nothing_left(&lab, lab.balancer());
    // What it would come to is told before.
    let text = fs::read_to_string(file(&lab)).unwrap();
    let plan = pen.ask(&format!("plan toml {}\n{text}", text.len()));
    let plan: Plan = serde_json::from_value(plan.value.unwrap()).unwrap();
    assert_eq!(plan.opens.len(), lab.vips().count(), "{plan:?}");

    // One client of the proxy's stays connected over all that comes and goes.
    let script = format!(
        "import http.client, time\n\
         c = http.client.HTTPConnection('{}', 81); c.connect(); s = c.sock\n\
         print('ready', flush=True)\n\
         for n in range(150):\n\
         \x20 c.request('GET', '/'); assert c.getresponse().read(); assert c.sock is s\n\
         \x20 time.sleep(0.1)\n\
         print('stayed', flush=True)\n",
        Station::balancer(0).v4()
    );
    let client = lab.client().spawn("python3", ["-c", &script]).unwrap();
    client.wait_for_line("ready", LIMIT).unwrap();
    for plane in ["af_xdp", "xdp", "af_packet"] {
        let top = format!("interface = \"eth0\"\nplane = \"{plane}\"\n");
        write(&lab, &top, &both(81));
        let before = pen.status().generation;
        assert!(pen.change("reload") > before);
        assert_eq!(pen.status().dsr().plane.actual.to_string(), plane);
        in_dsr_all_answer(&lab);
        let generation = pen.change("-s web server 1 weight 2");
        assert!(generation > before);
        in_dsr_all_answer(&lab);
        // From now on the interface is what it is.
        write(&lab, "interface = \"lo\"\n", &both(81));
        let refusal = pen.ask("reload").refusal.unwrap();
        assert!(refusal.contains("interface"), "{refusal}");
        // With the last service goes all that is about it.
        write(&lab, "", &proxy(81));
        assert!(pen.change("reload") > generation);
        assert_nothing_left(&lab, lab.balancer());
        no_neighbors_of_ours(&lab);
    }
    client.wait_for_line("stayed", LIMIT).unwrap();
    write(&lab, "interface = \"eth0\"\n", &both(81));
    pen.change("reload");
    in_dsr_all_answer(&lab);
    pen.stop(&lab, lab.balancer());
}

/// Who serves was confined to what a proxy needs.
#[test]
fn as_another_user_the_first_service_in_dsr_wants_a_restart() {
    if !lab::ready("as_another_user_the_first_service_in_dsr_wants_a_restart") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let pen = Pen::start(&lab, "user = \"nobody\"\n", &proxy(81));
    write(
        &lab,
        &format!("interface = \"eth0\"\n{SMALL}"),
        &(proxy(81) + &service(&lab, UDP, 2)),
    );
    let refusal = pen.ask("reload").refusal.unwrap();
    assert!(refusal.contains("as another user: restart it"), "{refusal}");
    pen.stop(&lab, lab.balancer());
}
