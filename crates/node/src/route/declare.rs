use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use super::request::{Answer, Failure, Peer, Request, RequestInfo};

/// A handler's future.
pub(super) type Work = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// A function behind a command.
pub(super) enum Handler<C> {
    Now(Box<dyn Fn(&mut C, &mut Request) -> Result<(), Failure>>),
    Later(Box<dyn Fn(&C, Request) -> Work>),
}

type Plain<C> = Box<dyn Fn(&mut C) -> Result<(), Failure>>;
pub(super) type OnPeer<C> = Box<dyn Fn(&mut C, &Peer) -> Result<(), Failure>>;
type OnRequest<C> = Box<dyn Fn(&mut C, &mut Request) -> Result<(), Failure>>;
type AfterRequest<C> = Box<dyn Fn(&mut C, &RequestInfo, Option<&Failure>) -> Result<(), Failure>>;
type BeforeResponse<C> = Box<dyn Fn(&mut C, &RequestInfo, &mut Answer) -> Result<(), Failure>>;
type AfterResponse<C> = Box<dyn Fn(&mut C, &RequestInfo, &Answer) -> Result<(), Failure>>;

/// A set of hooks. Several of one kind run in the order they were added.
pub struct Hooks<C> {
    pub(super) start_worker: Vec<Plain<C>>,
    pub(super) stop_worker: Vec<Plain<C>>,
    pub(super) open_connection: Vec<OnPeer<C>>,
    pub(super) close_connection: Vec<OnPeer<C>>,
    pub(super) client_come: Vec<OnPeer<C>>,
    pub(super) client_gone: Vec<OnPeer<C>>,
    pub(super) first_request: Vec<OnRequest<C>>,
    pub(super) before_request: Vec<OnRequest<C>>,
    pub(super) after_request: Vec<AfterRequest<C>>,
    pub(super) before_response: Vec<BeforeResponse<C>>,
    pub(super) after_response: Vec<AfterResponse<C>>,
}

impl<C> Default for Hooks<C> {
    fn default() -> Self {
        Hooks {
            start_worker: Vec::new(),
            stop_worker: Vec::new(),
            open_connection: Vec::new(),
            close_connection: Vec::new(),
            client_come: Vec::new(),
            client_gone: Vec::new(),
            first_request: Vec::new(),
            before_request: Vec::new(),
            after_request: Vec::new(),
            before_response: Vec::new(),
            after_response: Vec::new(),
        }
    }
}

macro_rules! hook {
    ($(#[$doc:meta])* $name:ident($($arg:ty),*)) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(
            mut self,
            hook: impl Fn(&mut C, $($arg),*) -> Result<(), Failure> + 'static,
        ) -> Self {
            self.$name.push(Box::new(hook));
            self
        }
    };
}

impl<C> Hooks<C> {
    /// No hooks.
    pub fn new() -> Self {
        Self::default()
    }

    hook!(
        /// When the worker starts; a failure refuses the start.
        start_worker()
    );
    hook!(
        /// When the worker stops.
        stop_worker()
    );
    hook!(
        /// When a connection opens; a failure closes it.
        open_connection(&Peer)
    );
    hook!(
        /// When a connection closed, for whatever reason.
        close_connection(&Peer)
    );
    hook!(
        /// When a client came: its session has logged in. A failure closes its connection.
        client_come(&Peer)
    );
    hook!(
        /// When a client is gone: its session has ended.
        client_gone(&Peer)
    );
    hook!(
        /// Before the first request of this worker, once. A failure stops that request, and the
        /// next one tries again.
        first_request(&mut Request)
    );
    hook!(
        /// Before each request. A failure stops it.
        before_request(&mut Request)
    );
    hook!(
        /// After a handler ended; it gets the handler's failure, if it failed.
        after_request(&RequestInfo, Option<&Failure>)
    );
    hook!(
        /// Before an answer leaves; may change it. A failure replaces it by its code.
        before_response(&RequestInfo, &mut Answer)
    );
    hook!(
        /// After an answer left.
        after_response(&RequestInfo, &Answer)
    );
}

/// A timer that repeats for as long as the worker runs.
pub(super) struct Repeat<C> {
    pub(super) every: Duration,
    pub(super) run: Plain<C>,
    pub(super) place: Rc<str>,
}

