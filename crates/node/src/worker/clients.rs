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
            stream: info.stream.clone(),
        })
    }

    fn online(&mut self, seat: Target, peer: &Peer) {
        Host::online(self, seat, peer);
    }

    fn offline(&mut self, seat: Target, peer: &Peer, code: CloseCode, ended: bool) {
        Host::offline(self, seat, peer, code, ended);
    }

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

/// Does one thing that an entity wants with its clients.
pub(super) fn client_out(
    now: Instant,
    out: &mut Links<'_>,
    streams: &mut Streams<Host>,
    groups: &mut FastMap<GroupSlot, OwnedGroup>,
    said: ClientOut<'_>,
) {
    let known = |groups: &FastMap<GroupSlot, OwnedGroup>, group: GroupSlot| {
        groups.get(&group).map(|group| group.id).ok_or(GroupError::NotFound)
    };
    let problem = match said {
        ClientOut::Push { peer, method, mode, body } => {
            streams.push(out, peer, (method, delivery(mode)), body);
            return;
        }
        ClientOut::Reply { peer, tag, status, body } => {
            streams.reply(out, peer, tag, status, body);
            return;
        }
        ClientOut::Call { peer, tag, method, wait, body } => {
            streams.call(now, out, peer, (tag, method), Some(wait), body);
            return;
        }
        ClientOut::Bind { peer, name, target } => return streams.rebind(out, peer, name, target),
        ClientOut::Unbind { peer, name } => return streams.release(out, peer, name),
        ClientOut::Kick { peer, code, reason } => return streams.kick(out, peer, code, reason),
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
    if let Err(error) = problem {
        tracing::debug!(%error, "a group could not do as asked");
    }
}

fn delivery(mode: PushMode) -> Delivery {
    match mode {
        PushMode::Reliable => Delivery::Reliable,
        PushMode::Latest(key) => Delivery::Latest(key),
        PushMode::Unreliable => Delivery::Unreliable,
    }
}
