//! One look-up: of name servers, which say how long their answer holds, or of whatever else this
//! host knows names by.
//!
//! A name in `/etc/hosts`, and one that name servers do not know, are for getaddrinfo, which knows
//! all the sources in `/etc/nsswitch.conf`. Both files and `/etc/resolv.conf` are read each time:
//! they change while Pen runs.

use std::net::{IpAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::task::spawn_blocking;

use super::pace::Answer;

/// How long an answer holds that does not say so.
const HOLDS: Duration = Duration::from_secs(30);

/// What name servers say of one family.
enum Family {
    /// Addresses, and how long they hold.
    Has(Vec<IpAddr>, Duration),
    /// There are none.
    Nothing,
    /// Who knows.
    Failed(String),
}

/// Looks a name up. `before`: what it stood for so far, of which a family stays what it was that
/// can't be looked up this time.
///
/// # Errors
/// Why there is no answer, in a few words.
pub(super) async fn look_up(name: &str, before: &[IpAddr]) -> Result<Answer, String> {
    let Some(resolver) = resolver(name).await else {
        return by_host(name).await;
    };
    let (v4, v6) = tokio::join!(
        family(&resolver, name, RecordType::A),
        family(&resolver, name, RecordType::AAAA)
    );
    if let (Family::Nothing, Family::Nothing) = (&v4, &v6) {
        return by_host(name).await;
    }
    join(v4, v6, before)
}

/// A resolver by `/etc/resolv.conf`; `None` if name servers are not to be asked for this name.
async fn resolver(name: &str) -> Option<TokioResolver> {
    let name = Name::from_utf8(name).ok()?;
    let read = spawn_blocking(move || {
        let hosts = Hosts::from_system().unwrap_or_default();
        let known = [RecordType::A, RecordType::AAAA].into_iter().any(|family| {
            let query = Query::query(name.clone(), family);
            hosts.lookup_static_host(&query).is_some()
        });
        let mut builder = TokioResolver::builder_tokio().ok().filter(|_| !known)?;
        let options = builder.options_mut();
        // An answer is asked for when the last one holds no more.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        Some(builder)
    });
    read.await.ok().flatten()?.build().ok()
}

async fn family(resolver: &TokioResolver, name: &str, kind: RecordType) -> Family {
    match resolver.lookup(name, kind).await {
        Ok(found) => {
            let holds = found
                .valid_until()
                .saturating_duration_since(Instant::now());
            let answers = found.answers().iter();
            let addresses: Vec<IpAddr> = answers.filter_map(|r| r.data.ip_addr()).collect();
            match addresses.is_empty() {
                true => Family::Nothing,
                false => Family::Has(addresses, holds),
            }
        }
        Err(why) if is_negative(&why) => Family::Nothing,
        Err(why) => Family::Failed(format!("{kind}: {why}")),
    }
}

/// Whether a name server said that there is nothing, rather than nothing at all.
fn is_negative(why: &NetError) -> bool {
    why.is_nx_domain() || why.is_no_records_found()
}

fn join(v4: Family, v6: Family, before: &[IpAddr]) -> Result<Answer, String> {
    let mut answer = Answer {
        addresses: Vec::new(),
        holds: Duration::MAX,
        lacks: None,
    };
    let mut heard = false;
    for (family, is_v4) in [(v4, true), (v6, false)] {
        match family {
            Family::Has(addresses, holds) => {
                heard = true;
                answer.addresses.extend(addresses);
                answer.holds = answer.holds.min(holds);
            }
            Family::Nothing => {}
            Family::Failed(why) => {
                let kept = before.iter().filter(|address| address.is_ipv4() == is_v4);
                answer.addresses.extend(kept);
                answer.lacks = Some(why);
            }
        }
    }
    match (heard, answer.lacks.take()) {
        (false, Some(why)) => Err(why),
        (_, lacks) => Ok(Answer { lacks, ..answer }),
    }
}

/// By getaddrinfo, which waits for whatever it asks, and has a thread of its own for that.
async fn by_host(name: &str) -> Result<Answer, String> {
    let name = name.to_owned();
    let found = spawn_blocking(move || (name.as_str(), 0).to_socket_addrs()).await;
    let found = found.map_err(|why| why.to_string())?;
    let found = found.map_err(|why| why.to_string())?;
    Ok(Answer {
        addresses: found.map(|socket| socket.ip()).collect(),
        holds: HOLDS,
        lacks: None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    fn has(address: &str, seconds: u64) -> Family {
        Family::Has(vec![address.parse().unwrap()], Duration::from_secs(seconds))
    }

    #[test]
    fn both_families_make_one_answer_that_holds_as_long_as_the_shorter_one() {
        let answer = join(has("10.0.0.1", 9), has("2001:db8::1", 5), &[]).unwrap();
        assert_eq!((answer.addresses.len(), answer.holds.as_secs()), (2, 5));
        assert_eq!(answer.lacks, None);
        let answer = join(has("10.0.0.1", 9), Family::Nothing, &[]).unwrap();
        assert_eq!((answer.addresses.len(), answer.holds.as_secs()), (1, 9));
    }

    #[test]
    fn a_family_that_is_not_heard_of_stays_what_it_was() {
        let before = ["10.0.0.7", "2001:db8::7"].map(|text| text.parse().unwrap());
        let lost = || Family::Failed("A: no answer".to_owned());
        let answer = join(lost(), has("2001:db8::1", 5), &before).unwrap();
        let expected = ["10.0.0.7", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(answer.addresses, expected);
        assert_eq!(answer.lacks.unwrap(), "A: no answer");
        // That the name has none of the other family is no answer to go by.
        assert!(join(lost(), Family::Nothing, &before).is_err());
    }

    #[tokio::test]
    async fn this_host_is_known_without_any_name_server() {
        let answer = look_up("localhost", &[]).await.unwrap();
        assert!(
            answer.addresses.iter().all(IpAddr::is_loopback),
            "{answer:?}"
        );
        assert_eq!(answer.holds, HOLDS);
    }
}
