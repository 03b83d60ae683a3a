//! One timer for all that a connection waits for, one after the other. It is only set anew when it
//! fires, or when something is due before.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when it is that late; never without a time.
    pub(super) fn poll(&mut self, due: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        let Some(due) = due else {
            return Poll::Pending;
        };
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_rings_when_it_is_due_whatever_it_was_set_to_before() {
        let mut alarm = Alarm::default();
        let begun = Instant::now();
        let at = |ms| Some(begun + Duration::from_millis(ms));
        let polled = |alarm: &mut Alarm, due| {
            let mut context = Context::from_waker(std::task::Waker::noop());
            alarm.poll(due, &mut context)
        };
        assert_eq!(polled(&mut alarm, at(9000)), Poll::Pending);
        assert_eq!(polled(&mut alarm, None), Poll::Pending);
        for due in [30, 50, 200] {
            poll_fn(|context| alarm.poll(at(due), context)).await;
            assert!((due..9000).contains(&(begun.elapsed().as_millis() as u64)));
        }
    }
}
