//! What a client begins to speak TLS with, read from the outside: the name that it asks for.
//!
//! Bytes in, values out; nothing is taken or kept. A ClientHello may come in many records (RFC 8446
//! section 5.1), and is read in all versions that look alike, TLS 1.0 to 1.3: which of them is
//! spoken is between the client and whoever it is led to.

/// Longest ClientHello that is read, in bytes: those who serve take no longer one.
const MESSAGE_MAX: usize = 64 << 10;
/// Most bytes of a stream that are looked at: the longest one and what records add, unless they are
/// far smaller than anybody makes them.
pub(super) const SEEN_MAX: usize = 80 << 10;
/// Longest record, in bytes: those who encrypt may add so much, and who serves is the one to refuse
/// what is longer than it may be (RFC 5246 section 6.2.3).
const RECORD_MAX: usize = (16 << 10) + 2048;
/// Longest name of a host, in bytes (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 253;

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What the first bytes of a stream are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// The beginning of a ClientHello, perhaps: there must be so many bytes at least, from the first
    /// on; more than there are, and at most [`SEEN_MAX`].
    NeedMore { total: usize },
    /// A ClientHello. The name is in lower case; `None` if it asks for none, or for what is no name
    /// of a host.
    Whole(Option<String>),
    /// None, whatever follows.
    No(Unread),
}

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// They are not TLS.
    NotTls,
    /// They began like one, and went on otherwise.
    Malformed,
    /// It is longer than any that is read.
    TooLong,
}

/// Reads a ClientHello from the beginning of a stream.
pub(super) fn read(bytes: &[u8]) -> Hello {
    let bytes = bytes.get(..SEEN_MAX).unwrap_or(bytes);
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let used = bytes.len() - rest.len();
        let missing = match missing(&message) {
            Ok(0) => break,
            Ok(missing) => missing,
            Err(why) => return Hello::No(why),
        };
        match fragment(rest, message.is_empty()) {
            Err(why) => return Hello::No(why),
            Ok(Record::Partial) => return need(used + RECORD_HEADER + missing),
            Ok(Record::Begun { came, to_come }) => {
                message.extend_from_slice(came);
                let missing = match self::missing(&message) {
                    Ok(0) => break,
                    Ok(missing) => missing,
                    Err(why) => return Hello::No(why),
                };
                // What this record does not hold comes behind the header of another one.
                let headers = if missing > to_come { RECORD_HEADER } else { 0 };
                return need(bytes.len() + missing + headers);
            }
            Ok(Record::Whole(came, behind)) => {
                message.extend_from_slice(came);
                rest = behind;
            }
        }
    }
    let body = message.get(MESSAGE_HEADER..).unwrap_or_default();
    let body = body.get(..body_len(&message)).unwrap_or_default();
    match server_name(body) {
        Some(name) => Hello::Whole(name),
        None => Hello::No(Unread::Malformed),
    }
}

fn need(total: usize) -> Hello {
    match total <= SEEN_MAX {
        true => Hello::NeedMore { total },
        false => Hello::No(Unread::TooLong),
    }
}

/// How many bytes of the message are still to come at least; its length is known when its header is
/// there.
fn missing(message: &[u8]) -> Result<usize, Unread> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Unread::Malformed);
    }
    if message.len() < MESSAGE_HEADER {
        return Ok(MESSAGE_HEADER - message.len());
    }
    let whole = MESSAGE_HEADER + body_len(message);
    match whole <= MESSAGE_MAX {
        true => Ok(whole.saturating_sub(message.len())),
        false => Err(Unread::TooLong),
    }
}

/// Length of what follows the message's header.
fn body_len(message: &[u8]) -> usize {
    let digits = message.get(1..MESSAGE_HEADER).unwrap_or_default();
    let digits = digits.iter().map(|byte| usize::from(*byte));
    digits.fold(0, |length, byte| length << 8 | byte)
}

/// What is there of a record.
enum Record<'a> {
    /// Not its whole header.
    Partial,
    /// Its header and some of its payload; how much of that is still to come.
    Begun { came: &'a [u8], to_come: usize },
    /// All of it, and what follows.
    Whole(&'a [u8], &'a [u8]),
}

/// The next record, which must be one of handshakes; the first one tells whether this is TLS.
fn fragment(bytes: &[u8], first: bool) -> Result<Record<'_>, Unread> {
    let wrong = match first {
        true => Unread::NotTls,
        false => Unread::Malformed,
    };
    if bytes.first().is_some_and(|kind| *kind != HANDSHAKE)
        || bytes.get(1).is_some_and(|version| *version != 3)
    {
        return Err(wrong);
    }
    let Some(([_, _, _, high, low], payload)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
        return Ok(Record::Partial);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length == 0 || length > RECORD_MAX {
        return Err(wrong);
    }
    Ok(match payload.split_at_checked(length) {
        Some((whole, behind)) => Record::Whole(whole, behind),
        None => Record::Begun {
            came: payload,
            to_come: length - payload.len(),
        },
    })
}

/// The name in the body of a ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3); `None` if
/// that is none.
fn server_name(body: &[u8]) -> Option<Option<String>> {
    let mut body = Reader(body);
    // Version and random.
    body.take(2 + 32)?;
    let session = body.byte()?;
    body.take(usize::from(session))?;
    let suites = body.number()?;
    body.take(usize::from(suites))?;
    let compressions = body.byte()?;
    body.take(usize::from(compressions))?;
    if body.0.is_empty() {
        // Clients of TLS 1.0 may know no extensions.
        return Some(None);
    }
    let mut extensions = body.vector()?;
    if !body.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.vector()?;
        if kind == SERVER_NAME && found.replace(name(content)?).is_some() {
            // Two readers could take different ones.
            return None;
        }
    }
    Some(found.flatten())
}

/// The name in the extension; `None` if that is none, or has two.
fn name(mut extension: Reader<'_>) -> Option<Option<String>> {
    let mut list = extension.vector()?;
    if !extension.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !list.0.is_empty() {
        if list.byte()? != HOST_NAME {
            // How long a name of another type is nobody knows, nor what follows it.
            break;
        }
        let content = list.vector()?.0;
        if content.is_empty() || found.replace(host(content)).is_some() {
            return None;
        }
    }
    Some(found.flatten())
}

/// A name as it is compared with others and told to people; `None` if no host has it.
fn host(bytes: &[u8]) -> Option<String> {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let can_be = (1..=NAME_MAX).contains(&bytes.len()) && bytes.iter().all(known);
    let text = std::str::from_utf8(bytes).ok()?;
    can_be.then(|| text.to_ascii_lowercase())
}

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u16> {
        let (digits, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*digits))
    }

    /// Bytes behind their length of two bytes.
    fn vector(&mut self) -> Option<Self> {
        let length = self.number()?;
        self.take(usize::from(length)).map(Self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
pub(super) mod tests;
