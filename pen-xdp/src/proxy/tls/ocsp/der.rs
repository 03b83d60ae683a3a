//! Reads and writes DER (X.690), strictly: lengths are in their shortest form and nothing is left
//! over, so that two readers can't take the same bytes differently.

/// Tags that OCSP and the frames of certificates are made of; `CONTEXT` and `EXPLICIT` are the
/// first of those in brackets, which hold a value itself or one with its own tag.
pub(super) mod tag {
    pub(in super::super) const BOOLEAN: u8 = 0x01;
    pub(in super::super) const INTEGER: u8 = 0x02;
    pub(in super::super) const BIT_STRING: u8 = 0x03;
    pub(in super::super) const OCTET_STRING: u8 = 0x04;
    pub(in super::super) const NULL: u8 = 0x05;
    pub(in super::super) const OID: u8 = 0x06;
    pub(in super::super) const ENUMERATED: u8 = 0x0a;
    pub(in super::super) const TIME: u8 = 0x18;
    pub(in super::super) const SEQUENCE: u8 = 0x30;
    pub(in super::super) const CONTEXT: u8 = 0x80;
    pub(in super::super) const EXPLICIT: u8 = 0xa0;
}

/// What has not been read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

/// One value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// With tag and length.
    pub(super) whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next value, of any tag; `None` if there is none, or one of 64 KiB and more.
    pub(super) fn value(&mut self) -> Option<Value<'a>> {
        let bytes = self.0;
        let (&[tag, first], rest) = bytes.split_first_chunk()?;
        // Long tags are nowhere in what is read here.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => {
                let (&[length], rest) = rest.split_first_chunk()?;
                ((length >= 0x80).then_some(usize::from(length))?, rest)
            }
            0x82 => {
                let (&length, rest) = rest.split_first_chunk()?;
                let length = u16::from_be_bytes(length);
                ((length >= 0x100).then_some(usize::from(length))?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = bytes.get(..bytes.len() - rest.len())?;
        self.0 = rest;
        Some(Value {
            tag,
            content,
            whole,
        })
    }

    /// What is in the next value, which must be of this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let value = self.value()?;
        (value.tag == tag).then_some(value.content)
    }

    /// The next sequence (or what is tagged as one).
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }

    /// As [`Self::take`], if the next value is of this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        match self.0.first() == Some(&tag) {
            true => self.take(tag).map(Some),
            false => Some(None),
        }
    }

    /// A bit string of whole octets.
    pub(super) fn bits(&mut self) -> Option<&'a [u8]> {
        match self.take(tag::BIT_STRING)?.split_first()? {
            (0, bits) => Some(bits),
            _ => None,
        }
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The only value in some bytes.
pub(super) fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    let content = reader.take(tag)?;
    reader.end()?;
    Some(content)
}

/// Writes a value; `None` for one of 64 KiB and more.
pub(super) fn write(tag: u8, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).ok()?.to_be_bytes();
    let head: &[u8] = match (high, low) {
        (0, ..0x80) => &[tag, low],
        (0, _) => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    Some([head, &content].concat())
}
