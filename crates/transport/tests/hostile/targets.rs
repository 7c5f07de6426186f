//! What hostile bytes must not do to WebSocket, one function per decoder: run over damaged samples
//! by `main.rs`, and by the fuzzer in `fuzz/`.

use transport::ws::{
    Answer, Decoder, HEAD_BYTES_MAX, Piece, Role, UpgradeOptions, check_answer, upgrade as answer,
};

/// What a decoder said about some bytes: payload, the rest in order, and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    payload: Vec<u8>,
    controls: Vec<String>,
    end: Option<String>,
}

fn hear(role: Role, data: &[u8], cut: usize) -> Heard {
    const MAX: u32 = 1000;
    let mut decoder = Decoder::new(role, MAX);
    let mut heard = Heard::default();
    for chunk in data.chunks(cut) {
        let mut chunk = chunk.to_vec();
        let mut input = &mut chunk[..];
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Piece::Data(bytes))) => heard.payload.extend_from_slice(bytes),
                Ok(Some(other)) => {
                    heard.controls.push(format!("{} {other:?}", heard.payload.len()));
                    if matches!(other, Piece::Close(_)) {
                        heard.end = Some("closed".into());
                        return heard;
                    }
                }
                Err(code) => {
                    heard.end = Some(format!("{code:?}"));
                    return heard;
                }
            }
        }
        assert!(input.is_empty(), "it takes all, or says why not");
    }
    heard
}

/// Frames: however they are cut, the same payload, controls and end come out.
pub fn websocket(data: &[u8]) {
    for role in [Role::Server, Role::Client] {
        let whole = hear(role, data, data.len().max(1));
        assert!(whole.payload.len() <= data.len());
        assert_eq!(hear(role, data, 1), whole);
        assert_eq!(hear(role, data, 7), whole);
    }
}

/// The heads of a request and of an answer.
pub fn upgrade(data: &[u8]) {
    let options = UpgradeOptions::default();
    match answer(data, &options) {
        Answer::Upgrade { response, used } => {
            assert!(used <= data.len() && used <= HEAD_BYTES_MAX);
            assert!(response.starts_with(b"HTTP/1.1 101 "));
        }
        Answer::Refuse { status, response } => {
            assert!((400..600).contains(&status) && response.starts_with(b"HTTP/1.1 "));
        }
        Answer::More => assert!(data.len() < HEAD_BYTES_MAX),
        Answer::Http => {}
    }
    let _ = check_answer(data, &options, [7; 16]);
}
