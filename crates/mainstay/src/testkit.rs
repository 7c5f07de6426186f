//! The author's kit: a game in a simulated cluster, without network, ports or sleeping.
//!
//! ```
//! use mainstay::prelude::*;
//! use mainstay::testkit::Cluster;
//!
//! #[entity]
//! #[derive(Default)]
//! struct Bell {
//!     rings: u64,
//! }
//!
//! #[rpc]
//! impl Bell {
//!     #[request(client)]
//!     fn ring(&mut self, _cx: &mut Cx<Self>) -> u64 {
//!         self.rings += 1;
//!         self.rings
//!     }
//! }
//!
//! #[mainstay::test(seed = 7)]
//! async fn the_bell_counts(cluster: Cluster) {
//!     let game = cluster.start(&App::new("bells").entity::<Bell>().bind::<Bell>("bell", |_| 1));
//!     let player = game.client(1).await;
//!     assert_eq!(player.request::<_, u64>("bell", "ring", &()).await, Ok(1));
//!     player.cut();
//!     assert_eq!(player.request::<_, u64>("bell", "ring", &()).await, Ok(2));
//! }
//! ```

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::testkit::ClientId;
pub use ::testkit::{Faults, Left};
pub use client::{CallError as ClientError, Event, TellId};
use env::Instant;
use node::session::Bindings;
use proto::{Message, MethodId};

use crate::App;

pub use crate::interface::check_interface;

/// How long a simulated client waits for an answer.
const REQUEST_WAIT: Duration = Duration::from_secs(30);

type Shared = Rc<RefCell<Option<::testkit::Cluster>>>;

/// A cluster that has no game yet.
#[derive(Clone)]
pub struct Cluster {
    seed: u64,
    faults: Faults,
    shared: Shared,
}

impl Cluster {
    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Starts `app` on two gates and two nodes of two workers each.
    ///
    /// # Panics
    ///
    /// If a game was started in this cluster before.
    pub fn start(&self, app: &App) -> Game {
        let options = sim_options(app, self.seed, self.faults.clone());
        let before = self.shared.borrow_mut().replace(::testkit::Cluster::new(options));
        assert!(before.is_none(), "a cluster runs one game");
        Game { shared: self.shared.clone() }
    }
}

/// The simulated cluster's options for a game: two gates, two nodes with two workers each.
pub fn sim_options(app: &App, seed: u64, faults: Faults) -> ::testkit::Options {
    if let Err(error) = app.check() {
        panic!("{error}");
    }
    let node_app = app.node_app(|_| true, |_| true);
    let stored = node_app.needs_store();
    let register: ::testkit::Register = Arc::new(move |host| node_app.register_on(host));
    let bindings = Bindings::new(app.chooser());
    let mut options = ::testkit::Options::new(seed, register, app.kind_ids(), bindings);
    options.local = app.local_kinds();
    options.gates = 2;
    options.nodes = 2;
    options.faults = faults;
    options.stored = stored;
    options
}

/// A game in a simulated cluster. Its time passes while the test awaits.
#[derive(Clone)]
pub struct Game {
    shared: Shared,
}

impl Game {
    fn with<R>(&self, act: impl FnOnce(&mut ::testkit::Cluster) -> R) -> R {
        act(self.shared.borrow_mut().as_mut().expect("started"))
    }

    /// A client of `account`, admitted and with its streams bound. If its login breaks so often that
    /// its ticket is used up without it, it comes again with a new one, as a real client would.
    ///
    /// # Panics
    ///
    /// If it is refused eight times.
    pub async fn client(&self, account: u64) -> Player {
        for _ in 0..8 {
            let id = self.with(|cluster| cluster.client(account));
            let settled = |cluster: &mut ::testkit::Cluster| {
                let core = cluster.core(id);
                core.is_connected() || core.is_ended()
            };
            until(|| self.with(settled)).await;
            if self.with(|cluster| cluster.core(id).is_connected()) {
                return Player { game: self.clone(), id };
            }
        }
        panic!("account {account} was refused eight times: see what the app's bindings say to it");
    }

    /// The time in the game's cluster.
    pub fn now(&self) -> Instant {
        self.with(|cluster| cluster.now())
    }

    /// Lets `span` pass.
    pub async fn sleep(&self, span: Duration) {
        let end = self.with(|cluster| cluster.now() + span);
        self.with(|cluster| cluster.remind(end));
        until(|| self.with(|cluster| cluster.now() >= end)).await;
    }

    /// Kills a gate; it is back after `pause`.
    pub fn kill_gate(&self, number: usize, pause: Duration) {
        self.with(|cluster| cluster.kill_gate(number, pause));
    }

    /// Kills a node without a word; it is back, as another life, after `pause`. Until somebody else
    /// has seen it stand still for 6 s, what it kept is nobody's.
    pub fn kill_node(&self, number: usize, pause: Duration) {
        self.with(|cluster| cluster.kill_node(number, pause, false));
    }

    /// The present life of a node, as the store knows it.
    pub fn incarnation(&self, number: usize) -> store::Incarnation {
        self.with(|cluster| cluster.incarnation(number))
    }

