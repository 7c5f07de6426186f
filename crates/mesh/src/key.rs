use std::net::SocketAddr;

use proto::link::WorkerId;
use ring::hmac;

/// The secret that all nodes of a cluster share. A node without it cannot make links.
#[derive(Clone)]
pub struct Key {
    key: hmac::Key,
    is_secret: bool,
}

/// What both sides prove to know the key over.
pub(crate) struct Transcript<'a> {
    pub cluster: &'a str,
    pub dialer: Party<'a>,
    pub acceptor: Party<'a>,
}

/// One side of a handshake.
#[derive(Clone, Copy)]
pub(crate) struct Party<'a> {
    pub id: WorkerId,
    pub name: &'a str,
    pub nonce: [u8; 16],
}

/// Who makes a proof; so that nobody can send ours back to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialer,
    Acceptor,
}

impl Key {
    /// The key that nodes of one machine share when none is configured. Everybody knows it.
    pub fn none() -> Self {
        Key { key: hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]), is_secret: false }
    }

    /// A secret key.
    pub fn shared(secret: &[u8; 32]) -> Self {
        Key { key: hmac::Key::new(hmac::HMAC_SHA256, secret), is_secret: true }
    }

    /// Whether links may be accepted at `addr`: without a secret only on this machine.
    pub fn may_bind(&self, addr: SocketAddr) -> bool {
        self.is_secret || addr.ip().is_loopback()
    }

    pub(crate) fn prove(&self, side: Side, transcript: &Transcript<'_>) -> [u8; 32] {
        let mut proof = [0; 32];
        proof.copy_from_slice(hmac::sign(&self.key, &transcript.bytes(side)).as_ref());
        proof
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, side: Side, transcript: &Transcript<'_>, proof: &[u8]) -> bool {
        hmac::verify(&self.key, &transcript.bytes(side), proof).is_ok()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_secret { "Key(secret)" } else { "Key(none)" })
    }
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        }
    }
}

impl Transcript<'_> {
    /// All fields, each with its length or of fixed length, so that no two transcripts meet.
    fn bytes(&self, side: Side) -> Vec<u8> {
        let mut bytes = b"mainstay mesh v1".to_vec();
        bytes.push(match side {
            Side::Dialer => 1,
            Side::Acceptor => 2,
        });
        proto::put_blob(&mut bytes, self.cluster.as_bytes());
        for party in [self.dialer, self.acceptor] {
            bytes.extend_from_slice(&party.id.node.0.to_le_bytes());
            bytes.push(party.id.worker);
            proto::put_blob(&mut bytes, party.name.as_bytes());
            bytes.extend_from_slice(&party.nonce);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Incarnation;

    #[test]
    fn a_proof_fits_one_side_one_key_and_one_transcript() {
        let party = |node, name, nonce| Party {
            id: WorkerId { node: Incarnation(node), worker: 0 },
            name,
            nonce: [nonce; 16],
        };
        let transcript =
            Transcript { cluster: "c", dialer: party(1, "a", 1), acceptor: party(2, "b", 2) };
        let key = Key::shared(&[7; 32]);
        let proof = key.prove(Side::Dialer, &transcript);
        assert!(key.verify(Side::Dialer, &transcript, &proof));
        assert!(!key.verify(Side::Acceptor, &transcript, &proof));
        assert!(!Key::none().verify(Side::Dialer, &transcript, &proof));
        assert!(!Key::shared(&[8; 32]).verify(Side::Dialer, &transcript, &proof));
        let other = Transcript { cluster: "d", ..transcript };
        assert!(!key.verify(Side::Dialer, &other, &proof));
        let other = Transcript { acceptor: party(2, "b", 3), ..transcript };
        assert!(!key.verify(Side::Dialer, &other, &proof));
        assert!(!key.verify(Side::Dialer, &transcript, &proof[..31]));
    }

    #[test]
    fn without_a_secret_only_this_machine() {
        let local: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        let public: SocketAddr = "0.0.0.0:7000".parse().unwrap();
        assert!(Key::none().may_bind(local) && !Key::none().may_bind(public));
        assert!(Key::shared(&[0; 32]).may_bind(public));
        assert_eq!(format!("{:?}", Key::shared(&[9; 32])), "Key(secret)");
    }
}
