//! Recycled, size-classed, pinned memory for the futures of turns.
//!
//! This is the crate's only unsafe module. A [`Slots`] keeps freed blocks by size class; a
//! [`Placed`] owns one block with one future in it and hides the future's type. What makes it
//! sound:
//!
//! * a block is used by exactly one `Placed` at a time: it leaves the free list when the `Placed`
//!   is made and returns when that is dropped;
//! * the future is written once and never moved until it is dropped in place, which is what `Pin`
//!   asks for; a `Placed` may move, its block does not;
//! * the functions in the vtable are made for the type that was written, in the same call;
//! * nothing here is `Send` or `Sync` (raw pointers and `Rc`), so blocks stay on their thread.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::mem::{align_of, size_of};
use std::pin::Pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Block sizes, in bytes. A larger future is allocated and freed each time.
const CLASSES: [usize; 8] = [64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// Every block is aligned to this; a future that wants more is refused a recycled block.
const ALIGN: usize = 16;

/// Most free blocks kept per class.
const FREE_MAX: usize = 1024;

/// Hands out blocks and takes them back. One per worker.
pub(crate) struct Slots {
    free: RefCell<[Vec<NonNull<u8>>; CLASSES.len()]>,
}

/// A future in its block, type erased. Dropping it drops the future and recycles the block.
pub(crate) struct Placed {
    block: NonNull<u8>,
    vtable: &'static Vtable,
    slots: Rc<Slots>,
}

struct Vtable {
    poll: unsafe fn(NonNull<u8>, &mut Context<'_>) -> Poll<()>,
    drop: unsafe fn(NonNull<u8>),
    layout: Layout,
    class: Option<usize>,
}

trait HasVtable {
    const VTABLE: Vtable;
}

impl<F: Future<Output = ()>> HasVtable for F {
    const VTABLE: Vtable = Vtable {
        poll: poll_in_place::<F>,
        drop: drop_in_place::<F>,
        layout: layout_of(size_of::<F>(), align_of::<F>()),
        class: class_of(size_of::<F>(), align_of::<F>()),
    };
}

/// # Safety
///
/// `block` holds a live `F` that is pinned there.
unsafe fn poll_in_place<F: Future<Output = ()>>(
    block: NonNull<u8>,
    context: &mut Context<'_>,
) -> Poll<()> {
    // SAFETY: the caller promises a live `F`, reachable through nothing else; it stays where it is
    // until `drop_in_place`, so pinning it holds.
    let future = unsafe { Pin::new_unchecked(block.cast::<F>().as_mut()) };
    future.poll(context)
}

/// # Safety
///
/// `block` holds a live `F`, which is dead afterwards.
unsafe fn drop_in_place<F>(block: NonNull<u8>) {
    // SAFETY: the caller promises a live `F` that nobody uses again.
    unsafe { block.cast::<F>().drop_in_place() }
}

const fn class_of(size: usize, align: usize) -> Option<usize> {
    if align > ALIGN {
        return None;
    }
    let mut class = 0;
    while class < CLASSES.len() {
        if size <= CLASSES[class] {
            return Some(class);
        }
        class += 1;
    }
    None
}

/// The layout of the block for a value: its class's, or its own. Never of size zero.
const fn layout_of(size: usize, align: usize) -> Layout {
    let (size, align) = match class_of(size, align) {
        Some(class) => (CLASSES[class], ALIGN),
        None => (if size == 0 { 1 } else { size }, align),
    };
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("a future is larger than the address space"),
    }
}

impl Slots {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Slots { free: RefCell::default() })
    }

    /// Moves `future` into a block.
    pub(crate) fn place<F: Future<Output = ()> + 'static>(self: &Rc<Self>, future: F) -> Placed {
        let vtable: &'static Vtable = &<F as HasVtable>::VTABLE;
        let block = self.take(vtable);
        // SAFETY: the block has the size and alignment of `F` (its layout was made from them), and
        // is not in use.
        unsafe { block.cast::<F>().write(future) };
        Placed { block, vtable, slots: Rc::clone(self) }
    }

    fn take(&self, vtable: &Vtable) -> NonNull<u8> {
        if let Some(class) = vtable.class
            && let Some(block) = self.free.borrow_mut()[class].pop()
        {
            return block;
        }
        // SAFETY: the layout's size is not zero.
        let block = unsafe { alloc(vtable.layout) };
        match NonNull::new(block) {
            Some(block) => block,
            None => handle_alloc_error(vtable.layout),
        }
    }

    fn give_back(&self, block: NonNull<u8>, vtable: &Vtable) {
        if let Some(class) = vtable.class {
            let free = &mut self.free.borrow_mut()[class];
            if free.len() < FREE_MAX {
                free.push(block);
                return;
            }
        }
        // SAFETY: the block was allocated with this layout (that of its class, or its own) and is
        // in no list.
        unsafe { dealloc(block.as_ptr(), vtable.layout) };
    }

    /// Free blocks of all classes.
    #[cfg(test)]
    fn kept(&self) -> usize {
        self.free.borrow().iter().map(Vec::len).sum()
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        for (class, blocks) in self.free.get_mut().iter_mut().enumerate() {
            for block in blocks.drain(..) {
                let layout = layout_of(CLASSES[class], ALIGN);
                // SAFETY: every block of this list was allocated with its class's layout, and each
                // is in the list once.
                unsafe { dealloc(block.as_ptr(), layout) };
            }
        }
    }
}

