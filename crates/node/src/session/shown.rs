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
            stats.open_calls += stream.rare().calls.len();
            stats.unacked += stream.unacked();
        }
        stats
    }

    /// The streams, to look at: of which session, and who they take for its home.
    pub fn list(&self) -> Vec<String> {
        let streams = (0u32..).zip(&self.table);
        let streams = streams.filter_map(|(index, entry)| Some((index, entry.stream.as_ref()?)));
        let text = streams.map(|(index, stream)| {
            let (info, home) = (&stream.info, stream.home);
            let lost = if self.orphans.has(index) { ", which is lost" } else { "" };
            format!(
                "stream {} of account {} in {:?}, attached {}, at home {home:?}{lost}",
                stream.info.handle,
                info.account.0,
                info.session,
                stream.is_attached(),
            )
        });
        text.collect()
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
                found.extend(groups.map(|group| (stream.info.handle, group)));
            }
        }
        found
    }
}
