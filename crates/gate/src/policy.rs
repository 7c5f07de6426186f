use std::net::SocketAddr;

use env::Instant;
use proto::{AccountId, KindId, MethodId};

use crate::Rate;
use crate::bucket::Price;
use crate::guard::Rates;

/// A client's `Tell` or `Request` on its way to an entity, as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct EdgeFrame<'a> {
    /// The account, from its ticket.
    pub account: AccountId,
    /// The account's level, from its ticket.
    pub level: u8,
    /// The client's address.
    pub peer: SocketAddr,
    /// The kind of the entity behind the stream.
    pub kind: KindId,
    /// The method.
    pub method: MethodId,
    /// The frame's number; 0 if it may be lost.
    pub number: u64,
    /// The encoded arguments.
    pub body: &'a [u8],
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is refused. Of a numbered frame an empty one with method 0 takes the place, so that the
    /// stream goes on and the client gets an error; an unnumbered one is dropped.
    Refuse,
    /// The connection is closed with `Limit`.
    Close,
}

/// A rule of the game or the operator at the edge of the cluster.
///
/// Called for every `Tell` and `Request`; must be fast and must not block. Without policies
/// frames are not even looked into.
pub type Policy = Box<dyn FnMut(Instant, &EdgeFrame<'_>) -> Verdict + Send>;

/// A policy that refuses calls of `method` of `kind` beyond `rate`, per account.
pub fn method_rate(kind: KindId, method: MethodId, rate: Rate) -> Policy {
    let mut rates = Rates::new(Price::new(rate));
    Box::new(move |now, frame| {
        if frame.kind != kind || frame.method != method || rates.take(now, frame.account) {
            Verdict::Pass
        } else {
            Verdict::Refuse
        }
    })
}

/// A policy that refuses `method` of `kind` to all below `level`.
pub fn method_level(kind: KindId, method: MethodId, level: u8) -> Policy {
    Box::new(move |_, frame| {
        if frame.kind == kind && frame.method == method && frame.level < level {
            Verdict::Refuse
        } else {
            Verdict::Pass
        }
    })
}
