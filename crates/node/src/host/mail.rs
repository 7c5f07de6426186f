//! Messages on their way to a handler, and who waits for the answer.

use env::Instant;
use proto::link::{Slot, WorkerId};
use proto::{EntityId, Incarnation, KindId};

use crate::cx::Peer;
use crate::entity::{Entity, Hook};

/// No entry of a table.
pub(crate) const NONE: u32 = u32::MAX;

/// Stands for a message's node where its handler runs in place of the call that it answers.
pub(crate) const IN_PLACE: u32 = u32::MAX - 1;

/// Who sent a message: an entity's id without what is known anyway, so that it is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub key: u64,
    /// `kind << 8 | form`: two words travel in registers.
    tag: u64,
}

/// What a [`Sender`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SenderForm {
    /// A keyed entity.
    Keyed = 0,
    /// A room of this node.
    Room = 1,
    /// A room of another node: the message's [`RemoteOrigin`] names it.
    Far = 2,
    /// What is no entity, such as a web handler.
    Outside = 3,
    /// An operator.
    Operator = 4,
    /// A client: the message's origin names it.
    Client = 5,
    /// The entity itself: a timer, a hook, a topic.
    Own = 6,
}

impl Sender {
    #[inline]
    pub const fn new(key: u64, kind: KindId, form: SenderForm) -> Self {
        Sender { key, tag: (kind.0 as u64) << 8 | form as u64 }
    }

    const fn pseudo(form: SenderForm) -> Self {
        Sender::new(0, KindId(0), form)
    }

    /// What it is.
    #[inline]
    pub const fn form(self) -> SenderForm {
        match self.tag as u8 {
            0 => SenderForm::Keyed,
            1 => SenderForm::Room,
            2 => SenderForm::Far,
            3 => SenderForm::Outside,
            4 => SenderForm::Operator,
            5 => SenderForm::Client,
            _ => SenderForm::Own,
        }
    }

    /// Whether it is an operator.
    #[inline]
    pub const fn is_operator(self) -> bool {
        self.tag as u8 == SenderForm::Operator as u8
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
        Sender::new(id.key, id.kind, form)
    }

    /// The entity's id, unless it is a room of another node or no entity.
    pub fn id(self, me: Incarnation) -> Option<EntityId> {
        let home = match self.form() {
            SenderForm::Keyed => Incarnation::NONE,
            SenderForm::Room => me,
            _ => return None,
        };
        Some(EntityId { kind: KindId((self.tag >> 8) as u32), home, key: self.key })
    }

    /// The sender's id, also if it is a room of another node.
    pub fn id_with(self, origin: &Origin, me: Incarnation) -> Option<EntityId> {
        match (self.form(), origin) {
            (SenderForm::Far, Origin::Remote(remote)) => remote.sender,
            _ => self.id(me),
        }
    }
}

/// Who waits for the answer to a message. Two words, because it lies in every mailbox.
#[derive(Debug, Default)]
pub(crate) enum Origin {
    /// Nobody.
    #[default]
    Tell,
    /// A pending call of this worker, in the table of the same shard.
    Local(Slot),
    /// The timer in this slot of the same shard, which counts its callbacks.
    Timer(Slot),
    /// A client that waits for nothing, and the hash of its message's key (see
    /// [`Latest`](crate::entity::Latest)).
    Client(Peer, u32),
    /// A client that waits for an answer: its place in the worker's table of requests.
    Request(u32),
    /// A call that is answered where it is made.
    InPlace,
    /// A pending call of another worker.
    Remote(Box<RemoteOrigin>),
}

/// A message that came from another worker.
#[derive(Debug)]
pub(crate) struct RemoteOrigin {
    pub from: WorkerId,
    /// The caller's pending slot; `None` for a tell.
    pub call: Option<Slot>,
    /// When nobody waits any more.
    pub deadline: Instant,
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
    pub body: Body<E>,
    /// Position in the kind's methods; `HOOK` for a hook.
    pub method: u16,
}

/// Stands for a hook where a method's position is meant.
pub(crate) const HOOK: u16 = u16::MAX;

/// The mailboxes of a shard: lists in one slab, so that an empty mailbox costs two indices.
///
/// A message that somebody waits for keeps its node until it is over: only its body is moved out,
/// the rest is looked up when it is needed.
pub(crate) struct Mailroom<E: Entity> {
    nodes: Vec<Node<E>>,
    free: u32,
    len: u32,
}

/// One message, or a free node. A line of the cache, if the message is small.
#[repr(align(64))]
pub(crate) struct Node<E: Entity> {
    pub body: Option<Body<E>>,
    /// Who waits, if it is not a call of this worker.
    other: Origin,
    pub sender: Sender,
    /// The call of this worker that waits, by far the most usual origin; [`NO_CALL`] for another.
    call: Slot,
    next: u32,
    pub method: u16,
    /// Whether it has been packed, with an entity that is to move.
    packed: bool,
}

