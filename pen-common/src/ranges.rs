//! Access lists as the tables have them: where, in the order of all addresses, those begin who may
//! pass, and where they end.
//!
//! A list is a row of addresses in rising order: the first begins a range of those who may pass, the
//! second is the first address behind it, and so on. So an address may pass if an odd number of them
//! is not above it, and one binary search answers that. IPv4 stands where its mapped addresses are
//! (RFC 4291, section 2.5.5.2). In front of a bank's rows stand their places, by the list's number.

use crate::{flow::Address, tables::Memory};

/// Elements of one bank: places and rows of all lists together.
pub const RANGES_MAX: u32 = 65_536;
/// Elements in front that tell where rows are. Number 0 is no list.
pub const PLACES: u32 = 16;
/// The one of the tarpit: those who "may pass" by it are its addresses.
pub const TARPIT: u8 = PLACES as u8 - 1;
/// Steps of the longest search: a row has fewer than 2^16 elements.
const STEPS_MAX: u32 = 16;

const _: () = assert!(RANGES_MAX.is_power_of_two() && RANGES_MAX <= 1 << STEPS_MAX);

/// Whether the list whose place is element `place` lets `address` pass.
///
/// Written without branches on what is compared: the kernel verifies each way through a loop, and two
/// ways at every step would be too many. Each step is half of the one before; the first is the greatest
/// power of two in the row's length.
#[inline(always)]
pub fn admits<M: Memory>(memory: &M, address: Address, place: u32) -> bool {
    let Some([row, mut step]) = memory.range(place) else {
        return false;
    };
    let bank = place & !(RANGES_MAX - 1);
    let (first, len) = ((row >> 32) as u32, row & 0xffff_ffff);
    let mut below: u64 = 0;
    let mut count = 0;
    while count < STEPS_MAX && step != 0 {
        let probe = below.wrapping_add(step).wrapping_sub(1);
        let index = bank + (first.wrapping_add(probe as u32) & (RANGES_MAX - 1));
        let Some([high, low]) = memory.range(index) else {
            return false;
        };
        let above = before(address, Address { high, low });
        let counts = less(probe, len) & (above ^ 1);
        below = below.wrapping_add(step & counts.wrapping_neg());
        step >>= 1;
        count += 1;
    }
    below & 1 == 1
}

/// 1 if `a` is less than `b`, else 0: the borrow of their difference (Warren, "Hacker's Delight",
/// section 2-13).
#[inline(always)]
const fn less(a: u64, b: u64) -> u64 {
    ((!a & b) | ((!a | b) & a.wrapping_sub(b))) >> 63
}

/// 1 if `a` stands before `b` in the order of addresses, else 0.
#[inline(always)]
const fn before(a: Address, b: Address) -> u64 {
    less(a.high, b.high) | ((less(b.high, a.high) ^ 1) & less(a.low, b.low))
}

/// The elements of a bank with these rows, each by the number of its list (1 to 15); `None` if they
/// don't fit.
#[cfg(feature = "std")]
pub fn pack<'a>(rows: impl IntoIterator<Item = (u8, &'a [Address])>) -> Option<Vec<[u64; 2]>> {
    let mut elements = vec![[0; 2]; PLACES as usize];
    for (number, row) in rows {
        let first = elements.len() as u64;
        let len = row.len() as u64;
        let step = len.checked_ilog2().map_or(0, |power| 1 << power);
        let number = usize::from(number);
        *elements.get_mut(number).filter(|_| number > 0)? = [first << 32 | len, step];
        elements.extend(row.iter().map(|address| [address.high, address.low]));
    }
    (elements.len() <= RANGES_MAX as usize).then_some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparing_without_branches_is_comparing() {
        let some = [0, 1, 2, 1 << 63, (1 << 63) - 1, u64::MAX - 1, u64::MAX];
        for (a, b) in some.iter().flat_map(|a| some.iter().map(move |b| (*a, *b))) {
            assert_eq!(less(a, b), u64::from(a < b), "{a} {b}");
            for (c, d) in some.iter().flat_map(|c| some.iter().map(move |d| (*c, *d))) {
                let (left, right) = (Address { high: a, low: c }, Address { high: b, low: d });
                assert_eq!(before(left, right), u64::from(left < right));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_not_packed() {
        let row = vec![Address::v4(1); RANGES_MAX as usize - PLACES as usize];
        assert_eq!(
            pack([(15, row.as_slice())]).unwrap().len(),
            RANGES_MAX as usize
        );
        assert_eq!(pack([(15, row.as_slice()), (1, &row[..1])]), None);
        assert_eq!(pack([(16, &row[..1])]), None);
        assert_eq!(pack([(0, &row[..1])]), None);
    }
}
