//! Singletons are there without a call, at the node that the list of nodes names, and nowhere else.

use std::time::Duration;

use env::Instant;
use proto::frame::CloseCode;

use super::Worker;
use crate::session::Places as _;

/// A singleton that is not here although it belongs here is looked after so often: its former owner
/// may not be known to be dead yet, or the store is away.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Worker {
    /// Has the singletons that belong here, and lets go of those that belong elsewhere and are not
    /// kept: what is kept moves.
    pub(super) fn mind_singletons(&mut self, now: Instant) {
        if self.singletons_at.is_none_or(|at| at > now) {
            return;
        }
        self.singletons_at = None;
        if self.is_draining() {
            return;
        }
        for (kind, id) in self.host.singletons() {
            let place = self.view.placed(id);
            let is_here = self.host.find(id).is_some();
            if place == Some(self.me) {
                self.singletons_at = Some(now + LOOK_EVERY);
                // It may also have moved, and be found there.
                if !is_here && self.view.worker_of(id) == Some(self.me) {
                    self.host.activate(id);
                }
            } else if place.is_some() && is_here && !kind.document {
                tracing::info!(kind = kind.name, "a singleton ends here: it belongs elsewhere now");
                self.host.destroy(id, CloseCode::GoingAway);
            }
        }
    }
}
