//! Asked and changed while it runs.

use lab::Nginx;

use crate::rig::{Pen, addresses, answerers, lab, server};

#[test]
fn servers_are_shown_in_pens_lines() {
    if !lab::ready("servers_are_shown_in_pens_lines") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let second = format!("{}:80:10:20:2:1", server(1));
    let pen = Pen::start(&lab, &["80", &server(0), &second]);
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be0"]);
    pen.wait_until_idle();
    let lines = pen.say("servers");
    let lines: Vec<&str> = lines.lines().collect();
    let first = "0 addr 10.77.0.11 port 80 conn 0 max 0 hard 0 weight 1 prio 0 sx ";
    assert!(lines[0].starts_with(first), "{lines:?}");
    let second = "1 addr 10.77.0.12 port 80 conn 0 max 10 hard 20 weight 2 prio 1 sx 0 rx 0";
    assert_eq!(lines[1], second);
    assert_eq!(
        pen.say("mode"),
        "no hash no roundrobin no stubborn no weight no prio\n"
    );
    pen.stop();
}

#[test]
fn changes_are_in_force_from_the_reply_on() {
    if !lab::ready("changes_are_in_force_from_the_reply_on") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["80", &server(0), &server(1), &server(2)]);
    assert_eq!(answerers(&lab, addresses()[0], 2), ["be0"; 2]);
    let before = pen.status().generation;
    assert!(pen.change("roundrobin") > before);
    let turns = answerers(&lab, addresses()[0], 3);
    assert_eq!(
        turns
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        3,
        "{turns:?}"
    );
    pen.change("server 1 blacklist 60");
    let turns = answerers(&lab, addresses()[0], 6);
    assert!(!turns.contains(&"be1".to_owned()), "{turns:?}");
    assert_eq!(pen.say("timeout"), "3\n");
    pen.change("timeout 7");
    assert_eq!(pen.say("timeout"), "7\n");
    let refusal = pen.ask("timeout 0").refusal.unwrap();
    assert!(refusal.contains("timeout"), "{refusal}");
    assert_eq!(pen.say("timeout"), "7\n");
    pen.stop();
}

#[test]
fn a_server_that_was_missed_can_be_readmitted_by_hand() {
    if !lab::ready("a_server_that_was_missed_can_be_readmitted_by_hand") {
        return;
    }
    let lab = lab(2);
    let _other = Nginx::start(&lab, 1, &[80]).unwrap();
    let pen = Pen::start(&lab, &["-r", "-b", "600", "80", &server(0), &server(1)]);
    assert_eq!(answerers(&lab, addresses()[0], 3), ["be1"; 3]);
    let _back = Nginx::start(&lab, 0, &[80]).unwrap();
    assert_eq!(answerers(&lab, addresses()[0], 2), ["be1"; 2]);
    pen.change("server 0 blacklist 0");
    let both = answerers(&lab, addresses()[0], 4);
    assert_eq!(
        both.iter().filter(|name| *name == "be0").count(),
        2,
        "{both:?}"
    );
    pen.stop();
}

#[test]
fn a_server_without_weight_gets_no_new_clients_whatever_chooses() {
    if !lab::ready("a_server_without_weight_gets_no_new_clients_whatever_chooses") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["-r", "80", &server(0), &server(1)]);
    pen.change("server 1 weight 0");
    assert_eq!(answerers(&lab, addresses()[0], 4), ["be0"; 4]);
    let drained = pen.service().servers.remove(1).state;
    assert_eq!(drained, pen_common::control::BackendState::Drained);
    pen.change("server 1 weight 1");
    assert!(answerers(&lab, addresses()[0], 2).contains(&"be1".to_owned()));
    // What means nothing to this service is said, and not swallowed.
    let refusal = pen.ask("head_timeout").refusal;
    assert!(refusal.is_none(), "{refusal:?}");
    let refusal = pen.ask("head_timeout 5").refusal.unwrap();
    assert!(refusal.contains("means nothing"), "{refusal}");
    pen.stop();
}

#[test]
fn exit_stops_it_where_that_is_allowed_and_answers_pens_words_where_not() {
    if !lab::ready("exit_stops_it_where_that_is_allowed_and_answers_pens_words_where_not") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["80", &server(0)]);
    assert_eq!(
        pen.say("exit"),
        "Exit is not enabled; restart with -X flag\n"
    );
    assert!(!pen.ask("exit").ok);
    for address in addresses() {
        assert_eq!(answerers(&lab, address, 1), ["be0"]);
    }
    pen.stop();
    // Raw askers hear silence, as in Pen, and those of JSON that it was done.
    for (asked, answer) in [("exit", ""), ("json exit", "{\"ok\":true,")] {
        let pen = Pen::start(&lab, &["-X", "80", &server(0)]);
        for address in addresses() {
            assert_eq!(answerers(&lab, address, 1), ["be0"]);
        }
        let said = pen.say(asked);
        assert!(said.starts_with(answer), "{said}");
        assert_eq!(said.is_empty(), answer.is_empty(), "{said}");
        pen.stopped();
    }
}
