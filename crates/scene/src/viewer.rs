use std::collections::VecDeque;

use proto::{put_varint, varint_len};

use crate::board::State;
use crate::{Board, Layout, ReplicaId};

/// Limits of what one client is told.
#[derive(Clone, Copy, Debug)]
pub struct ViewerOptions {
    /// Most bytes of one packet. What does not fit waits, longest-waiting first.
    pub packet_bytes_max: usize,
    /// Most replicas that the client knows at a time: the nearest.
    pub visible_max: usize,
    /// Packets that may be unacknowledged before all is sent anew.
    pub unacknowledged_max: usize,
    /// Number of the first epoch. A client that had packets of another viewer takes those of a new one only
    /// under another number, and only of later steps.
    pub first_epoch: u64,
}

impl Default for ViewerOptions {
    /// 1,200 bytes, 256 replicas, 64 packets, the first epoch is 0.
    fn default() -> Self {
        ViewerOptions {
            packet_bytes_max: 1200,
            visible_max: 256,
            unacknowledged_max: 64,
            first_epoch: 0,
        }
    }
}

/// What one client knows, and what it must be told next.
///
/// Packets may be lost or dropped on their way. Nothing is sent twice as it was: each packet
/// carries the newest state of what the client has not acknowledged yet. The caller tells which
/// packets arrived by [`acknowledge`](Viewer::acknowledge).
#[derive(Debug)]
pub struct Viewer {
    options: ViewerOptions,
    /// Sorted by id.
    known: Vec<(ReplicaId, Known)>,
    /// The list before it, for its memory.
    spare: Vec<(ReplicaId, Known)>,
    due: Vec<Due>,
    /// Packets in flight, oldest first.
    sent: VecDeque<Sent>,
    acknowledged: u64,
    /// Raised by each reset; a client that sees a new one forgets all it knew.
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Newest step whose state the client has for certain; `None` before the first.
    has: Option<u64>,
    /// Step since which something waits to be told.
    waits_since: u64,
    /// Within the interest set at present. Otherwise its removal is being told.
    visible: bool,
}

#[derive(Debug)]
struct Sent {
    step: u64,
    told: Vec<ReplicaId>,
    removed: Vec<ReplicaId>,
}

/// What a packet holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Replicas whose state the packet carries.
    pub updated: usize,
    /// Replicas that the packet takes away.
    pub removed: usize,
    /// Replicas that did not fit and wait for the next packet.
    pub waiting: usize,
}

impl Viewer {
    /// A viewer whose client knows nothing.
    pub fn new(options: ViewerOptions) -> Self {
        Viewer {
            options,
            known: Vec::new(),
            spare: Vec::new(),
            due: Vec::new(),
            sent: VecDeque::new(),
            acknowledged: 0,
            epoch: options.first_epoch,
        }
    }

    /// How many replicas the client knows or is being told of.
    pub fn len(&self) -> usize {
        self.known.iter().filter(|(_, known)| known.visible).count()
    }

    /// Whether nothing is visible.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `id` is in the interest set; with a leave radius wider than the enter radius, ask
    /// this to decide which of the two holds.
    pub fn sees(&self, id: ReplicaId) -> bool {
        self.find(id).is_some_and(|at| self.known[at].1.visible)
    }

    /// Starts anew: the client is told to forget all, and the next packets carry everything.
    pub fn reset(&mut self) {
        self.epoch += 1;
        self.known.retain(|(_, known)| known.visible);
        for (_, known) in &mut self.known {
            known.has = None;
        }
        self.sent.clear();
    }

    /// The client has handled the packet of `step`. Unknown and old steps are harmless.
    pub fn acknowledge(&mut self, step: u64) {
        if step <= self.acknowledged {
            return;
        }
        while self.sent.front().is_some_and(|sent| sent.step < step) {
            self.sent.pop_front();
        }
        let Some(sent) = self.sent.pop_front_if(|sent| sent.step == step) else { return };
        self.acknowledged = step;
        // Both lists are sorted: one walk through what is known serves them.
        let mut told = sent.told.into_iter().peekable();
        let mut removed = sent.removed.into_iter().peekable();
        self.known.retain_mut(|(id, known)| {
            while told.next_if(|next| next < id).is_some() {}
            while removed.next_if(|next| next < id).is_some() {}
            if told.next_if(|next| next == id).is_some() {
                known.has = Some(step);
            }
            removed.next_if(|next| next == id).is_none() || known.visible
        });
    }

    fn find(&self, id: ReplicaId) -> Option<usize> {
        self.known.binary_search_by_key(&id, |(known, _)| *known).ok()
    }

