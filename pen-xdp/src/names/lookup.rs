//! One look-up: of name servers, which say how long their answer holds, or of whatever else this
//! host knows names by.
//!
//! A name in `/etc/hosts`, and one that name servers do not know, are for getaddrinfo, which knows
//! all the sources in `/etc/nsswitch.conf`. Both files and `/etc/resolv.conf` are read each time:
//! they change while Pen runs.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use super::pace::Answer;

/// How long an answer holds that does not say so.
const HOLDS: Duration = Duration::from_secs(30);

/// How long name servers are waited for, all of them and all names of the search list together.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let Some((resolver, names)) = resolver(name).await else {
        return by_host(name).await;
    };
    let end = Instant::now() + PATIENCE;
    let resolver = &resolver;
    let ask = |name: Name| async move {
        let of = |kind| in_time(end, kind, family(resolver, name.clone(), kind));
        tokio::join!(of(RecordType::A), of(RecordType::AAAA))
    };
    match first(names, ask).await {
        Some((v4, v6)) => join(v4, v6, before),
        None => by_host(name).await,
    }
}

/// What is said of the first of these names of which there is anything; `None` if there is nothing
/// of any. Where name servers fail it may be that one: the next is another name.
async fn first<A>(names: Vec<Name>, ask: impl Fn(Name) -> A) -> Option<(Family, Family)>
where
    A: Future<Output = (Family, Family)>,
{
    for name in names {
        match ask(name).await {
            (Family::Nothing, Family::Nothing) => {}
            said => return Some(said),
        }
    }
    None
}

async fn in_time(end: Instant, kind: RecordType, said: impl Future<Output = Family>) -> Family {
    timeout_at(end.into(), said).await.unwrap_or_else(|_| {
        let seconds = PATIENCE.as_secs();
        Family::Failed(format!("{kind}: no answer within {seconds} s"))
    })
}

/// The whole names that `name` may stand for, in the order in which they are asked for
/// (resolv.conf(5), `search` and `ndots`). The resolver is given one after the other: by itself it
/// would go on to the next one after any failure.
fn whole_names(name: &Name, domains: &[Name], ndots: usize) -> Vec<Name> {
    let mut whole = name.clone();
    whole.set_fqdn(true);
    if name.is_fqdn() {
        return vec![whole];
    }
    let longer = domains.iter();
    let longer = longer.filter_map(|domain| name.clone().append_domain(domain).ok());
    let mut names: Vec<Name> = match usize::from(name.num_labels()) > ndots {
        true => std::iter::once(whole).chain(longer).collect(),
        false => longer.chain(std::iter::once(whole)).collect(),
    };
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// A resolver by `/etc/resolv.conf`, and the names to ask it for; `None` if name servers are not to
/// be asked for this name.
async fn resolver(name: &str) -> Option<(TokioResolver, Vec<Name>)> {
    let name = Name::from_utf8(name).ok()?;
    let read = spawn_blocking(move || {
        let hosts = Hosts::from_system().unwrap_or_default();
        let known = [RecordType::A, RecordType::AAAA].into_iter().any(|family| {
            let query = Query::query(name.clone(), family);
            hosts.lookup_static_host(&query).is_some()
        });
        let (config, mut options) = read_system_conf().ok().filter(|_| !known)?;
        let domains: Vec<Name> = config
            .domain()
            .into_iter()
            .chain(config.search())
            .cloned()
            .collect();
        let names = whole_names(&name, &domains, options.ndots);
        // An answer is asked for when the last one holds no more.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = options;
        Some((builder, names))
    });
    let (builder, names) = read.await.ok().flatten()?;
    Some((builder.build().ok()?, names))
}

async fn family(resolver: &TokioResolver, name: Name, kind: RecordType) -> Family {
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

    fn whole(name: &str, ndots: usize) -> Vec<String> {
        let domains = ["a.test", "b.test.", "a.test."].map(|text| Name::from_utf8(text).unwrap());
        let names = whole_names(&Name::from_utf8(name).unwrap(), &domains, ndots);
        names.iter().map(Name::to_string).collect()
    }

    #[test]
    fn names_are_completed_in_the_order_of_the_search_list() {
        assert_eq!(whole("web.", 1), ["web."]);
        assert_eq!(whole("web", 1), ["web.a.test.", "web.b.test.", "web."]);
        let dotted = ["web.x.", "web.x.a.test.", "web.x.b.test."];
        assert_eq!(whole("web.x", 1), dotted);
        let asked_last = ["web.x.a.test.", "web.x.b.test.", "web.x."];
        assert_eq!(whole("web.x", 2), asked_last);
    }

    #[tokio::test]
    async fn only_where_there_is_nothing_the_next_name_is_asked_for() {
        let names = || ["a.", "b.", "c."].map(|text| Name::from_utf8(text).unwrap());
        let ask = |second: fn() -> Family| {
            move |name: Name| async move {
                match name.to_string().as_str() {
                    "a." => (Family::Nothing, Family::Nothing),
                    "b." => (second(), Family::Nothing),
                    _ => (has("10.0.0.3", 9), has("2001:db8::3", 9)),
                }
            }
        };
        // Some other machine must not take the place of one that can't be looked up now.
        let failed = first(names().into(), ask(|| Family::Failed("late".to_owned()))).await;
        let failed = failed.map(|(v4, v6)| join(v4, v6, &[]).unwrap_err());
        assert_eq!(failed.as_deref(), Some("late"));
        let third = first(names().into(), ask(|| Family::Nothing))
            .await
            .unwrap();
        let third = join(third.0, third.1, &[]).unwrap();
        assert_eq!(third.addresses.len(), 2);
        assert!(
            first(names()[..1].into(), ask(|| Family::Nothing))
                .await
                .is_none()
        );
    }

    #[tokio::test]
    async fn nobody_waits_for_name_servers_without_end() {
        let never = in_time(Instant::now(), RecordType::A, std::future::pending());
        let Family::Failed(why) = never.await else {
            panic!("there is an answer");
        };
        assert_eq!(why, "A: no answer within 10 s");
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
