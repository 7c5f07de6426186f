use proto::frame::PREFACE;

/// The most bytes [`sniff`] needs before it decides.
pub const SNIFF_BYTES_MAX: usize = 8;

/// What the first bytes of a connection say it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// All bytes so far fit, but they do not decide yet.
    More,
    /// The plain protocol. The preface takes this many bytes; frames follow.
    Preface(usize),
    /// An HTTP/1 request, perhaps a WebSocket upgrade.
    Http,
    /// Neither: close the connection.
    Unknown,
}

const METHODS: [&[u8]; 8] =
    [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"CONNECT "];

/// Decides what a connection speaks by all the bytes received on it so far.
///
/// `Unknown` comes with the first byte that fits nothing, so nobody can make us wait for more.
pub fn sniff(bytes: &[u8]) -> Sniff {
    if bytes.starts_with(&PREFACE) {
        return Sniff::Preface(PREFACE.len());
    }
    if PREFACE.starts_with(bytes) {
        return Sniff::More;
    }
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Sniff::Http;
    }
    if METHODS.iter().any(|method| method.starts_with(bytes)) {
        Sniff::More
    } else {
        Sniff::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_decide() {
        assert_eq!(sniff(b""), Sniff::More);
        assert_eq!(sniff(b"MS"), Sniff::More);
        assert_eq!(sniff(b"MSY1\x05"), Sniff::Preface(4));
        assert_eq!(sniff(b"MSX"), Sniff::Unknown);
        assert_eq!(sniff(b"P"), Sniff::More);
        assert_eq!(sniff(b"PA"), Sniff::More);
        assert_eq!(sniff(b"OPTIONS"), Sniff::More);
        assert_eq!(sniff(b"OPTIONS "), Sniff::Http);
        assert_eq!(sniff(b"GET /play"), Sniff::Http);
        assert_eq!(sniff(b"get /"), Sniff::Unknown);
        assert_eq!(sniff(b"\x16\x03\x01"), Sniff::Unknown);
    }

    #[test]
    fn never_asks_for_more_than_it_says() {
        for method in METHODS {
            assert!(method.len() <= SNIFF_BYTES_MAX);
            assert_ne!(sniff(method), Sniff::More);
        }
    }
}
