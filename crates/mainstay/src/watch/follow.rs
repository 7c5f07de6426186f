use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use cluster::{Cluster, Watch};
use store::Store;

use super::keys::{self, Named};

/// Has stores use the servers that watchers name, until it is dropped.
pub(crate) struct Follow {
    events: Sender<Event>,
    thread: Option<JoinHandle<()>>,
}

enum Event {
    Changed,
    Stop,
}

impl Follow {
    /// `stores` are named as in the cluster file: `store`, `stores.accounts.shards.east`.
    ///
    /// # Errors
    /// What the system says if no thread can be started.
    pub(crate) fn start(cluster: &Cluster, stores: Vec<(String, Store)>) -> std::io::Result<Self> {
        let (events, heard) = channel();
        let changed = events.clone();
        cluster.on_change(move || changed.send(Event::Changed).is_ok());
        cluster.add_check(keys::PREFIX, keys::check);
        let watch = cluster.watch(keys::PREFIX);
        let thread = std::thread::Builder::new()
            .name("store-follow".to_owned())
            .spawn(move || run(&stores, watch, &heard))?;
        Ok(Follow { events, thread: Some(thread) })
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(stores: &[(String, Store)], mut watch: Watch, heard: &Receiver<Event>) {
    loop {
        for change in watch.take() {
            let Some((label, Named::Primary)) = keys::read_key(&change.key) else { continue };
            // One that is gone is what it was: nobody has said anything else.
            let primary = change.now.as_ref().and_then(|now| keys::read_primary(&now.value));
            let (Some(primary), Some((_, store))) =
                (primary, stores.iter().find(|(name, _)| name == label))
            else {
                continue;
            };
            match store.steer(&primary) {
                true => tracing::info!(store = label, primary, "the server that takes writes"),
                false => tracing::error!(
                    store = label,
                    primary,
                    "watchers name a server that the store's address does not"
                ),
            }
        }
        if !matches!(heard.recv(), Ok(Event::Changed)) {
            return;
        }
    }
}
