use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::cx::Reporter;
use crate::host::Event;
use crate::host::hub::panic_text;

/// Runs one component's part of a hook. A panic in it is reported with the component's name; the
/// other components go on.
pub fn guard(reporter: &Reporter, component: &'static str, hook: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(hook)) {
        reporter.hook_failed(component, panic_text(&*panic));
    }
}

/// As [`guard`], for a hook that waits.
pub async fn guarded(reporter: &Reporter, component: &'static str, hook: impl Future<Output = ()>) {
    let mut hook = pin!(hook);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| hook.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(panic) => {
            reporter.hook_failed(component, panic_text(&*panic));
            Poll::Ready(())
        }
    })
    .await;
}

impl Reporter {
    /// Reports that a component's hook ended with an error of its own.
    pub fn failed(&self, component: &'static str, error: &dyn std::fmt::Display) {
        self.hook_failed(component, error.to_string());
    }

    fn hook_failed(&self, component: &'static str, text: String) {
        let id = self.id;
        tracing::error!(entity = %id, component, "a component's hook failed: {text}");
        self.hub.event(Event::HookFailed { id, component, text });
    }
}
