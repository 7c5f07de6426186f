//! Stand-in until proto has it.
#[allow(missing_docs)]
#[derive(Clone, Debug)]
pub struct Grant {
    pub ticket: Vec<u8>,
    pub secret: [u8; 32],
    pub session: proto::SessionId,
}
pub fn login_proof(_: &[u8; 32], _: &[u8; 16], _: &[u8]) -> [u8; 32] {
    [0; 32]
}
pub fn resume_proof(_: &[u8; 32], _: &[u8; 16], _: &[u8], _: u64) -> [u8; 32] {
    [0; 32]
}
