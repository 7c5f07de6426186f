//! What there is to be seen of a worker's streams.

use proto::SessionId;

use super::groups::Groups;
use super::ports::{Entities, StreamStats};
use super::streams::Streams;

impl<E: Entities> Streams<E> {
    /// What is held and what was seen. Looks at every stream.
    pub fn stats(&self) -> StreamStats {
        let mut stats = StreamStats {
            streams: self.len,
            groups: self.groups.len(),
            memberships: self.groups.memberships(),
            ..self.stats
        };
        for stream in self.table.iter().filter_map(|entry| entry.stream.as_ref()) {
            stats.away += usize::from(!stream.is_attached());
            stats.open_requests += stream.open.len();
            stats.open_calls += stream.calls.len();
            stats.unacked += stream.unacked();
        }
        stats
    }

    /// The groups, to look at.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The memberships of a session in groups of this worker: handles of stream and group, as its
    /// client knows them. Looks at every stream.
    pub fn memberships_of(&self, session: SessionId) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        for (index, entry) in (0u32..).zip(&self.table) {
            let Some(stream) = entry.stream.as_ref() else { continue };
            if stream.info.session == session {
                let groups = self.groups.handles_of(index);
                found.extend(groups.map(|group| (stream.handle, group)));
            }
        }
        found
    }
}
