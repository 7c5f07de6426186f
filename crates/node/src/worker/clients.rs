use std::time::Duration;

use env::{FastMap, Instant};
use proto::EntityId;
use proto::frame::{CloseCode, Status};

use super::OwnedGroup;
use super::links::Links;
use crate::cx::{GroupSlot, Peer, PushMode};
use crate::host::{Activation, ClientMessage, ClientOut, ClientRequest, Host, Target};
use crate::session::{Delivery, Entities, FromClient, GroupError, Opening, PeerInfo, Streams};

impl Entities for Host {
    type Seat = Target;
    type Peer = Peer;

    fn activate(&mut self, target: EntityId) -> Opening<Target> {
        match Host::activate(self, target) {
            Activation::Ready(seat) => Opening::Ready(seat),
            Activation::Loading => Opening::Loading,
            Activation::Refused(status) => Opening::Refused(status),
        }
    }

    fn peer(&mut self, info: &PeerInfo) -> Peer {
        Peer::new(crate::cx::PeerInfo {
            slot: info.slot,
            session: info.session,
            account: info.account,
            level: info.level,
            handle: info.handle,
            stream: info.stream.clone(),
        })
    }

    fn online(&mut self, seat: Target, peer: &Peer) {
        Host::online(self, seat, peer);
    }

    fn offline(&mut self, seat: Target, peer: &Peer, code: CloseCode, ended: bool) {
        Host::offline(self, seat, peer, code, ended);
    }

    #[inline(always)]
    fn deliver(
        &mut self,
        now: Instant,
        seat: Target,
        peer: &Peer,
        message: FromClient<'_>,
    ) -> Result<(), Status> {
        let request = message.request.map(|(tag, deadline_ms)| ClientRequest {
            tag,
            wait: (deadline_ms != 0).then(|| Duration::from_millis(u64::from(deadline_ms))),
        });
        let message = ClientMessage { method: message.method, body: message.body, request };
        self.deliver_client(now, seat, peer, message)
    }

    fn answered(&mut self, tag: u64, status: Status, body: &[u8]) {
        self.client_answered(tag, status, body);
    }
}

/// Does one thing that an entity wants with its clients. Gives the group that could not be opened,
/// if it wanted one.
#[inline]
pub(super) fn client_out(
    now: Instant,
    out: &mut Links<'_>,
    streams: &mut Streams<Host>,
    groups: &mut FastMap<GroupSlot, OwnedGroup>,
    said: ClientOut<'_>,
) -> Option<GroupSlot> {
    let known = |groups: &FastMap<GroupSlot, OwnedGroup>, group: GroupSlot| {
        groups.get(&group).map(|group| group.id).ok_or(GroupError::NotFound)
    };
    let opening = match said {
        ClientOut::GroupOpen { group, .. } => Some(group),
        _ => None,
    };
    let problem = match said {
        ClientOut::Push { peer, method, mode, body } => {
            streams.push(out, peer, (method, delivery(mode)), body);
            return None;
        }
        ClientOut::Reply { peer, tag, status, body } => {
            streams.reply(out, peer, tag, status, body);
            return None;
        }
        ClientOut::Call { peer, tag, method, wait, body } => {
            streams.call(now, out, peer, (tag, method), Some(wait), body);
            return None;
        }
        ClientOut::Bind { peer, name, target } => {
            streams.rebind(out, peer, name, target);
            return None;
        }
        ClientOut::Unbind { peer, name } => {
            streams.release(out, peer, name);
            return None;
        }
        ClientOut::Kick { peer, code, reason } => {
            streams.kick(out, peer, code, reason);
            return None;
        }
        ClientOut::GroupOpen { owner, group, name, kind } => {
            streams.create_group(EntityId::default(), kind, name).map(|id| {
                groups.insert(group, OwnedGroup { id, owner });
            })
        }
        ClientOut::GroupJoin { group, peer } => {
            known(groups, group).and_then(|id| streams.join(out, id, peer))
        }
        ClientOut::GroupLeave { group, peer } => {
            known(groups, group).and_then(|id| streams.leave(out, id, peer))
        }
        ClientOut::GroupCast { group, method, mode, body } => known(groups, group)
            .and_then(|id| streams.cast(out, id, (method, delivery(mode)), body)),
        ClientOut::GroupClose { group } => groups
            .remove(&group)
            .ok_or(GroupError::NotFound)
            .and_then(|group| streams.disband(out, group.id)),
    };
    match problem {
        Ok(()) => None,
        Err(error) => {
            match opening {
                Some(_) => tracing::warn!(%error, "a group could not be opened"),
                None => tracing::debug!(%error, "a group could not do as asked"),
            }
            opening
        }
    }
}

fn delivery(mode: PushMode) -> Delivery {
    match mode {
        PushMode::Reliable => Delivery::Reliable,
        PushMode::Latest(key) => Delivery::Latest(key),
        PushMode::Unreliable => Delivery::Unreliable,
    }
}
