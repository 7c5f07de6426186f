use std::collections::BTreeSet;
use std::sync::Arc;

use bus::Delivery;
use node::data::{Change, Grid, Record, describe_document};
use node::route::{RouteApp, Routed};
use node::session::{Binding, Login, Refusal};
use node::{
    Class, ClientInterface, ClientQuestion, Done, Entity, Feed, Host, KindInfo, NodeApp, Queue,
    UsersOrder, Work,
};
use proto::schema::{Field, Schema, SchemaBuilder, SchemaError, StoredDocument};
use proto::{EntityId, KindId, Message, Scope};
use web::Asset;
use web::axum::Router;

use crate::config::{BusPlace, Kinds, Process, Role, Roles};

type Choose = Arc<dyn Fn(&Login<'_>) -> Result<Vec<Binding>, Refusal> + Send + Sync>;
type Make = Arc<dyn Fn(NodeApp) -> NodeApp + Send + Sync>;

/// A game: everything it declares, before any of it runs. A cheap clone.
#[derive(Clone)]
pub struct App {
    name: String,
    kinds: Vec<Kind>,
    records: Vec<Sort>,
    changes: Vec<Sort>,
    maps: Vec<Sort>,
    clients: Vec<fn(&mut SchemaBuilder)>,
    bindings: Vec<Choose>,
    /// Streams that every login gets, and the kinds that they lead to.
    bound: Vec<(String, &'static KindInfo)>,
    roles: Vec<(String, Role)>,
    assets: Vec<&'static [Asset]>,
    routes: Option<Arc<dyn Fn() -> Router + Send + Sync>>,
    guests: bool,
    accepted: Vec<u64>,
    release: u32,
    topics: Vec<(String, Delivery)>,
    queues: Vec<Queue>,
    /// Services that feed queues: their names, and the queues.
    feeds: Vec<(&'static str, &'static str)>,
}

/// Why a game's declarations do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// Name another bus in the cluster file, or declare less.
    #[error("{0}")]
    BusCannotGive(String),
    /// Name it in the cluster file, or have the kind name another.
    #[error("`{kind}` is kept in the store {store:?}, which the cluster file does not name{hint}")]
    UnknownStore {
        /// Name of the kind, or of the sort of record.
        kind: &'static str,
        /// The store that it names.
        store: &'static str,
        /// Which it may mean, or what to write.
        hint: String,
    },
    /// A stream of every login leads to a kind that the app does not offer.
    #[error(
        "the stream {stream:?} of each login leads to `{kind}`, which the app does not offer: \
         add `.entity::<..>()` for it"
    )]
    NotOffered {
        /// Name of the stream.
        stream: String,
        /// Name of the kind.
        kind: &'static str,
    },
    /// Clients' requests go to a queue that the app does not have.
    #[error(
        "clients' requests to {service:?} feed the queue {queue:?}, which the app does not have: \
         add `.queue(Queue::answering(..))` for it"
    )]
    NoQueue {
        /// Name of the service.
        service: &'static str,
        /// Name of the queue.
        queue: &'static str,
    },
    /// A stream of every login leads to what each zone or channel has its own of.
    #[error(
        "the stream {stream:?} of each login leads to `{kind}`, of which there are several: choose one by \
         `.bindings(..)`, with the id of `Ref::local(Namespace::zone(..), key)`"
    )]
    StreamOfLocal {
        /// Name of the stream.
        stream: String,
        /// Name of the kind.
        kind: &'static str,
    },
    /// A process is to run what is local, and is nowhere.
    #[error(
        "process {process:?} runs `{kind}`, of which each {scope} has its own, and is of no {scope}: \
         give it \"{scope}\""
    )]
    OfNone {
        /// Name of the process.
        process: String,
        /// Name of the kind.
        kind: &'static str,
        /// `zone` or `channel`.
        scope: &'static str,
    },
    /// Two streams of every login have one name.
    #[error("two streams of each login are called {0:?}: rename one")]
    StreamTwice(String),
}

#[derive(Clone)]
struct Kind {
    info: &'static KindInfo,
    add: Make,
    describe: fn(&mut SchemaBuilder),
}

/// A sort of record, or a change of one.
#[derive(Clone)]
struct Sort {
    name: &'static str,
    /// The store that it names; empty: the default one.
    store: &'static str,
    add: fn(NodeApp) -> NodeApp,
    describe: fn(&mut SchemaBuilder),
}

