//! The time in answers (RFC 9110, 5.6.7); it is written once a second.

use std::cell::RefCell;
use std::time::SystemTime;

use crate::proxy::service::now_ms;

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
const LENGTH: usize = 29;

thread_local! {
    static LAST: RefCell<(u64, [u8; LENGTH])> = const { RefCell::new((0, [0; LENGTH])) };
}

/// Now, to half a second.
pub(super) fn now() -> [u8; LENGTH] {
    LAST.with_borrow_mut(|(until, text)| {
        let now = now_ms();
        if now >= *until {
            *until = now + 500;
            let date = httpdate::fmt_http_date(SystemTime::now());
            text.copy_from_slice(date.as_bytes());
        }
        *text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_now() {
        let text = String::from_utf8(now().to_vec()).unwrap();
        let then = httpdate::parse_http_date(&text).unwrap();
        assert!(then.elapsed().unwrap() < Duration::from_secs(3), "{text}");
        assert_eq!(now().to_vec(), text.into_bytes());
    }
}