impl<E: Entity> Node<E> {
    /// Fills a node that is empty with a message, which is taken where it lies, and the call of
    /// this worker that waits for its answer or [`NO_CALL`].
    #[inline(always)]
    pub fn put(
        &mut self,
        message: &mut Option<E::Message>,
        call: Slot,
        sender: Sender,
        method: u16,
    ) {
        self.fill(message.take().map(Body::Message));
        self.call = call;
        self.sender = sender;
        self.method = method;
    }

    /// Fills a node that is empty with a message that nobody waits for.
    #[inline(always)]
    pub fn put_tell(&mut self, message: E::Message, sender: Sender, method: u16) {
        self.fill(Some(Body::Message(message)));
        self.sender = sender;
        self.method = method;
    }

    #[inline(always)]
    fn fill(&mut self, body: Option<Body<E>>) {
        debug_assert!(self.body.is_none() && !self.is_awaited());
        // It has none: nothing is to be dropped.
        std::mem::forget(std::mem::replace(&mut self.body, body));
    }

    /// Fills a node that is empty with what a client sent, which is taken where it lies.
    #[inline(always)]
    pub fn put_client(&mut self, message: &mut Option<E::Message>, origin: Origin, method: u16) {
        self.fill(message.take().map(Body::Message));
        // It had none: nothing is to be dropped.
        std::mem::forget(std::mem::replace(&mut self.other, origin));
        self.sender = Sender::CLIENT;
        self.method = method;
    }

    /// Fills a node that is empty with what another worker sent.
    #[inline(always)]
    pub fn put_far(&mut self, message: E::Message, origin: Origin, sender: Sender, method: u16) {
        self.fill(Some(Body::Message(message)));
        self.other = origin;
        self.sender = sender;
        self.method = method;
    }

    /// Whether its origin is more than a tell.
    #[inline]
    pub fn is_awaited(&self) -> bool {
        self.call.index != NONE || !matches!(self.other, Origin::Tell)
    }

    /// The call of this worker that waits for the answer.
    #[inline]
    pub fn take_call(&mut self) -> Option<Slot> {
        let call = std::mem::replace(&mut self.call, NO_CALL);
        (call.index != NONE).then_some(call)
    }

    /// Takes who waits for the answer.
    #[inline]
    pub fn take_origin(&mut self) -> Origin {
        match self.take_call() {
            Some(call) => Origin::Local(call),
            None => std::mem::take(&mut self.other),
        }
    }

    /// Looks at who waits for the answer.
    #[inline]
    pub fn with_origin<R>(&self, look: impl FnOnce(&Origin) -> R) -> R {
        if self.call.index == NONE { look(&self.other) } else { look(&Origin::Local(self.call)) }
    }
}

/// Stands for no call where one's slot is meant.
pub(crate) const NO_CALL: Slot = Slot { index: NONE, generation: 0 };

/// A message that is taken out of its mailbox.
pub(crate) struct Begun<E: Entity> {
    pub body: Body<E>,
    pub method: u16,
    pub sender: Sender,
    /// The node that keeps who waits for it, until [`Mailroom::end`]; `NONE` if nobody does.
    pub awaited: u32,
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
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Puts a message into a mailbox.
    pub fn push(&mut self, mailbox: &mut Mailbox, mail: Mail<E>) {
        self.push_with(mailbox, |node| {
            node.body = Some(mail.body);
            match mail.origin {
                Origin::Local(call) => node.call = call,
                other => node.other = other,
            }
            node.sender = mail.sender;
            node.method = mail.method;
        });
    }

