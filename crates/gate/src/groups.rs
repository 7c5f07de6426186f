use env::FastMap;
use proto::link::{GroupId, Slot};

use crate::conn::Membership;

/// The groups that have members at this gate.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    by_id: FastMap<GroupId, u32>,
    groups: Vec<Group>,
    free: Vec<u32>,
    members: usize,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) members: Vec<Slot>,
}

impl Groups {
    /// How many groups have members here.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many memberships there are.
    pub(crate) const fn members(&self) -> usize {
        self.members
    }

    pub(crate) fn find(&self, id: GroupId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn get(&self, index: u32) -> &Group {
        &self.groups[index as usize]
    }

    /// The groups that the worker's node owned, lowest index first.
    pub(crate) fn of_node(&self, node: proto::Incarnation) -> Vec<GroupId> {
        let owned = self.groups.iter().filter(|group| !group.members.is_empty());
        owned.filter(|group| group.id.node == node).map(|group| group.id).collect()
    }

    /// Adds a member that is not in the group yet.
    pub(crate) fn join(&mut self, id: GroupId, conn: Slot) -> Membership {
        let group = *self.by_id.entry(id).or_insert_with(|| match self.free.pop() {
            Some(index) => {
                self.groups[index as usize].id = id;
                index
            }
            None => {
                self.groups.push(Group { id, members: Vec::new() });
                self.groups.len() as u32 - 1
            }
        });
        let members = &mut self.groups[group as usize].members;
        members.push(conn);
        self.members += 1;
        Membership { group, place: members.len() as u32 - 1 }
    }

    /// Removes a member. Gives the member that took its place and must be told of it.
    pub(crate) fn leave(&mut self, membership: Membership) -> Option<Slot> {
        let group = &mut self.groups[membership.group as usize];
        group.members.swap_remove(membership.place as usize);
        self.members -= 1;
        let moved = group.members.get(membership.place as usize).copied();
        if group.members.is_empty() {
            self.by_id.remove(&group.id);
            group.members = Vec::new();
            self.free.push(membership.group);
        }
        moved
    }
}
