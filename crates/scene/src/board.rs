use env::FastMap;

/// Most components of one replica.
pub const COMPONENTS_MAX: usize = 8;

/// Names a replica within its scene. Small numbers are reused after a removal, but never within
/// the time that a viewer may still know the old one (the scene's owner picks them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u32);

/// How many bytes each component of a replica takes, quantised. Client and server share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    sizes: [u8; COMPONENTS_MAX],
    offsets: [u8; COMPONENTS_MAX],
    total: u8,
}

/// A layout that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Too many components.
    #[error("{0} components are more than 8")]
    Components(usize),
    /// All components together are over 64 bytes.
    #[error("{0} bytes of components are more than 64")]
    Bytes(usize),
}

impl Layout {
    /// Most bytes of all components together.
    pub const BYTES_MAX: usize = 64;

    /// A layout of components with these sizes, in bytes.
    pub fn new(sizes: &[u8]) -> Result<Self, LayoutError> {
        if sizes.len() > COMPONENTS_MAX {
            return Err(LayoutError::Components(sizes.len()));
        }
        let total: usize = sizes.iter().map(|&size| usize::from(size)).sum();
        if total > Self::BYTES_MAX {
            return Err(LayoutError::Bytes(total));
        }
        let mut layout = Layout { sizes: [0; 8], offsets: [0; 8], total: total as u8 };
        let mut offset = 0;
        for (at, &size) in sizes.iter().enumerate() {
            layout.sizes[at] = size;
            layout.offsets[at] = offset;
            offset += size;
        }
        Ok(layout)
    }

    /// Where component `at` stands within a replica's bytes.
    pub fn range(&self, at: usize) -> std::ops::Range<usize> {
        let start = usize::from(self.offsets[at]);
        start..start + usize::from(self.sizes[at])
    }

    /// Bytes of one whole replica.
    pub fn total(&self) -> usize {
        usize::from(self.total)
    }
}

/// What everybody could see: the newest quantised state of each replica, and since which step
/// each component stands as it is.
///
/// A component changes only if its quantised bytes do, so that noise below the resolution costs
/// nothing on the wire.
#[derive(Debug)]
pub struct Board {
    layout: Layout,
    replicas: Vec<Option<State>>,
    /// Looked into, never walked.
    named: FastMap<ReplicaId, usize>,
    free: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) bytes: [u8; Layout::BYTES_MAX],
    /// Step at which each component last changed.
    pub(crate) changed: [u64; COMPONENTS_MAX],
    /// Bit per component that was ever set.
    pub(crate) present: u8,
    pub(crate) newest: u64,
    pub(crate) born: u64,
}

impl Board {
    /// An empty board.
    pub fn new(layout: Layout) -> Self {
        Board { layout, replicas: Vec::new(), named: FastMap::default(), free: Vec::new() }
    }

    /// The layout of every replica here.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How many replicas there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Sets component `at` of `id` as of `step`; makes the replica if it is new.
    ///
    /// # Panics
    ///
    /// If `bytes` is not as long as the layout says.
    pub fn set(&mut self, id: ReplicaId, at: usize, bytes: &[u8], step: u64) {
        let range = self.layout.range(at);
        assert_eq!(bytes.len(), range.len(), "component {at} has another size in the layout");
        let slot = self.slot_or_insert(id, step);
        let state = self.replicas[slot].as_mut().expect("named slots are filled");
        let bit = 1 << at;
        if state.present & bit != 0 && state.bytes[range.clone()] == *bytes {
            return;
        }
        state.bytes[range].copy_from_slice(bytes);
        state.present |= bit;
        state.changed[at] = step;
        state.newest = step;
    }

    /// Removes a replica; viewers tell their clients at their next packet.
    pub fn remove(&mut self, id: ReplicaId) -> bool {
        let Some(slot) = self.named.remove(&id) else { return false };
        self.replicas[slot] = None;
        self.free.push(slot);
        true
    }

    pub(crate) fn state(&self, id: ReplicaId) -> Option<&State> {
        self.named.get(&id).and_then(|&slot| self.replicas[slot].as_ref())
    }

    fn slot_or_insert(&mut self, id: ReplicaId, step: u64) -> usize {
        if let Some(&slot) = self.named.get(&id) {
            return slot;
        }
        let state = State {
            bytes: [0; Layout::BYTES_MAX],
            changed: [0; COMPONENTS_MAX],
            present: 0,
            newest: step,
            born: step,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.replicas.push(None);
            self.replicas.len() - 1
        });
        self.replicas[slot] = Some(state);
        self.named.insert(id, slot);
        slot
    }
}
