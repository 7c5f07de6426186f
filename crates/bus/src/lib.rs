//! Messages by subject: a source does not know its listeners.
//!
//! Each topic declares its delivery class; a backend that cannot give it refuses at start. The
//! backend is this process, NATS (feature `nats`), or RabbitMQ (feature `rabbitmq`). See [`Bus`].
#![forbid(unsafe_code)]
#![cfg_attr(
    not(any(feature = "nats", feature = "rabbitmq")),
    expect(dead_code, reason = "only backends on servers answer later")
)]

mod answer;
mod backend;
mod bus;
mod connect;
mod desk;
mod local;
mod recent;
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
mod remote;
mod router;
mod subject;
mod topics;
mod trigger;
mod types;

pub use answer::Answer;
pub use bus::{Bus, Message, Subscription};
pub use desk::{
    AnswerError, Ask, AskError, Asked, Cleared, Desk, DeskCounters, End, Gone, Owner, Right,
    Verdict,
};
#[cfg(feature = "nats")]
pub use remote::nats::NatsOptions;
#[cfg(feature = "rabbitmq")]
pub use remote::rabbitmq::RabbitmqOptions;
pub use subject::{SUBJECT_BYTES_MAX, is_pattern, is_subject, matches};
pub use trigger::{Trigger, Undelivered};
pub use types::{Accepted, Counters, Dead, Delivery, Error, Listen, Options, Presence};
