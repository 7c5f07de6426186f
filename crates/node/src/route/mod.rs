//! Routes, blueprints and hooks: a small game as functions with command numbers.
//!
//! [`Routes`] declares, [`Router`] runs. A router is pure: requests, connections and time go in by
//! `handle_*`, answers come out of [`Router::poll_output`]. The same routes serve clients bound
//! through a gate, a stand-alone server and a worker that pulls its requests from a queue; only
//! the [`Peer`] of a request tells which it was.
//!
//! Order of the hooks around one request: before-request of the app, then the app-wide ones of
//! all blueprints in the order of their registration, then the own ones of the command's
//! blueprint; the handler; then after-request of the own blueprint, the app-wide ones of all
//! blueprints, the app. A before-hook that fails or interrupts ends the request there: neither
//! the handler nor any after-hook runs.

mod bind;
mod declare;
mod request;
mod router;

pub use bind::{Ask, RouteApp, RouteCx, RouteMessage, RouteReply, RouteStub, Routed};
pub use declare::{Blueprint, Hooks, RouteError, Routes};
pub use request::{
    ANSWER_LOST, ANSWER_TIMEOUT, Answer, AnswerError, BUSY, Failure, HANDLER_FAILED, Notify, OK,
    Peer, Request, RequestInfo, Responder, Ticket, UNKNOWN_COMMAND,
};
pub use router::{Asked, Later, Options, Output, Router, Started};

#[cfg(test)]
mod bind_tests;
#[cfg(test)]
mod tests;
