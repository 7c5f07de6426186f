//! Which of its servers a store is to use, as those who watch them say.

use tokio::sync::watch;

/// The driver's end. The other is held by the store.
pub(super) struct Steered {
    to: watch::Receiver<Option<String>>,
    /// The server of the connection, if it may be another.
    pub at: Option<String>,
}

impl Steered {
    pub fn new() -> (watch::Sender<Option<String>>, Self) {
        let (sender, to) = watch::channel(None);
        (sender, Steered { to, at: None })
    }

    /// The server that is to be used now. What was said before is not told by [`moved`](Self::moved) again.
    pub fn to(&mut self) -> Option<String> {
        self.to.borrow_and_update().clone()
    }

    /// Ready when another server than that of the connection is to be used. Cancel-safe.
    pub async fn moved(&mut self) {
        while self.to.changed().await.is_ok() {
            let to = self.to.borrow();
            if self.at.is_some() && to.is_some() && *to != self.at {
                return;
            }
        }
        std::future::pending().await
    }
}