/// What an app and a blueprint share: commands and timers.
struct Part<C> {
    name: String,
    commands: Vec<(u32, Handler<C>)>,
    repeats: Vec<(Duration, Plain<C>)>,
}

impl<C> Part<C> {
    fn new(name: String) -> Self {
        Part { name, commands: Vec::new(), repeats: Vec::new() }
    }

    fn route(
        &mut self,
        command: u32,
        handler: impl Fn(&mut C, &mut Request) -> Result<(), Failure> + 'static,
    ) {
        self.commands.push((command, Handler::Now(Box::new(handler))));
    }

    fn route_async<F>(&mut self, command: u32, handler: impl Fn(C, Request) -> F + 'static)
    where
        C: Clone + 'static,
        F: Future<Output = Result<(), Failure>> + 'static,
    {
        let start = move |cx: &C, request| -> Work { Box::pin(handler(cx.clone(), request)) };
        self.commands.push((command, Handler::Later(Box::new(start))));
    }
}

macro_rules! part {
    () => {
        /// Handles `command` by `handler`.
        #[must_use]
        pub fn route(
            mut self,
            command: u32,
            handler: impl Fn(&mut C, &mut Request) -> Result<(), Failure> + 'static,
        ) -> Self {
            self.part.route(command, handler);
            self
        }

        /// Handles `command` by an async `handler`. Other requests are handled while it waits.
        #[must_use]
        pub fn route_async<F>(
            mut self,
            command: u32,
            handler: impl Fn(C, Request) -> F + 'static,
        ) -> Self
        where
            C: Clone,
            F: Future<Output = Result<(), Failure>> + 'static,
        {
            self.part.route_async(command, handler);
            self
        }

        /// Runs `run` every `every`, first after that time, without drift. A failure is reported
        /// and the repeats go on.
        #[must_use]
        pub fn repeat_timer(
            mut self,
            every: Duration,
            run: impl Fn(&mut C) -> Result<(), Failure> + 'static,
        ) -> Self {
            self.part.repeats.push((every, Box::new(run)));
            self
        }

        /// Adds a hook before each request that concerns this part.
        #[must_use]
        pub fn before_request(
            mut self,
            hook: impl Fn(&mut C, &mut Request) -> Result<(), Failure> + 'static,
        ) -> Self {
            self.hooks.before_request.push(Box::new(hook));
            self
        }

        /// Adds a hook after each request that concerns this part.
        #[must_use]
        pub fn after_request(
            mut self,
            hook: impl Fn(&mut C, &RequestInfo, Option<&Failure>) -> Result<(), Failure> + 'static,
        ) -> Self {
            self.hooks.after_request.push(Box::new(hook));
            self
        }
    };
}

/// A named group of routes with hooks of its own, registered in one line.
pub struct Blueprint<C> {
    part: Part<C>,
    hooks: Hooks<C>,
    app_hooks: Hooks<C>,
}

impl<C: 'static> Blueprint<C> {
    /// An empty blueprint called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Blueprint {
            part: Part::new(name.into()),
            hooks: Hooks::default(),
            app_hooks: Hooks::default(),
        }
    }

    part!();

    /// Replaces the hooks around this blueprint's own commands. Those of worker, connection and
    /// client run app-wide here too.
    #[must_use]
    pub fn hooks(mut self, hooks: Hooks<C>) -> Self {
        self.hooks = hooks;
        self
    }

    /// Replaces the hooks that this blueprint adds to the whole app.
    #[must_use]
    pub fn app_hooks(mut self, hooks: Hooks<C>) -> Self {
        self.app_hooks = hooks;
        self
    }
}

/// An app made of routes. [`Router::start`](super::Router::start) checks and runs it.
pub struct Routes<C> {
    part: Part<C>,
    hooks: Hooks<C>,
    blueprints: Vec<Blueprint<C>>,
    idle: Option<Duration>,
}