    /// Stops a node's process for `span`, as a debugger or a paused machine does.
    pub fn pause_node(&self, number: usize, span: Duration) {
        self.with(|cluster| cluster.pause_node(number, span));
    }

    /// Cuts a node off from the store, or joins it again.
    pub fn cut_store(&self, number: usize, cut: bool) {
        self.with(|cluster| cluster.cut_store(number, cut.then_some(::testkit::Cut::Both)));
    }

    /// The store does nothing for `span`.
    pub fn stall_store(&self, span: Duration) {
        self.with(|cluster| cluster.stall_store(span));
    }

    /// What the game's entities are kept in, as it is now: a copy.
    pub fn store(&self) -> store::Store {
        self.with(|cluster| cluster.store())
    }

    /// Does a transaction beside the game, as a tool would.
    ///
    /// # Errors
    ///
    /// See [`store::Store::commit`].
    pub fn commit(&self, txn: &store::Transaction) -> Result<store::Receipt, store::Error> {
        self.with(|cluster| cluster.commit(txn))
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.with(::testkit::Cluster::heal);
    }

    /// What is left of clients anywhere.
    pub fn left(&self) -> Left {
        self.with(|cluster| cluster.left())
    }
}

/// A client of a simulated game.
#[derive(Clone)]
pub struct Player {
    game: Game,
    id: ClientId,
}

impl Player {
    /// Sends a request and waits for its answer, over broken connections too.
    ///
    /// # Errors
    ///
    /// What a client would be told.
    ///
    /// # Panics
    ///
    /// If the answer is not an `R`.
    pub async fn request<A: Message, R: Message>(
        &self,
        stream: &str,
        method: &str,
        arguments: &A,
    ) -> Result<R, ClientError> {
        let (body, id) = (client::encode_args(arguments), self.id);
        let method = method_id(method);
        let started = self
            .game
            .with(|cluster| cluster.start_request(id, stream, method, &body, REQUEST_WAIT));
        let request = started?;
        let mut result = None;
        until(|| {
            result = self.game.with(|cluster| cluster.take_result(id, request));
            result.is_some()
        })
        .await;
        let answer = result.expect("waited for")?;
        Ok(proto::decode(&answer).expect("the answer is what the method declares"))
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// If the client did not take it.
    pub fn tell<A: Message>(
        &self,
        stream: &str,
        method: &str,
        arguments: &A,
    ) -> Result<TellId, ClientError> {
        self.game.with(|cluster| cluster.tell(self.id, stream, method, arguments))
    }

    /// Waits until the stream leads to an entity.
    pub async fn bound(&self, stream: &str) {
        until(|| self.game.with(|cluster| cluster.core(self.id).is_bound(stream))).await;
    }

    /// What happened at this client since the last call, replies apart.
    pub fn events(&self) -> Vec<Event> {
        self.game.with(|cluster| cluster.events(self.id))
    }

    /// Breaks the connection; the session resumes by itself.
    pub fn cut(&self) {
        self.game.with(|cluster| cluster.cut(self.id));
    }

    /// Says goodbye.
    pub fn leave(&self) {
        self.game.with(|cluster| cluster.leave(self.id));
    }
}

/// The id of `method` or `field.method`.
pub fn method_id(path: &str) -> MethodId {
    match path.split_once('.') {
        None => MethodId::of(path),
        Some((field, method)) => {
            MethodId::in_component(proto::name_hash(field), MethodId::of(method))
        }
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    std::future::poll_fn(|_| if done() { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Most happenings of one test; more means that it waits for what never comes.
const HAPPENINGS_MAX: u64 = 20_000_000;

/// Runs an async test against a cluster: what `#[mainstay::test]` expands to. Without a seed the
/// environment's `MAINSTAY_SEED` is used, or 1.
///
/// # Panics
///
/// If the test does, or waits for ever; the seed is printed.
pub fn run_test<F: Future<Output = ()>>(
    name: &str,
    seed: Option<u64>,
    faults: Option<Faults>,
    test: impl FnOnce(Cluster) -> F,
) {
    let chosen = std::env::var("MAINSTAY_SEED").ok().and_then(|text| text.parse().ok());
    let seed = chosen.or(seed).unwrap_or(1);
    let shared = Shared::default();
    let cluster =
        Cluster { seed, faults: faults.unwrap_or_else(Faults::none), shared: shared.clone() };
    let run = std::panic::AssertUnwindSafe(|| drive(&shared, test(cluster)));
    if let Err(panic) = std::panic::catch_unwind(run) {
        eprintln!("{name} failed with seed {seed}; run it again with MAINSTAY_SEED={seed}");
        std::panic::resume_unwind(panic);
    }
}

fn drive(shared: &Shared, test: impl Future<Output = ()>) {
    let mut test = pin!(test);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..HAPPENINGS_MAX {
        if test.as_mut().poll(&mut context).is_ready() {
            return;
        }
        let mut cluster = shared.borrow_mut();
        let cluster = cluster.as_mut().expect("a test waits only for a cluster that was started");
        assert!(cluster.step(), "nothing will ever happen again, and the test still waits");
    }
    panic!("the test waited through {HAPPENINGS_MAX} happenings");
}
