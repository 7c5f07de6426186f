//! Messages on their way to a handler, and who waits for the answer.

use env::Instant;
use proto::EntityId;
use proto::link::{Slot, WorkerId};

use crate::cx::Peer;
use crate::entity::{Entity, Hook};

/// No entry of a table.
pub(crate) const NONE: u32 = u32::MAX;

/// The `from` of what comes from outside all entities, such as a web handler.
pub(crate) const FROM_OUTSIDE: EntityId =
    EntityId { kind: proto::KindId(0), home: proto::Incarnation::NONE, key: 0 };

/// The `from` of what an operator asked for.
pub(crate) const FROM_OPERATOR: EntityId =
    EntityId { kind: proto::KindId(0), home: proto::Incarnation::NONE, key: 1 };

/// The `from` of what comes from a client's stream.
pub(crate) const FROM_CLIENT: EntityId =
    EntityId { kind: proto::KindId(0), home: proto::Incarnation::NONE, key: 2 };

/// The `from` of a timer's or hook's message.
pub(crate) const FROM_SELF: EntityId =
    EntityId { kind: proto::KindId(0), home: proto::Incarnation::NONE, key: 3 };

/// Who waits for the answer to a message.
#[derive(Debug, Default)]
pub(crate) enum Origin {
    /// Nobody.
    #[default]
    Tell,
    /// A pending call of this worker, in the table of the same shard.
    Local(Slot),
    /// The timer in this slot of the same shard, which counts its callbacks.
    Timer(Slot),
    /// A client; `None` for a tell.
    Client(Peer, Option<u64>),
    /// A pending call of another worker or node.
    Remote(Box<RemoteOrigin>),
}

/// A call that came from another worker.
#[derive(Debug)]
pub(crate) struct RemoteOrigin {
    pub from: WorkerId,
    /// The caller's pending slot; `None` for a tell.
    pub call: Option<Slot>,
    /// The entities whose turns wait for this call, outermost first.
    pub chain: Box<[EntityId]>,
}

/// What a handler is given.
pub(crate) enum Body<E: Entity> {
    Message(E::Message),
    Hook(Hook),
}

/// One message in a mailbox.
pub(crate) struct Mail<E: Entity> {
    pub origin: Origin,
    pub from: EntityId,
    /// When nobody waits any more; `NEVER` for tells.
    pub deadline: Instant,
    /// Position in the kind's methods; `HOOK` for a hook.
    pub method: u16,
    pub body: Body<E>,
}

/// Stands for a hook where a method's position is meant.
pub(crate) const HOOK: u16 = u16::MAX;

/// The mailboxes of a shard: lists in one slab, so that an empty mailbox costs two indices.
pub(crate) struct Mailroom<E: Entity> {
    nodes: Vec<Node<E>>,
    free: u32,
    len: u32,
}

struct Node<E: Entity> {
    next: u32,
    mail: Option<Mail<E>>,
}

/// One mailbox: the ends of its list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mailbox {
    pub head: u32,
    pub tail: u32,
    pub len: u32,
}

impl Mailbox {
    pub const EMPTY: Mailbox = Mailbox { head: NONE, tail: NONE, len: 0 };
}

impl<E: Entity> Mailroom<E> {
    pub fn new() -> Self {
        Mailroom { nodes: Vec::new(), free: NONE, len: 0 }
    }

    /// Messages in all mailboxes.
    pub fn len(&self) -> u32 {
        self.len
    }

    #[inline]
    pub fn push(&mut self, mailbox: &mut Mailbox, mail: Mail<E>) {
        let index = if self.free == NONE {
            let index = self.nodes.len() as u32;
            self.nodes.push(Node { next: NONE, mail: Some(mail) });
            index
        } else {
            let index = self.free;
            let node = &mut self.nodes[index as usize];
            self.free = node.next;
            node.next = NONE;
            node.mail = Some(mail);
            index
        };
        if mailbox.tail == NONE {
            mailbox.head = index;
        } else {
            self.nodes[mailbox.tail as usize].next = index;
        }
        mailbox.tail = index;
        mailbox.len += 1;
        self.len += 1;
    }

    /// Puts a message before all others: what belongs to the entity's beginning.
    pub fn push_front(&mut self, mailbox: &mut Mailbox, mail: Mail<E>) {
        let rest = *mailbox;
        *mailbox = Mailbox::EMPTY;
        self.push(mailbox, mail);
        if rest.head != NONE {
            self.nodes[mailbox.head as usize].next = rest.head;
            mailbox.tail = rest.tail;
            mailbox.len += rest.len;
        }
    }

    #[inline]
    pub fn pop(&mut self, mailbox: &mut Mailbox) -> Option<Mail<E>> {
        let index = mailbox.head;
        let node = self.nodes.get_mut(index as usize)?;
        let mail = node.mail.take();
        mailbox.head = node.next;
        node.next = self.free;
        self.free = index;
        if mailbox.head == NONE {
            mailbox.tail = NONE;
        }
        mailbox.len -= 1;
        self.len -= 1;
        mail
    }

    /// Takes the first message out that fulfils `test`.
    pub fn take(
        &mut self,
        mailbox: &mut Mailbox,
        mut test: impl FnMut(&Mail<E>) -> bool,
    ) -> Option<Mail<E>> {
        let mut before = NONE;
        let mut at = mailbox.head;
        while let Some(node) = self.nodes.get(at as usize) {
            if !node.mail.as_ref().is_some_and(&mut test) {
                before = at;
                at = node.next;
                continue;
            }
            if before == NONE {
                return self.pop(mailbox);
            }
            let after = node.next;
            self.nodes[before as usize].next = after;
            if mailbox.tail == at {
                mailbox.tail = before;
            }
            let node = &mut self.nodes[at as usize];
            node.next = self.free;
            self.free = at;
            mailbox.len -= 1;
            self.len -= 1;
            return node.mail.take();
        }
        None
    }

    /// The next message of a mailbox.
    #[inline]
    pub fn peek(&self, mailbox: &Mailbox) -> Option<&Mail<E>> {
        self.nodes.get(mailbox.head as usize)?.mail.as_ref()
    }

    /// Gives back memory after a flood, once all mailboxes are empty.
    pub fn shrink(&mut self) {
        if self.len == 0 && self.nodes.len() > 65_536 {
            *self = Mailroom::new();
        }
    }
}
