//! The command line of `penctl`, which its manual is made of, too.

use std::path::PathBuf;

use clap::Parser;

const EXAMPLES: &str = "\
Commands:
  status                     everything: plane, VIPs, back ends, queues, counters
  servers                    back ends, in the line format that scripts know
  counters                   every reason for which a frame was not forwarded
  connections                everybody who is connected to a proxy: server, bytes, stage
  connection N               one of them, by its number there
  close N                    ends it
  recent [N]                 clients of a proxy in the last N (300) seconds, in Pen's lines
  server N|NAME weight W     0 takes no new flows
  server N|NAME blacklist T  no new flows for T seconds; 0 ends it
  ocsp                       certificates that name who answers by OCSP whether they are good
  ocsp-fetch                 ask them all and put the answers where they are stapled from
  ocsp-check CERT ANSWER     whether the answer in a file would be stapled
  service                    services: name, mode, servers, where they listen
  server add HOST:PORT       one server more, behind those that are there
  server remove N|NAME       one less; its connections go on, in DSR its flows move
  server drain N|NAME        no new flows or clients; undrain ends it
  apply FILE [--plan]        put a configuration (TOML or commands) in force, whole or not at all;
                             with --plan, only tell what it would change
  reload                     read the configuration again and make it so, as SIGHUP
  config show|diff|save      the configuration in force: as TOML; against what is written; to a file
  stop                       stop pen, and forward nothing any more
  resolve                    look all host names of back ends up at once
  roundrobin, no roundrobin  choose by the whole flow, or by the client's address
  mode, pid, listen, control, debug [N]

Exit status: 0 done, 2 refused (the reason is on standard error), 3 no such daemon.";

/// Shows and changes a running pen.
#[derive(Clone, Debug, Parser)]
#[command(name = "penctl", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// Print the answer as one JSON object.
    #[arg(long)]
    pub json: bool,

    /// With apply: tell what would change, and change nothing.
    #[arg(long)]
    pub plan: bool,

    /// Which service is meant, where there are several.
    #[arg(short, long, value_name = "NAME")]
    pub service: Option<String>,

    /// Where pen is asked (its -C): path of the control socket, PORT on this host, or HOST:PORT.
    pub socket: PathBuf,

    /// The command and its arguments.
    #[arg(required = true)]
    pub command: Vec<String>,
}