impl Placed {
    /// Polls the future. Not again after `Ready`.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: the block holds the live future that this vtable was made for; `&mut self` makes
        // this the only access.
        unsafe { (self.vtable.poll)(self.block, context) }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        /// Returns the block also if the future's own drop panics.
        struct Return<'a>(&'a Placed);
        impl Drop for Return<'_> {
            fn drop(&mut self) {
                self.0.slots.give_back(self.0.block, self.0.vtable);
            }
        }
        let returns = Return(self);
        // SAFETY: the future is live until here, and not used again: only its block is.
        unsafe { (returns.0.vtable.drop)(returns.0.block) };
    }
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placed").field("bytes", &self.vtable.layout.size()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::task::Waker;

    fn poll(placed: &mut Placed) -> Poll<()> {
        placed.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Pending once, then ready.
    async fn once() {
        let mut waited = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    struct CountsDrops(Rc<Cell<u32>>);

    impl Drop for CountsDrops {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn future_runs_in_place_and_its_block_is_used_again() {
        let slots = Slots::new();
        let drops = Rc::new(Cell::new(0));
        for round in 1..=3 {
            let guard = CountsDrops(Rc::clone(&drops));
            let mut placed = slots.place(async move {
                let text = String::from("lives across the await");
                once().await;
                assert_eq!(text.len(), 22);
                drop(guard);
            });
            assert_eq!(slots.kept(), 0);
            assert_eq!(poll(&mut placed), Poll::Pending);
            let mut moved = Box::new(placed);
            assert_eq!(poll(&mut moved), Poll::Ready(()));
            drop(moved);
            assert_eq!((drops.get(), slots.kept()), (round, 1));
        }
    }

    #[test]
    fn every_size_and_alignment_has_a_block() {
        #[repr(align(64))]
        struct Wide([u8; 64]);
        let slots = Slots::new();
        let mut all = Vec::new();
        macro_rules! place {
            ($($size:expr),*) => {$({
                let bytes = [7u8; $size];
                all.push(slots.place(async move {
                    once().await;
                    assert!(bytes.iter().all(|byte| *byte == 7));
                }));
            })*};
        }
        place!(0, 1, 60, 61, 62, 63, 64, 65, 127, 1000, 4095, 8191, 8193, 20_000);
        let wide = Wide([9; 64]);
        all.push(slots.place(async move {
            once().await;
            assert_eq!(std::ptr::from_ref(&wide).addr() % 64, 0);
            assert_eq!(wide.0[63], 9);
        }));
        all.push(slots.place(std::future::ready(())));
        let done: Vec<bool> = all.iter_mut().map(|placed| poll(placed).is_ready()).collect();
        assert_eq!(done.iter().filter(|done| **done).count(), 1);
        for (placed, done) in all.iter_mut().zip(done) {
            assert!(done || poll(placed).is_ready());
        }
    }

    #[test]
    fn dropping_a_suspended_future_drops_what_it_holds() {
        let slots = Slots::new();
        let drops = Rc::new(Cell::new(0));
        let guard = CountsDrops(Rc::clone(&drops));
        let mut placed = slots.place(async move {
            once().await;
            drop(guard);
        });
        assert!(poll(&mut placed).is_pending());
        drop(slots);
        drop(placed);
        assert_eq!(drops.get(), 1);
    }

    #[test]
    fn block_returns_when_poll_or_drop_panics() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("drop");
            }
        }
        let slots = Slots::new();
        let mut placed = slots.place(async { panic!("poll") });
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut placed))).is_err());
        drop(placed);
        assert_eq!(slots.kept(), 1);
        let bomb = Bomb;
        let placed = slots.place(async move {
            once().await;
            drop(bomb);
        });
        assert!(catch_unwind(AssertUnwindSafe(|| drop(placed))).is_err());
        assert_eq!(slots.kept(), 1);
    }
}