impl App {
    /// A game without anything. `name` is its cluster's name unless the cluster file says
    /// otherwise.
    pub fn new(name: impl Into<String>) -> Self {
        App {
            name: name.into(),
            kinds: Vec::new(),
            records: Vec::new(),
            changes: Vec::new(),
            maps: Vec::new(),
            clients: Vec::new(),
            bindings: Vec::new(),
            bound: Vec::new(),
            roles: Vec::new(),
            assets: Vec::new(),
            routes: None,
            guests: true,
            accepted: Vec::new(),
            release: 0,
            topics: Vec::new(),
            queues: Vec::new(),
            feeds: Vec::new(),
        }
    }

    /// Offers an entity kind or a service.
    ///
    /// # Panics
    ///
    /// If another kind or service has the same name.
    #[must_use]
    pub fn entity<E: Entity>(self) -> Self {
        self.kind::<E>(Arc::new(|app: NodeApp| app.kind::<E>()))
    }

    /// Offers a kind or service whose keyed entities `make` makes from their key, with what the
    /// game has at hand.
    ///
    /// # Panics
    ///
    /// As [`entity`](App::entity).
    #[must_use]
    pub fn entity_with<E: Entity>(
        self,
        make: impl Fn(u64) -> E + Clone + Send + Sync + 'static,
    ) -> Self {
        self.kind::<E>(Arc::new(move |app: NodeApp| {
            let make = make.clone();
            app.kind::<E>().on_host(move |host: &mut Host| {
                let make = make.clone();
                host.register_with::<E>(move |key| Some(make(key)));
            })
        }))
    }

    fn kind<E: Entity>(mut self, add: Make) -> Self {
        let info = E::KIND;
        let clash = self.kinds.iter().any(|kind| kind.info.id == info.id);
        assert!(!clash, "two kinds or services of app {:?} are called {:?}", self.name, info.name);
        self.kinds.push(Kind { info, add, describe: E::describe });
        self
    }

    /// Keeps records of that sort: the store is opened even if no kind has documents.
    ///
    /// # Panics
    ///
    /// If another sort has the same name.
    #[must_use]
    pub fn record<R: Record>(mut self) -> Self {
        let clash = self.records.iter().any(|sort| sort.name == R::NAME);
        assert!(!clash, "two sorts of record of app {:?} are called {:?}", self.name, R::NAME);
        self.records.push(Sort {
            name: R::NAME,
            store: R::STORE,
            add: NodeApp::record::<R>,
            describe: |schema| {
                describe_document::<R>(&["record", R::NAME].join("/"), schema);
                let fields = vec![Field::new("key", R::Key::shape(schema))];
                let key = StoredDocument { version: 1, oldest: 1, fields };
                schema.document(&["record", R::NAME, "key"].join("/"), key);
            },
        });
        self
    }

    /// Declares what the topics that `pattern` matches promise: `"chat.*"`, `"deeds.>"`. What is not declared
    /// is at most once. A topic that may lose nothing is taken by [`consume`](App::consume), others also by
    /// `cx.subscribe`.
    #[must_use]
    pub fn topic(mut self, pattern: &str, delivery: Delivery) -> Self {
        self.topics.push((pattern.to_owned(), delivery));
        self
    }

    /// Has a queue of jobs, `cx.submit(&job)` gives it one, or of questions: `cx.ask(&question)`. Processes whose role runs all entities, or names
    /// the queue among its entities, have its pull workers.
    ///
    /// # Panics
    ///
    /// If another queue, kind or service has the same name.
    #[must_use]
    pub fn queue(mut self, queue: Queue) -> Self {
        let kinds = self.kinds.iter().map(|kind| kind.info.name);
        let mut names = kinds.chain(self.queues.iter().map(Queue::name));
        let clash = names.any(|name| name == queue.name());
        assert!(!clash, "two queues or kinds of app {:?} are called {:?}", self.name, queue.name());
        self.queues.push(queue);
        self
    }

    /// Has the messages of `topic`, which may lose nothing, handled once by the group of pull workers called
    /// `group`, in whichever process: a service of its own, which may be away while they are published.
    ///
    /// # Panics
    ///
    /// As [`queue`](App::queue).
    #[must_use]
    pub fn consume<M: Message + 'static, F>(
        self,
        (topic, delivery): (&str, Delivery),
        group: &str,
        act: impl Fn(M, Work) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Done> + 'static,
    {
        self.queue(Queue::topic(group, (topic, delivery), act))
    }

    /// Lets whoever may publish on the bus push to users and close them, chosen as [`node::Users`] does,
    /// by tags and without some: [`node::UsersOrder`], `mainstay users`.
    #[must_use]
    pub fn users_from_bus(self) -> Self {
        self.queue(UsersOrder::queue())
    }