impl<C: 'static> Routes<C> {
    /// An app called `name` without routes.
    pub fn new(name: impl Into<String>) -> Self {
        Routes {
            part: Part::new(name.into()),
            hooks: Hooks::default(),
            blueprints: Vec::new(),
            idle: None,
        }
    }

    /// The app's name; the kind of the service that clients are bound to.
    pub fn name(&self) -> &str {
        &self.part.name
    }

    part!();

    /// Replaces the app's own hooks.
    #[must_use]
    pub fn hooks(mut self, hooks: Hooks<C>) -> Self {
        self.hooks = hooks;
        self
    }

    /// Adds a blueprint.
    #[must_use]
    pub fn blueprint(mut self, blueprint: Blueprint<C>) -> Self {
        self.blueprints.push(blueprint);
        self
    }

    /// Closes a connection from which no request came for `idle`.
    #[must_use]
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Checks the declaration and takes it apart for running.
    pub(super) fn check(self) -> Result<Table<C>, RouteError> {
        let mut table = Table {
            name: self.part.name.clone(),
            routes: BTreeMap::new(),
            hooks: self.hooks,
            blueprints: Vec::new(),
            repeats: Vec::new(),
            idle: self.idle,
        };
        if table.idle.is_some_and(|idle| idle.is_zero()) {
            return Err(RouteError::ZeroTime { place: format!("idle timeout of {}", table.name) });
        }
        table.add("app", None, self.part)?;
        for blueprint in self.blueprints {
            let name: Rc<str> = blueprint.part.name.as_str().into();
            if table.blueprints.iter().any(|known| known.name == name) {
                return Err(RouteError::BlueprintTwice { name: blueprint.part.name });
            }
            let at = table.blueprints.len();
            table.blueprints.push(Registered {
                name: name.clone(),
                own: blueprint.hooks,
                app: blueprint.app_hooks,
            });
            table.add(&name, Some(at), blueprint.part)?;
        }
        Ok(table)
    }
}

/// A checked declaration.
pub(super) struct Table<C> {
    pub(super) name: String,
    pub(super) routes: BTreeMap<u32, Rc<Route<C>>>,
    pub(super) hooks: Hooks<C>,
    pub(super) blueprints: Vec<Registered<C>>,
    pub(super) repeats: Vec<Rc<Repeat<C>>>,
    pub(super) idle: Option<Duration>,
}

/// A registered blueprint's hooks.
pub(super) struct Registered<C> {
    pub(super) name: Rc<str>,
    pub(super) own: Hooks<C>,
    pub(super) app: Hooks<C>,
}

/// One command's handler.
pub(super) struct Route<C> {
    pub(super) place: Rc<str>,
    pub(super) blueprint: Option<usize>,
    pub(super) handler: Handler<C>,
}

impl<C> Table<C> {
    fn add(
        &mut self,
        owner: &str,
        blueprint: Option<usize>,
        part: Part<C>,
    ) -> Result<(), RouteError> {
        for (command, handler) in part.commands {
            let place: Rc<str> = format!("{owner}:{command}").into();
            if let Some(known) = self.routes.get(&command) {
                return Err(RouteError::CommandTwice {
                    command,
                    first: known.place.to_string(),
                    second: place.to_string(),
                });
            }
            self.routes.insert(command, Rc::new(Route { place, blueprint, handler }));
        }
        for (at, (every, run)) in part.repeats.into_iter().enumerate() {
            let place = format!("repeat timer {} of {owner}", at + 1);
            if every.is_zero() {
                return Err(RouteError::ZeroTime { place });
            }
            self.repeats.push(Rc::new(Repeat { every, run, place: place.into() }));
        }
        Ok(())
    }
}

/// Why an app of routes was refused at start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Two handlers for one command: renumber one.
    #[error("command {command} is handled twice: by {first} and by {second}")]
    CommandTwice {
        /// The command.
        command: u32,
        /// The place registered first.
        first: String,
        /// The place registered second.
        second: String,
    },
    /// One blueprint name registered twice: rename one.
    #[error("blueprint {name} is registered twice")]
    BlueprintTwice {
        /// The name.
        name: String,
    },
    /// A time of zero.
    #[error("{place} has a time of zero")]
    ZeroTime {
        /// Whose time.
        place: String,
    },
    /// A start hook failed.
    #[error("start hook of {place} failed: {failure}")]
    Start {
        /// `app` or the blueprint.
        place: String,
        /// What it said.
        failure: Failure,
    },
}
