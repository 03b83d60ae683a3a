//! As much as one process must hold, and what is said to more.

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::MapData;
use lab::{Lab, Load, Peer, Station};
use pen_common::{config::Plane, control::Status};

use crate::refuse::refused;
use crate::rig::{Pen, answerers, assert_nothing_left};

const VIPS: usize = 1_000;
const POOLS: usize = 256;
pub(crate) const BACKENDS: usize = 4_096;
const MEMORY: u64 = 256 << 20;
/// What the slots of all pools take at least: less would mean that not all maps were counted.
const SLOTS: u64 = POOLS as u64 * 65_537 * 2;
/// Parsing, tables, 4,350 neighbours and the second in which unknown ones may answer; by a parser
/// without optimisation and on a busy machine.
pub(crate) const START_BOUND: Duration = Duration::from_secs(20);
/// Back ends of the lab, each of which stands for a third of the large pool's.
const REAL: usize = 3;

/// The first is a VIP of the lab in IPv4, the last one of the lab in IPv6; the others are nobody's.
fn vips(count: usize) -> Vec<IpAddr> {
    let number = |index: usize| u16::try_from(index).unwrap();
    let other = |index: usize| {
        let [high, low] = number(index).to_be_bytes();
        match index % 2 {
            0 => Ipv4Addr::new(10, 80, high, low).into(),
            _ => Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, number(index), number(index)).into(),
        }
    };
    let mut all: Vec<IpAddr> = (1..=count).map(other).collect();
    all[0] = Station::vip(0).v4().into();
    all[count - 1] = Station::vip(1).v6().into();
    all
}

/// Address `index` of the large pool.
pub(crate) fn large(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, (index / 200) as u8, (index % 200) as u8 + 1)
}

/// VIP n goes to pool n modulo the number of pools. Pool 0 is the large one; the last VIP's pool
/// has one real back end, the others one that nobody answers for.
fn services(count: usize, pools: usize, backends: usize) -> String {
    let vips = vips(count);
    let of_last = (count - 1) % pools;
    let mut text = String::new();
    for pool in 0..pools {
        let listen: Vec<String> = vips
            .iter()
            .skip(pool)
            .step_by(pools)
            .map(|vip| format!("\"{}/udp\"", lab::host_port(*vip, 5353)))
            .collect();
        let backend: Vec<String> = match pool {
            0 => (0..backends).map(|i| format!("\"{}\"", large(i))).collect(),
            _ if pool == of_last => vec![format!("\"{}\"", Station::backend(2).v4())],
            _ => vec![format!("\"10.79.{}.{}\"", pool / 200, pool % 200 + 1)],
        };
        let (listen, backend) = (listen.join(", "), backend.join(", "));
        write!(
            text,
            "[[service]]\nname = \"s{pool}\"\nlisten = [{listen}]\n\
             [[pool]]\nname = \"s{pool}\"\nbackend = [{backend}]\n"
        )
        .unwrap();
    }
    text
}

/// A lab whose balancer has all back ends on its segment, and knows those of the large pool: each
/// address is at the MAC of one of the three that there are.
fn wide_lab() -> Lab {
    let lab = Lab::builder().backends(REAL).vips(2).build().unwrap();
    let routes = ["10.78.0.0/16", "10.79.0.0/16"];
    let mut lines: Vec<String> = routes
        .iter()
        .map(|net| format!("route add {net} dev eth0"))
        .collect();
    lines.extend((0..BACKENDS).map(|index| {
        let (address, mac) = (large(index), Station::backend(index % REAL).mac());
        format!("neigh add {address} lladdr {mac} dev eth0 nud permanent")
    }));
    lab.balancer().ip_batch(&lines).unwrap();
    lab
}

/// Bytes that the kernel charges for the maps pinned below a folder.
fn map_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let bytes = entries.map(|entry| {
        if entry.file_type().unwrap().is_dir() {
            return map_bytes(&entry.path());
        }
        // The link is pinned beside the maps, and has no such line.
        let pin = MapData::from_pin(entry.path()).ok();
        let bytes = pin.and_then(|map| {
            let descriptor = map.fd().as_fd().as_raw_fd();
            number(&format!("/proc/self/fdinfo/{descriptor}"), "memlock:")
        });
        bytes.unwrap_or_default()
    });
    bytes.sum()
}