    /// Lets clients ask questions of a queue: each login gets a stream called [`ClientQuestion::SERVICE`] with
    /// the request `ask`, answered by whichever process has the pull workers. A full queue is `Busy` to the
    /// client; what a client asked and nobody has begun is cleared as it goes, as
    /// [`Question::CLEARED`](node::Question::CLEARED) says.
    ///
    /// ```
    /// use mainstay::prelude::*;
    ///
    /// /// Asks for a card.
    /// #[derive(Message)]
    /// struct Draw {
    ///     deck: u32,
    /// }
    ///
    /// impl Question for Draw {
    ///     type Answer = u32;
    ///
    ///     const QUEUE: &'static str = "draws";
    /// }
    ///
    /// impl ClientQuestion for Draw {
    ///     const SERVICE: &'static str = "cards";
    /// }
    ///
    /// async fn draw(question: Draw, _work: Work) -> Answered<u32> {
    ///     Ok(Reply::Now(question.deck % 52))
    /// }
    ///
    /// let app = App::new("cards").feed::<Draw>().queue(Queue::answering(draw));
    /// ```
    ///
    /// # Panics
    ///
    /// As [`entity`](App::entity).
    #[must_use]
    pub fn feed<Q: ClientQuestion>(mut self) -> Self {
        self.feeds.push((Q::SERVICE, Q::QUEUE));
        self.entity::<Feed<Q>>().bind::<Feed<Q>>(Q::SERVICE, |_| 0)
    }

    /// Lets sagas name that change of a record.
    ///
    /// # Panics
    ///
    /// If another change has the same name.
    #[must_use]
    pub fn change<C: Change>(mut self) -> Self {
        let clash = self.changes.iter().any(|change| change.name == C::NAME);
        assert!(!clash, "two changes of app {:?} are called {:?}", self.name, C::NAME);
        self.changes.push(Sort {
            name: C::NAME,
            store: "",
            add: NodeApp::change::<C>,
            describe: |_| {},
        });
        self
    }

    /// Keeps a map, and lets sagas move what lies on it from shard to shard.
    ///
    /// # Panics
    ///
    /// If another map has the same name.
    #[must_use]
    pub fn map<G: Grid>(mut self) -> Self {
        let clash = self.maps.iter().any(|map| map.name == G::NAME);
        assert!(!clash, "two maps of app {:?} are called {:?}", self.name, G::NAME);
        self.maps.push(Sort { name: G::NAME, store: "", add: NodeApp::map::<G>, describe: |_| {} });
        self
    }

    /// Offers a service of routes, in the style of small frameworks. Its stream is bound by the
    /// name of the kind.
    ///
    /// # Panics
    ///
    /// If two of its routes have one command, or as [`entity`](App::entity).
    #[must_use]
    pub fn commands<A: RouteApp>(self) -> Self {
        if let Err(error) = Routed::<A>::check() {
            panic!("app {:?}: {error}", self.name);
        }
        self.entity::<Routed<A>>()
    }

    /// Names what clients let the server call, so that it stands in the schema.
    #[must_use]
    pub fn client<C: ClientInterface>(mut self) -> Self {
        self.clients.push(C::describe);
        self
    }

    /// Binds each login's stream `name` to the entity of kind `E` whose key is the account.
    #[must_use]
    pub fn agent<E: Entity>(self, name: &str) -> Self {
        self.bind::<E>(name, |login| login.account.0)
    }

