//! What is shown of the proxy's connections and clients.

use pen_common::control::{Reply, Request, Value};

use super::Daemon;
use crate::control::socket::ReplyTo;
use crate::proxy::{Observer, Proxy};

impl Daemon {
    /// Answers with what `look` sees, which may be long, on a thread of its own: nobody else waits
    /// for it.
    pub(super) fn list(
        &self,
        request: Request,
        answer: ReplyTo,
        look: impl FnOnce(&Observer, Option<&str>) -> Result<Value, String> + Send + 'static,
    ) {
        let (observer, generation) = (self.observer(), self.generation());
        tokio::task::spawn_blocking(move || {
            let outcome = observer.and_then(|observer| look(&observer, request.service.as_deref()));
            let reply = Reply {
                generation,
                outcome,
            };
            answer.send(&request, &reply);
        });
    }

    /// Somebody to look at the proxy's connections.
    pub(super) fn observer(&self) -> Result<Observer, String> {
        let observer = self.proxy.as_ref().map(Proxy::observer);
        observer.ok_or_else(|| {
            "no service is in proxy mode: in DSR connections are the back ends', and pass Pen by"
                .to_owned()
        })
    }
}