    /// Sets who is in view: `interest` is (replica, squared distance). If there are more than
    /// `visible_max`, the nearest are kept; ties go to the lower id.
    pub fn look(&mut self, interest: &mut Vec<(ReplicaId, f32)>, step: u64) {
        let max = self.options.visible_max;
        if interest.len() > max {
            interest.select_nth_unstable_by(max, |a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            interest.truncate(max);
        }
        interest.sort_unstable_by_key(|(id, _)| *id);
        let mut inside = interest.iter().map(|(id, _)| *id).peekable();
        let new = Known { has: None, waits_since: step, visible: true };
        let mut merged = std::mem::take(&mut self.spare);
        for (id, known) in self.known.drain(..) {
            while let Some(earlier) = inside.next_if(|next| *next < id) {
                merged.push((earlier, new));
            }
            let visible = inside.next_if(|next| *next == id).is_some();
            let known = if visible == known.visible { known } else { Known { visible, ..new } };
            merged.push((id, known));
        }
        merged.extend(inside.map(|id| (id, new)));
        self.spare = std::mem::replace(&mut self.known, merged);
    }

    /// Appends the packet of `step`, which must rise from call to call.
    ///
    /// Format: `epoch | step | removed count | removed ids | updates`, see
    /// [`Mirror`](crate::Mirror).
    /// Ids are varint differences to the one before; an update is `id | mask | components`.
    pub fn write(&mut self, board: &Board, step: u64, out: &mut Vec<u8>) -> Written {
        if self.sent.len() >= self.options.unacknowledged_max {
            self.reset();
        }
        let mut due = std::mem::take(&mut self.due);
        self.collect(board, step, &mut due);
        let removed = self.removals();
        let limit = self.options.packet_bytes_max.saturating_sub(24 + 4 * removed.len());
        let fits = fit(&mut due, limit);
        let waiting = due.len() - fits;
        due.truncate(fits);
        due.sort_unstable_by_key(|item| item.id);
        put_varint(out, self.epoch);
        put_varint(out, step);
        put_varint(out, removed.len() as u64);
        put_ids(out, &removed);
        let mut before = 0;
        for item in &due {
            put_varint(out, u64::from(item.id.0 - before));
            before = item.id.0;
            let state = board.state(item.id).expect("collected from the board");
            put_components(out, board.layout(), state, item.mask);
            self.known[item.at].1.waits_since = step;
        }
        let written = Written { updated: due.len(), removed: removed.len(), waiting };
        let told = due.iter().map(|item| item.id).collect();
        self.sent.push_back(Sent { step, told, removed });
        due.clear();
        self.due = due;
        written
    }

    fn collect(&mut self, board: &Board, step: u64, due: &mut Vec<Due>) {
        for (at, (id, known)) in self.known.iter_mut().enumerate() {
            let id = *id;
            if !known.visible {
                continue;
            }
            let Some(state) = board.state(id) else {
                *known = Known { has: None, waits_since: step, visible: false };
                continue;
            };
            // A replica that was removed and made anew under its id has nothing in common.
            let since = known.has.filter(|has| *has >= state.born);
            let mask = match since {
                None => state.present,
                Some(has) if state.newest <= has => continue,
                Some(has) => changed_since(state, has),
            };
            let bytes = 1 + varint_len(u64::from(id.0)) + bytes_of(board.layout(), mask);
            due.push(Due { id, at, mask, bytes, waits_since: known.waits_since });
        }
    }

    fn removals(&self) -> Vec<ReplicaId> {
        let gone = self.known.iter().filter(|(_, known)| !known.visible);
        gone.map(|(id, _)| *id).collect()
    }
}

#[derive(Debug)]
struct Due {
    id: ReplicaId,
    /// Its place among what is known.
    at: usize,
    mask: u8,
    bytes: usize,
    waits_since: u64,
}

/// Brings those that fit into `limit` bytes to the front and gives their number. Only if not all
/// fit does the order matter: who waits longest goes first.
fn fit(due: &mut [Due], limit: usize) -> usize {
    let total: usize = due.iter().map(|item| item.bytes).sum();
    if total <= limit {
        return due.len();
    }
    due.sort_unstable_by_key(|item| (item.waits_since, item.id));
    let mut used = 0;
    let fits = due.iter().take_while(|item| {
        used += item.bytes;
        used <= limit
    });
    fits.count().max(1)
}

fn changed_since(state: &State, has: u64) -> u8 {
    let mut mask = 0;
    for (at, &changed) in state.changed.iter().enumerate() {
        if state.present & (1 << at) != 0 && changed > has {
            mask |= 1 << at;
        }
    }
    mask
}

fn bytes_of(layout: &Layout, mask: u8) -> usize {
    (0..8).filter(|at| mask & (1 << at) != 0).map(|at| layout.range(at).len()).sum()
}

fn put_ids(out: &mut Vec<u8>, ids: &[ReplicaId]) {
    let mut before = 0;
    for id in ids {
        put_varint(out, u64::from(id.0 - before));
        before = id.0;
    }
}

fn put_components(out: &mut Vec<u8>, layout: &Layout, state: &State, mask: u8) {
    out.push(mask);
    for at in (0..8).filter(|at| mask & (1 << at) != 0) {
        out.extend_from_slice(&state.bytes[layout.range(at)]);
    }
}