    /// Binds each login's stream `name` to the entity of kind `E` with the key that `key` chooses.
    #[must_use]
    pub fn bind<E: Entity>(
        mut self,
        name: &str,
        key: impl Fn(&Login<'_>) -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.bound.push((name.to_owned(), E::KIND));
        let (name, kind) = (name.to_owned(), E::KIND.id);
        let single = matches!(E::KIND.class, Class::Singleton | Class::Service);
        self.bindings(move |login| {
            let key = if single { 0 } else { key(login) };
            let target = EntityId::keyed(kind, key);
            Ok(vec![Binding { name: name.clone(), target }])
        })
    }

    /// Adds bindings that `choose` chooses for each login, or refuses the login.
    #[must_use]
    pub fn bindings(
        mut self,
        choose: impl Fn(&Login<'_>) -> Result<Vec<Binding>, Refusal> + Send + Sync + 'static,
    ) -> Self {
        self.bindings.push(Arc::new(choose));
        self
    }

    /// Declares a role that the cluster file may give to processes. Without any, a game has the
    /// roles `gate`, `node`, `web` and `console`.
    #[must_use]
    pub fn role(mut self, name: &str, role: Role) -> Self {
        self.roles.push((name.to_owned(), role));
        self
    }

    /// Serves files that are part of the program.
    #[must_use]
    pub fn page(mut self, assets: &'static [Asset]) -> Self {
        self.assets.push(assets);
        self
    }

    /// Serves HTTP routes beside the game.
    #[must_use]
    pub fn routes(mut self, routes: impl Fn() -> Router + Send + Sync + 'static) -> Self {
        self.routes = Some(Arc::new(routes));
        self
    }

    /// Whether `POST /ticket/guest` lets anybody in. On by default; a game with accounts turns it
    /// off.
    #[must_use]
    pub fn guests(mut self, allowed: bool) -> Self {
        self.guests = allowed;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What clients and other nodes may call and are called with.
    ///
    /// # Errors
    ///
    /// If two types or methods of the game have one name or id.
    pub fn schema(&self) -> Result<Schema, SchemaError> {
        let mut builder = SchemaBuilder::new();
        for kind in &self.kinds {
            (kind.describe)(&mut builder);
        }
        for sort in &self.records {
            (sort.describe)(&mut builder);
        }
        for describe in &self.clients {
            describe(&mut builder);
        }
        builder.finish()
    }

    /// Lets clients in that were made for earlier interfaces which this one still serves, as
    /// `interface.lock` lists them. Without a lock only the present interface is known, and
    /// clients that name none.
    #[must_use]
    pub fn accept_interfaces(mut self, hashes: impl IntoIterator<Item = u64>) -> Self {
        self.accepted.extend(hashes);
        self
    }

    /// Numbers the release, 1 and up; each has a greater number than the one before. Once one is marked final
    /// (`mainstay upgrade --final`), older ones do not start any more.
    #[must_use]
    pub fn release(mut self, number: u32) -> Self {
        self.release = number;
        self
    }

    /// The number of its release; 0 if it has none.
    pub(crate) fn release_number(&self) -> u32 {
        self.release
    }

    /// Hashes of the interfaces that clients may be made for.
    pub(crate) fn interfaces(&self) -> Result<Vec<u64>, SchemaError> {
        let mut hashes = self.accepted.clone();
        hashes.push(self.schema()?.interface_hash());
        Ok(hashes)
    }

    /// Whether its declarations fit together.
    pub(crate) fn check(&self) -> Result<(), AppError> {
        for (service, queue) in self.feeds.iter().copied() {
            if !self.queues.iter().any(|known| known.answers() && known.name() == queue) {
                return Err(AppError::NoQueue { service, queue });
            }
        }
        for (at, (stream, kind)) in self.bound.iter().enumerate() {
            if !self.kinds.iter().any(|known| known.info.id == kind.id) {
                let (stream, kind) = (stream.clone(), kind.name);
                return Err(AppError::NotOffered { stream, kind });
            }
            if kind.scope != Scope::Global {
                let (stream, kind) = (stream.clone(), kind.name);
                return Err(AppError::StreamOfLocal { stream, kind });
            }
            if self.bound[..at].iter().any(|(other, _)| other == stream) {
                return Err(AppError::StreamTwice(stream.clone()));
            }
        }
        Ok(())
    }

    /// What it declares on a bus that is `shared` with other processes or not.
    pub(crate) fn topics(&self, shared: bool) -> Vec<(String, Delivery)> {
        let of_queues = self.queues.iter().flat_map(|queue| queue.topics(shared));
        self.topics.iter().cloned().chain(of_queues).collect()
    }

    /// Whether pull workers of it answer.
    pub(crate) fn has_questions(&self) -> bool {
        self.queues.iter().any(Queue::answers)
    }

    /// Whether the bus can give what it declares, as far as that is known without asking a server.
    /// `alone` tells that one process of the cluster runs entities.
    ///
    /// # Errors
    ///
    /// `BusCannotGive`, with what to do.
    pub fn check_bus(&self, bus: &BusPlace, alone: bool) -> Result<(), AppError> {
        let topics = self.topics(bus.is_shared());
        let mut refused = topics.iter().filter_map(|(topic, d)| bus.refuses(topic, *d, alone));
        refused.next().map_or(Ok(()), |problem| Err(AppError::BusCannotGive(problem)))
    }

    /// The stores beside the default one that its kinds and records name.
    pub(crate) fn store_names(&self) -> BTreeSet<&'static str> {
        let names = self.placed().map(|(_, store)| store);
        names.filter(|name| !name.is_empty()).collect()
    }

    /// Its kinds and sorts of records, and the stores that they name.
    fn placed(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let kinds = self.kinds.iter().map(|kind| (kind.info.name, kind.info.store));
        kinds.chain(self.records.iter().map(|sort| (sort.name, sort.store)))
    }

    /// Whether `process` has the stores that kinds name.
    ///
    /// # Errors
    ///
    /// `UnknownStore`, with the nearest name.
    pub fn check_stores(&self, process: &Process) -> Result<(), AppError> {
        let names = || process.stores.iter().map(|(name, _)| name.as_str());
        let is_there = |store: &str| store.is_empty() || names().any(|name| name == store);
        let Some((kind, store)) = self.placed().find(|(_, store)| !is_there(store)) else {
            return Ok(());
        };
        let hint = match tables::nearest(store, names()) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => format!(": add \"stores\": {{{store:?}: {{..}}}}"),
        };
        Err(AppError::UnknownStore { kind, store, hint })
    }

    /// Whether `process` is of a zone, or channel, if its roles name kinds that are local to one. One that
    /// runs all kinds leaves those out.
    ///
    /// # Errors
    ///
    /// `OfNone`, with what to write.
    pub fn check_scopes(&self, process: &Process) -> Result<(), AppError> {
        let Kinds::Named(names) = &process.runs.entities else { return Ok(()) };
        let named =
            self.kinds.iter().map(|kind| kind.info).filter(|kind| names.contains(kind.name));
        let Some(kind) = named.into_iter().find(|kind| !process.hosts(kind.scope)) else {
            return Ok(());
        };
        let scope = if kind.scope == Scope::Zone { "zone" } else { "channel" };
        Err(AppError::OfNone { process: process.name.clone(), kind: kind.name, scope })
    }

    /// The roles that its cluster file may name.
    pub fn role_names(&self) -> Roles {
        let names = self.kinds.iter().map(|kind| kind.info.name);
        let names = names.chain(self.queues.iter().map(Queue::name));
        if self.roles.is_empty() {
            return Roles::standard(names);
        }
        let mut roles = Roles::with_kinds(names);
        for (name, role) in &self.roles {
            roles.add(name, role.clone());
        }
        roles
    }

    pub(crate) fn offers_guests(&self) -> bool {
        self.guests
    }

    /// The ids of its kinds.
    pub(crate) fn kind_ids(&self) -> Vec<KindId> {
        self.kinds.iter().map(|kind| kind.info.id).collect()
    }

    /// Those of them that are local to a zone or channel.
    pub(crate) fn local_kinds(&self) -> Vec<(KindId, Scope)> {
        let kinds = self.kinds.iter().map(|kind| (kind.info.id, kind.info.scope));
        kinds.filter(|(_, scope)| *scope != Scope::Global).collect()
    }

    /// The node part of it: the kinds for which `offered` holds, by name, and whose scope is hosted, and the
    /// bindings.
    pub(crate) fn node_app(
        &self,
        offered: impl Fn(&str) -> bool,
        hosts: impl Fn(Scope) -> bool,
    ) -> NodeApp {
        let kinds = self.kinds.iter().filter(|kind| offered(kind.info.name));
        let kinds: Vec<_> = kinds.filter(|kind| hosts(kind.info.scope)).collect();
        let works = self.queues.iter().map(|queue| (queue.clone(), offered(queue.name())));
        // Where there are no entities nobody reads or writes records.
        let records = self.records.iter().chain(&self.changes).chain(&self.maps);
        let records = records.filter(|_| !kinds.is_empty());
        let app = kinds.iter().fold(NodeApp::new(), |app, kind| (kind.add)(app));
        let app = self.kinds.iter().fold(app, |app, kind| app.knows(kind.info));
        let app = records.fold(app, |app, sort| (sort.add)(app));
        let app = works.fold(app, |app, (queue, works)| app.queue(queue, works));
        let choose = self.chooser();
        app.bindings(move |login| choose(login))
    }

    pub(crate) fn chooser(
        &self,
    ) -> impl Fn(&Login<'_>) -> Result<Vec<Binding>, Refusal> + Clone + Send + Sync + 'static {
        let bindings = self.bindings.clone();
        move |login| {
            let mut all = Vec::new();
            for choose in &bindings {
                all.extend(choose(login)?);
            }
            Ok(all)
        }
    }

    /// Its own HTTP routes.
    pub(crate) fn router(&self) -> Router {
        let own = self.routes.as_ref().map_or_else(Router::new, |routes| routes());
        self.assets.iter().fold(own, |router, assets| router.merge(web::assets(assets)))
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.info.name).collect();
        f.debug_struct("App")
            .field("name", &self.name)
            .field("kinds", &kinds)
            .finish_non_exhaustive()
    }
}
