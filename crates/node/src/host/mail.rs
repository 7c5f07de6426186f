//! Messages on their way to a handler, and who waits for the answer.

use env::Instant;
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation, KindId};

use crate::cx::Peer;
use crate::entity::{Entity, Hook};

/// No entry of a table.
pub(crate) const NONE: u32 = u32::MAX;

/// Who sent a message: an entity's id without what is known anyway, so that it is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub key: u64,
    pub kind: KindId,
    pub form: SenderForm,
}

/// What a [`Sender`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SenderForm {
    /// A keyed entity.
    Keyed,
    /// A room of this node.
    Room,
    /// A room of another node: the message's [`RemoteOrigin`] names it.
    Far,
    /// What is no entity, such as a web handler.
    Outside,
    /// An operator.
    Operator,
    /// A client: the message's origin names it.
    Client,
    /// The entity itself: a timer, a hook, a topic.
    Own,
}

impl Sender {
    const fn pseudo(form: SenderForm) -> Self {
        Sender { key: 0, kind: KindId(0), form }
    }

    pub const OUTSIDE: Sender = Sender::pseudo(SenderForm::Outside);
    pub const OPERATOR: Sender = Sender::pseudo(SenderForm::Operator);
    pub const CLIENT: Sender = Sender::pseudo(SenderForm::Client);
    pub const OWN: Sender = Sender::pseudo(SenderForm::Own);

    /// The entity `id`, seen from a worker of the node `me`.
    #[inline]
    pub fn of(id: EntityId, me: Incarnation) -> Self {
        let form = if id.home == Incarnation::NONE {
            SenderForm::Keyed
        } else if id.home == me {
            SenderForm::Room
        } else {
            SenderForm::Far
        };
        Sender { key: id.key, kind: id.kind, form }
    }

    /// The entity's id, unless it is a room of another node or no entity.
    pub fn id(self, me: Incarnation) -> Option<EntityId> {
        let home = match self.form {
            SenderForm::Keyed => Incarnation::NONE,
            SenderForm::Room => me,
            _ => return None,
        };
        Some(EntityId { kind: self.kind, home, key: self.key })
    }

    /// The sender's id, also if it is a room of another node.
    pub fn id_with(self, origin: &Origin, me: Incarnation) -> Option<EntityId> {
        match (self.form, origin) {
            (SenderForm::Far, Origin::Remote(remote)) => remote.sender,
            _ => self.id(me),
        }
    }
}

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
    /// A client that waits for nothing.
    Client(Peer),
    /// A client that waits for the answer with this tag.
    Request(Peer, u64),
    /// A pending call of another worker.
    Remote(Box<RemoteOrigin>),
}

/// A message that came from another worker.
#[derive(Debug)]
pub(crate) struct RemoteOrigin {
    pub from: WorkerId,
    /// The caller's pending slot; `None` for a tell.
    pub call: Option<Slot>,
    /// The sending entity, if it is a room of another node.
    pub sender: Option<EntityId>,
    /// The entities whose turns wait for this call, outermost first, without the sender.
    pub chain: Box<[EntityId]>,
}

/// What a handler is given.
pub(crate) enum Body<E: Entity> {
    Message(E::Message),
    Hook(Box<Hook>),
}

/// One message in a mailbox.
pub(crate) struct Mail<E: Entity> {
    pub origin: Origin,
    pub sender: Sender,
    /// When nobody waits any more; `NEVER` for tells.
    pub deadline: Instant,
    pub body: Body<E>,
    /// Position in the kind's methods; `HOOK` for a hook.
    pub method: u16,
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
    mail: Option<Mail<E>>,
    next: u32,
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

    #[inline(always)]
    pub fn push(&mut self, mailbox: &mut Mailbox, mail: Mail<E>) {
        let index = if self.free == NONE {
            let index = self.nodes.len() as u32;
            self.nodes.push(Node { mail: Some(mail), next: NONE });
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

    #[inline(always)]
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
