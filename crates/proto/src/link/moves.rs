//! The steps of an entity's move.

use crate::WireError;
use crate::varint::Reader;

/// How far the move of an entity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MoveStep {
    /// To the target: may it come?
    Reserve = 1,
    /// From the target: it may.
    Reserved = 2,
    /// From the target: it may not, or could not be taken. The target keeps nothing of it.
    Refused = 3,
    /// To the target: a part of what is in memory.
    Part = 4,
    /// To the target: the last part.
    Last = 5,
    /// From the target: all parts are here.
    Arrived = 6,
    /// To the target: what came since the last part; the entity is released, take it.
    Go = 7,
    /// From the target: it is taken.
    Done = 8,
    /// To the target: mail that came later still.
    Late = 9,
    /// To the target: the move is given up.
    Cancel = 10,
    /// To the owner: move it to the node that the body names.
    Wish = 11,
}

impl MoveStep {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        use MoveStep::*;
        let all = [Reserve, Reserved, Refused, Part, Last, Arrived, Go, Done, Late, Cancel, Wish];
        let code = r.byte()?;
        all.into_iter().find(|step| *step as u8 == code).ok_or(WireError::Range)
    }
}
