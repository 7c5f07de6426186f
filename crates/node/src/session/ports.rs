use std::fmt;
use std::rc::Rc;

use env::Instant;
use proto::frame::{CloseCode, Status};
use proto::link::{Slot, WorkerId};
use proto::{AccountId, EntityId, MethodId, SessionId};

/// One client at one entity: what the entity may know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The stream at its owner.
    pub slot: Slot,
    /// The worker that holds the stream.
    pub owner: WorkerId,
    /// The session.
    pub session: SessionId,
    /// The account.
    pub account: AccountId,
    /// Login level of the account.
    pub level: u8,
    /// The number that the client and the session's home know the stream by.
    pub handle: u32,
    /// The name that the client knows the stream by.
    pub stream: Rc<str>,
}

/// What became of the wish to open a stream to an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<T> {
    /// The entity is there.
    Ready(T),
    /// It is being loaded; [`super::Streams::handle_activated`] will tell.
    Loading,
    /// There is none, or it takes no clients.
    Refused(Status),
}

/// A message from a client to an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromClient<'a> {
    /// Which method.
    pub method: MethodId,
    /// Its arguments.
    pub body: &'a [u8],
    /// For a request: its number, which comes back with the reply, and the client's deadline in
    /// milliseconds (0: the method's own).
    pub request: Option<(u64, u32)>,
}

/// The entities of this worker, as streams see them.
pub trait Entities {
    /// Names one of them.
    type Seat: Copy + fmt::Debug;
    /// Names a client at one of them.
    type Peer: Clone + fmt::Debug;

    /// Finds `target`, or begins to make it.
    fn activate(&mut self, target: EntityId) -> Opening<Self::Seat>;

    /// Makes the entity's name for a client.
    fn peer(&mut self, info: &PeerInfo) -> Self::Peer;

    /// A client was bound or is connected again.
    fn online(&mut self, seat: Self::Seat, peer: &Self::Peer);

    /// A client is away; for good if `ended`.
    fn offline(&mut self, seat: Self::Seat, peer: &Self::Peer, code: CloseCode, ended: bool);

    /// Gives an entity a message. After `Ok` to a request exactly one [`super::Streams::reply`] follows.
    ///
    /// # Errors
    ///
    /// Why it was not taken; no reply follows.
    fn deliver(
        &mut self,
        now: Instant,
        seat: Self::Seat,
        peer: &Self::Peer,
        message: FromClient<'_>,
    ) -> Result<(), Status>;

    /// The client's answer to the call `tag`, or why there is none.
    fn answered(&mut self, tag: u64, status: Status, body: &[u8]);
}

/// How a push treats a client that is away or slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Numbered: arrives once, in order, also over a break.
    Reliable,
    /// Of each key the newest: while the client is away only that is kept.
    Latest(u64),
    /// May be lost; dropped while the client is away.
    Unreliable,
}

/// What a worker's streams hold and have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Streams now, connected or not.
    pub streams: usize,
    /// Streams now whose client is away.
    pub away: usize,
    /// Requests now that wait for their answer.
    pub open_requests: usize,
    /// Calls to clients now that wait for their answer.
    pub open_calls: usize,
    /// Frames now that clients have not acknowledged.
    pub unacked: usize,
    /// Groups now.
    pub groups: usize,
    /// Memberships now.
    pub memberships: usize,
    /// Frames from clients handed to entities.
    pub delivered: u64,
    /// Frames from clients that entities did not take.
    pub refused: u64,
    /// Frames from clients handled before; not handled again.
    pub duplicates: u64,
    /// Answers given again because their request was repeated.
    pub repeated: u64,
    /// Repeated requests whose answer was not kept any more.
    pub forgotten: u64,
    /// Frames sent again to clients that came back.
    pub replayed: u64,
    /// Frames from connections that no longer speak for their session.
    pub stale: u64,
    /// Pushes dropped because their client was away or its stream gone.
    pub dropped: u64,
    /// Second replies to one request; none reached a client.
    pub second_replies: u64,
    /// Connections closed because their client read too slowly.
    pub slow_readers: u64,
    /// Sessions given up because too much was kept for a client that was away.
    pub overflows: u64,
    /// Connections closed because a frame of their client was missing.
    pub gaps: u64,
    /// Sessions ended because the client broke the protocol.
    pub violations: u64,
}
