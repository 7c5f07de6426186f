//! What sagas are stored and done under.

use super::SagaId;
use crate::ledger::TxnId;
use crate::record::RecordId;

/// Records of sagas.
pub(super) const SAGA_KIND: u32 = u32::from_be_bytes(*b"saga");
/// Records of the places of those under way.
pub(super) const PLACE_KIND: u32 = u32::from_be_bytes(*b"sagp");
/// How many sagas can be under way at once.
pub(super) const PLACES: u32 = 4_096;

pub(super) fn saga_record(id: SagaId) -> RecordId {
    RecordId { kind: SAGA_KIND, key: id.0.to_be_bytes().to_vec() }
}

pub(super) fn place_record(place: u32) -> RecordId {
    RecordId { kind: PLACE_KIND, key: place.to_be_bytes().to_vec() }
}

/// The transaction of one try of a step, or of undoing it.
pub(super) fn txn_of(id: SagaId, step: u32, undo: bool, tries: u32) -> TxnId {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"mainstay saga 1");
    context.update(&id.0.to_le_bytes());
    context.update(&step.to_le_bytes());
    context.update(&[u8::from(undo)]);
    context.update(&tries.to_le_bytes());
    let digest = context.finish();
    let (half, _) = digest.as_ref().split_first_chunk::<16>().expect("SHA-256 has 32 bytes");
    TxnId(u128::from_le_bytes(*half))
}
