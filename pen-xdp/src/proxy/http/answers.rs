//! What Pen itself answers, where no server does.

use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use pen_common::control::Refused;

use super::body::Body;

/// Why no server answered, in one word.
const REASON: HeaderName = HeaderName::from_static("x-pen-reason");

/// The answer to a request that no server answers; with `told` it says why, for programs.
pub(super) fn refusal(why: Refused, told: bool) -> Response<Body> {
    let mut answer = plain(status(why), why.text());
    if told {
        let word = HeaderValue::from_static(why.word());
        answer.headers_mut().insert(REASON, word);
    }
    if why == Refused::BadRequest {
        // Where its body ends is not known, so nothing more can be read.
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}

/// A few words for people.
pub(super) fn plain(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::text(format!("{status}: {why}\n")));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Whose fault it is: the client's, the server's, or nobody's that could serve.
fn status(why: Refused) -> StatusCode {
    match why {
        Refused::BadRequest => StatusCode::BAD_REQUEST,
        Refused::AclDenied => StatusCode::FORBIDDEN,
        Refused::SlowHead => StatusCode::REQUEST_TIMEOUT,
        Refused::ConnectFailed | Refused::BadAnswer => StatusCode::BAD_GATEWAY,
        Refused::TooLate => StatusCode::GATEWAY_TIMEOUT,
        Refused::ClientConnections | Refused::ClientRate => StatusCode::TOO_MANY_REQUESTS,
        Refused::TooManyConnections
        | Refused::HostLacks
        | Refused::BadProxyHeader
        | Refused::BadHandshake
        | Refused::SlowHandshake
        | Refused::Dropped
        | Refused::ServerAcl
        | Refused::Blacklisted
        | Refused::ServerFull
        | Refused::NoWeight
        | Refused::Stubborn
        | Refused::NoServer
        | Refused::Ended => StatusCode::SERVICE_UNAVAILABLE,
    }
}