    /// Puts a node into a mailbox, which `fill` fills.
    #[inline(always)]
    pub fn push_with(&mut self, mailbox: &mut Mailbox, fill: impl FnOnce(&mut Node<E>)) {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let Some(node) = self.nodes.get_mut(index as usize) else { return };
        self.free = node.next;
        node.next = NONE;
        fill(node);
        match self.nodes.get_mut(mailbox.tail as usize) {
            Some(last) => last.next = index,
            None => mailbox.head = index,
        }
        mailbox.tail = index;
        mailbox.len += 1;
        self.len += 1;
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let (other, sender) = (Origin::Tell, Sender::OWN);
        self.free = self.nodes.len() as u32;
        let (call, next) = (NO_CALL, NONE);
        self.nodes.push(Node { body: None, other, sender, call, next, method: 0, packed: false });
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

    /// Takes the next message out, to handle it.
    #[inline(always)]
    pub fn begin_turn(&mut self, mailbox: &mut Mailbox) -> Option<Begun<E>> {
        let index = mailbox.head;
        let node = self.nodes.get_mut(index as usize)?;
        let body = node.body.take()?;
        mailbox.head = node.next;
        if node.next == NONE {
            mailbox.tail = NONE;
        }
        mailbox.len -= 1;
        self.len -= 1;
        let mut begun = Begun { body, method: node.method, sender: node.sender, awaited: index };
        if !node.is_awaited() {
            begun.awaited = NONE;
            node.next = self.free;
            self.free = index;
        }
        Some(begun)
    }

    /// Whether a message that was taken out fulfils `test`, which looks at who waits for it.
    #[inline]
    pub fn is_wanted(&self, index: u32, test: impl FnOnce(&Origin) -> bool) -> bool {
        self.nodes.get(index as usize).is_some_and(|node| node.with_origin(test))
    }

    /// Takes the next message's body out; the rest stays in the node that is named, until
    /// [`end`](Self::end).
    fn begin(&mut self, mailbox: &mut Mailbox) -> Option<(u32, Body<E>)> {
        let index = mailbox.head;
        let node = self.nodes.get_mut(index as usize)?;
        let body = node.body.take()?;
        mailbox.head = node.next;
        if node.next == NONE {
            mailbox.tail = NONE;
        }
        mailbox.len -= 1;
        self.len -= 1;
        Some((index, body))
    }

    /// Frees the node of a message that is over. Gives who still waits for it.
    #[inline(always)]
    pub fn end(&mut self, index: u32) -> Origin {
        let Some(node) = self.nodes.get_mut(index as usize) else { return Origin::Tell };
        node.next = self.free;
        node.packed = false;
        self.free = index;
        if node.is_awaited() { node.take_origin() } else { Origin::Tell }
    }

    /// The node of a message that is being handled.
    #[inline]
    pub fn node_mut(&mut self, index: u32) -> Option<&mut Node<E>> {
        self.nodes.get_mut(index as usize)
    }

    /// The node of a message that is being handled.
    pub fn node(&self, index: u32) -> Option<&Node<E>> {
        self.nodes.get(index as usize)
    }

    /// Drops the next message; gives who waits for it.
    pub fn drop_next(&mut self, mailbox: &mut Mailbox) -> Option<Origin> {
        let (index, _) = self.begin(mailbox)?;
        Some(self.end(index))
    }

    /// Drops the first message that fulfils `test`; gives who waits for it.
    pub fn drop_first(
        &mut self,
        mailbox: &mut Mailbox,
        mut test: impl FnMut(&Node<E>) -> bool,
    ) -> Option<Origin> {
        let mut before = NONE;
        let mut at = mailbox.head;
        loop {
            let node = self.nodes.get_mut(at as usize)?;
            if test(node) {
                break;
            }
            before = at;
            at = node.next;
        }
        if before == NONE {
            return self.drop_next(mailbox);
        }
        let node = &mut self.nodes[at as usize];
        drop(node.body.take());
        let after = node.next;
        self.nodes[before as usize].next = after;
        if mailbox.tail == at {
            mailbox.tail = before;
        }
        mailbox.len -= 1;
        self.len -= 1;
        Some(self.end(at))
    }

    /// Puts all messages of `later` behind those of a mailbox.
    pub fn append(&mut self, mailbox: &mut Mailbox, later: Mailbox) {
        if later.head == NONE {
            return;
        }
        match self.nodes.get_mut(mailbox.tail as usize) {
            Some(last) => last.next = later.head,
            None => mailbox.head = later.head,
        }
        mailbox.tail = later.tail;
        mailbox.len += later.len;
    }

    /// Clients whose coming is still in a mailbox: its entity has not heard of them.
    pub fn newcomers(&self, mailbox: &Mailbox) -> Vec<Slot> {
        let mut found = Vec::new();
        let mut at = mailbox.head;
        while let Some(node) = self.nodes.get(at as usize) {
            if let Some(Body::Hook(hook)) = &node.body
                && let Hook::Online(peer) = &**hook
            {
                found.push(peer.slot());
            }
            at = node.next;
        }
        found
    }

    /// Lends each message that was not packed yet to `pack`, in order, and marks it.
    pub fn pack(&mut self, mailbox: &Mailbox, mut pack: impl FnMut(&Node<E>)) {
        let mut at = mailbox.head;
        while let Some(node) = self.nodes.get_mut(at as usize) {
            if !std::mem::replace(&mut node.packed, true) {
                pack(node);
            }
            at = node.next;
        }
    }

    /// Forgets what was packed of a mailbox.
    pub fn unpack(&mut self, mailbox: &Mailbox) {
        let mut at = mailbox.head;
        while let Some(node) = self.nodes.get_mut(at as usize) {
            node.packed = false;
            at = node.next;
        }
    }

    /// The method of the next message of a mailbox.
    #[inline]
    pub fn next_method(&self, mailbox: &Mailbox) -> Option<u16> {
        self.nodes.get(mailbox.head as usize).map(|node| node.method)
    }

    /// Gives back memory after a flood, once all mailboxes are empty and nothing runs.
    pub fn shrink(&mut self) {
        if self.len == 0 && self.nodes.len() > 65_536 {
            *self = Mailroom::new();
        }
    }
}