/// The number behind a word at the beginning of a line.
fn number(file: &str, word: &str) -> Option<u64> {
    let text = fs::read_to_string(file).unwrap();
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_thousand_vips_256_pools_and_4096_back_ends() {
    if !lab::ready("a_thousand_vips_256_pools_and_4096_back_ends") {
        return;
    }
    let lab = wide_lab();
    let _echoes: Vec<Peer> = (0..REAL)
        .map(|index| Peer::udp(&lab, index, 5353).unwrap())
        .collect();
    let text = services(VIPS, POOLS, BACKENDS);
    for plane in [Plane::AfXdp, Plane::Xdp] {
        let begin = Instant::now();
        let pen = Pen::start(&lab, &format!("plane = \"{plane}\"\n"), &text);
        let took = begin.elapsed();
        // The tables, and all else that the daemon took, UMEM included.
        let maps = map_bytes(&lab.bpffs().join("pen"));
        let file = format!("/proc/{}/status", pen.process.id());
        let own = 1024 * number(&file, "RssAnon:").unwrap();
        println!("{plane}: started in {took:?}, maps {maps} bytes, daemon {own} bytes");
        assert!(took < START_BOUND, "{plane}: {took:?}");
        assert!(
            maps > SLOTS && maps + own <= MEMORY,
            "{plane}: {maps} + {own}"
        );
        let status = pen.status();
        let largest = &status.dsr().pools[0].backends;
        assert_eq!(
            (
                status.dsr().vips.len(),
                status.dsr().pools.len(),
                largest.len()
            ),
            (VIPS, POOLS, BACKENDS)
        );
        // 65,537 slots are 16 for each back end.
        assert!(largest.iter().all(|b| b.slots >= 15), "{plane}");
        assert_first_and_last(&lab, &pen, plane);
        pen.stop(&lab, lab.balancer());
    }
}

/// Flows to the first VIP are answered by the machine of the very back end that counted them,
/// flows to the last one by its pool's only one.
fn assert_first_and_last(lab: &Lab, pen: &Pen, plane: Plane) {
    let all = vips(VIPS);
    for port in 20_000..20_004 {
        let before = pen.status();
        let name = &answerers(lab, all[0], port..port + 1)[0];
        let chosen = counted(&before, &pen.status(), 0);
        assert_eq!(chosen.len(), 1, "{plane}, port {port}: {chosen:?}");
        let machine = format!("be{}", chosen[0] % REAL);
        assert_eq!(*name, machine, "{plane}, port {port}: {chosen:?}");
    }
    let (before, pool) = (pen.status(), (VIPS - 1) % POOLS);
    for (vip, names) in [(all[0], 3), (all[VIPS - 1], 1)] {
        let load = Load {
            to: SocketAddr::new(vip, 5353),
            flows: 60,
            count: 600,
            rate: 2000,
            tcp: false,
        };
        let tally = load.run(lab.client()).unwrap();
        assert_eq!((tally.answered, tally.strayed), (600, 0), "{plane} {vip}");
        assert_eq!(tally.by_backend.len(), names, "{plane} {vip}: {tally:?}");
        assert!(names > 1 || tally.by_backend.contains_key("be2"));
    }
    let after = pen.status();
    let busy = counted(&before, &after, 0).len();
    assert!(busy > 45, "60 flows went to {busy} of 4,096 back ends");
    assert_eq!(counted(&before, &after, pool), [0], "{plane}");
    assert_eq!(after.dsr().plane.actual, plane);
    let (forwarded, redirected) = (pen.count("forwarded"), pen.count("redirected"));
    let by_workers = if plane == Plane::AfXdp { forwarded } else { 0 };
    assert!(forwarded >= 1204, "{plane}: {forwarded}");
    assert_eq!(redirected, by_workers, "{plane}");
}

/// The back ends of a pool that were sent something in between.
fn counted(before: &Status, after: &Status, pool: usize) -> Vec<usize> {
    let pairs = before.dsr().pools[pool]
        .backends
        .iter()
        .zip(&after.dsr().pools[pool].backends);
    pairs
        .filter(|(before, after)| after.frames > before.frames)
        .map(|(_, after)| after.index)
        .collect()
}

#[test]
fn one_more_than_there_may_be_is_refused_by_name() {
    if !lab::ready("one_more_than_there_may_be_is_refused_by_name") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    for (vips, pools, backends, said) in [
        (4_097, 16, 1, "4097 VIPs are more than 4096"),
        (VIPS, POOLS + 1, 1, "257 pools are more than 256"),
        (VIPS, 16, 4_097, "4097 back ends are more than 4096"),
    ] {
        let file = lab.folder().join("too-much.toml");
        let text = services(vips, pools, backends);
        fs::write(
            &file,
            format!("interface = \"eth0\"\nforeground = true\n{text}"),
        )
        .unwrap();
        let (code, output) = refused(&lab, &["--config", file.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{output}");
        assert!(output.contains(said), "{output}");
        assert_nothing_left(&lab, lab.balancer());
    }
}
