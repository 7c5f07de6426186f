use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{io, thread};

use cluster::Cluster;
use env::metrics::Registry;
use env::{Clock, Instant};
use proto::Incarnation;
use store::{Answer, NodeBeat, Pulse, Store, Verdict};

use super::gauges::{FollowerCounters, Gauges, LandingGauges, show_all};
use super::inbox::{Inbox, Mail};
use crate::data::{Beat, BeatAsk, Life, Options};

/// How long an answer is waited for before the clock is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a pacemaker is made of.
pub(crate) struct Pace {
    pub store: Store,
    /// Its number and name: 0 and nothing for the default one.
    pub number: usize,
    pub store_name: String,
    pub me: Incarnation,
    /// Dead nodes are taken off its list.
    pub cluster: Cluster,
    pub options: Options,
    pub clock: Clock,
    pub inboxes: Vec<Arc<Inbox>>,
    pub metrics: Registry,
}

/// A thread of its own that tells the store that this node lives, however busy the workers and
/// the saves are, and hears who does not.
pub(crate) struct Pacemaker {
    stop: Sender<()>,
    thread: thread::JoinHandle<()>,
    audit: Arc<Mutex<Option<Verdict>>>,
    failed: Arc<OnceLock<String>>,
}

impl Pacemaker {
    pub fn start(name: &str, pace: Pace) -> io::Result<Self> {
        let Pace { store, number, store_name, me, cluster, options, clock, inboxes, metrics } =
            pace;
        // What the workers keep in all stores is shown once.
        let shown = if number == 0 { inboxes.len() } else { 0 };
        let gauges = (0..shown)
            .map(|worker| Arc::new(Mutex::new(Gauges::new(&metrics, name, worker))))
            .collect();
        let of_store = match store_name.as_str() {
            "" => name.to_owned(),
            store => format!("{name}/{store}"),
        };
        let landing = store.landing().map(|_| LandingGauges::new(&metrics, &of_store));
        let (stop, stopped) = channel();
        let audit = Arc::new(Mutex::new(None));
        let failed = Arc::new(OnceLock::new());
        let mut heart = Heart {
            failed: Arc::clone(&failed),
            beat: Beat::new(options.clone(), me, clock.now()),
            audit_at: (!options.audit_every.is_zero()).then(|| clock.now() + options.audit_every),
            audit: Arc::clone(&audit),
            store,
            number,
            store_name,
            me,
            cluster,
            options,
            clock,
            inboxes,
            gauges,
            landing,
            followers: FollowerCounters::new(&metrics, &of_store),
            beating: None,
            reading: None,
            auditing: None,
        };
        let thread = thread::Builder::new()
            .name(format!("{of_store}-beat"))
            .spawn(move || heart.run(&stopped))?;
        Ok(Pacemaker { stop, thread, audit, failed })
    }

    /// What the last check of the ledger found.
    pub fn audit(&self) -> Option<Verdict> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nothing can be kept any more: the store has stopped for good, or has declared the node
    /// dead.
    pub fn failed(&self) -> Option<String> {
        self.failed.get().cloned()
    }

    /// Ends the thread. The node declares itself dead, so that whatever it could not give back can be
    /// taken at once.
    pub fn stop(self) {
        drop(self.stop);
        drop(self.thread.join());
    }
}

struct Heart {
    store: Store,
    number: usize,
    store_name: String,
    me: Incarnation,
    cluster: Cluster,
    beat: Beat,
    options: Options,
    clock: Clock,
    inboxes: Vec<Arc<Inbox>>,
    gauges: Vec<Arc<Mutex<Gauges>>>,
    landing: Option<LandingGauges>,
    followers: FollowerCounters,
    beating: Option<Answer<Pulse>>,
    reading: Option<Answer<Vec<NodeBeat>>>,
    auditing: Option<Answer<Verdict>>,
    audit_at: Option<Instant>,
    audit: Arc<Mutex<Option<Verdict>>>,
    failed: Arc<OnceLock<String>>,
}

impl Heart {
    fn run(&mut self, stopped: &Receiver<()>) {
        let mut known = 0;
        loop {
            if self.beat.poll_timeout() <= self.clock.now() {
                show_all(&self.inboxes, &self.gauges);
                if let (Some(landing), Some(report)) = (&self.landing, self.store.landing()) {
                    landing.show(&report);
                }
                self.followers.show(self.store.follower_counts());
            }
            self.beat.handle_timeout(self.clock.now());
            self.ask();
            self.hear(&mut known);
            self.check_ledger();
            let waits = self.beating.is_some() || self.reading.is_some();
            let pause = self.beat.poll_timeout().since(self.clock.now());
            let pause = if waits { pause.min(LOOK_EVERY) } else { pause };
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
        }
        let me = store::Incarnation(self.me.0);
        if let Ok(Ok(Some(row))) = self.store.node(me).wait_for(self.options.beat_every) {
            drop(self.store.mark_dead(me, row.beat).wait_for(self.options.beat_every));
        }
    }

    fn ask(&mut self) {
        while let Some(ask) = self.beat.poll_ask() {
            match ask {
                BeatAsk::Beat => {
                    self.beating = Some(self.store.beat(store::Incarnation(self.me.0)));
                }
                BeatAsk::Nodes => self.reading = Some(self.store.nodes()),
                BeatAsk::MarkDead(node, beat) => {
                    // Rare enough to be waited for; an answer that does not come counts as none.
                    let answer = self.store.mark_dead(node, beat).wait_for(self.options.beat_every);
                    let result = answer.unwrap_or(Err(store::Error::Busy));
                    self.beat.handle_marked(node, result);
                }
            }
        }
    }

    fn hear(&mut self, known: &mut u64) {
        if self.number == 0 {
            let away = self.inboxes.iter().flat_map(|inbox| inbox.take_away());
            away.for_each(|node| self.beat.handle_away(self.clock.now(), node));
        }
        if let Some(answer) = self.beating.take() {
            match answer.wait_for(LOOK_EVERY) {
                Ok(result) => {
                    if let Err(store::Error::Stopped(reason)) = &result {
                        let _ = self.failed.set(self.about_store(reason));
                    }
                    self.beat.handle_beat(self.clock.now(), result);
                }
                Err(answer) => self.beating = Some(answer),
            }
        }
        if let Some(answer) = self.reading.take() {
            match answer.wait_for(LOOK_EVERY) {
                Ok(result) => self.beat.handle_nodes(self.clock.now(), result),
                Err(answer) => self.reading = Some(answer),
            }
        }
        self.ask();
        while let Some(life) = self.beat.poll_life() {
            match &life {
                Life::Alive(_, generation) if known != generation => {
                    *known = *generation;
                    tracing::debug!(generation, "the store knows this node");
                }
                Life::Alive(..) | Life::Known(_) | Life::Away => {}
                Life::Dead => {
                    let _ = self.failed.set(self.about_store("this node was declared dead"));
                    tracing::error!(
                        node = %self.me,
                        store = self.store_name,
                        "this node was declared dead: it drops its stored entities; start it anew"
                    );
                }
                Life::Buried(node) => {
                    tracing::warn!(%node, store = self.store_name, "a node is dead; what it had is free");
                    self.cluster.bury(Incarnation(node.0));
                }
                Life::Doubt(count) => tracing::warn!(
                    count,
                    store = self.store_name,
                    "most nodes say that they do not reach the store: nobody is declared dead meanwhile"
                ),
                Life::MassDeath(count) => tracing::error!(
                    count,
                    "so many nodes stand still at once that none is declared dead by itself"
                ),
            }
            let mail = |inbox: &Arc<Inbox>| inbox.push(Mail::Life(self.number, life.clone()));
            self.inboxes.iter().for_each(mail);
        }
    }

    fn about_store(&self, reason: &str) -> String {
        match self.store_name.as_str() {
            "" => reason.to_owned(),
            name => format!("store {name:?}: {reason}"),
        }
    }

    /// Adds up the ledger now and then.
    fn check_ledger(&mut self) {
        if self.audit_at.is_some_and(|at| at <= self.clock.now()) && self.auditing.is_none() {
            self.audit_at = Some(self.clock.now() + self.options.audit_every);
            self.auditing = Some(self.store.verify());
        }
        let Some(answer) = self.auditing.take() else { return };
        match answer.wait_for(Duration::ZERO) {
            Err(answer) => self.auditing = Some(answer),
            Ok(Err(error)) => tracing::warn!(%error, "the ledger could not be checked"),
            Ok(Ok(verdict)) => {
                for fault in &verdict.faults {
                    tracing::error!(fault, "the ledger does not add up");
                }
                *self.audit.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
            }
        }
    }
}
