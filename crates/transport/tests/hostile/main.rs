//! Damaged WebSocket bytes through every decoder, as the fuzzer does with more patience. What that
//! ever found lies in `fuzz/crashes/TARGET/` and runs here too.

mod targets;

use std::fs;
use std::path::Path;

use env::Random;
use transport::ws::{UpgradeOptions, put_close, put_masked, request, wrap_binary};

fn messages() -> Vec<Vec<u8>> {
    let mut client = Vec::new();
    put_masked(&mut client, b"some frames", [1, 2, 3, 4]);
    put_masked(&mut client, &[7; 300], [9; 4]);
    let mut closing = client.clone();
    put_close(&mut closing, 1000, "bye", Some([5; 4]));
    let mut server = b"more frames".to_vec();
    wrap_binary(&mut server, 0);
    let pings = [0x89, 0x81, 1, 2, 3, 4, 0x55, 0x8a, 0x80, 0, 0, 0, 0].to_vec();
    let fragments =
        [0x02, 0x81, 0, 0, 0, 0, 1, 0x89, 0x80, 0, 0, 0, 0, 0x80, 0x82, 0, 0, 0, 0, 2, 3].to_vec();
    vec![client, closing, server, pings, fragments]
}

fn heads() -> Vec<Vec<u8>> {
    let options = UpgradeOptions::default();
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: mainstay.1\r\n\r\n";
    let other = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let good = request("game.example", &options, [7; 16]);
    vec![good, answer.as_bytes().to_vec(), other.as_bytes().to_vec()]
}

fn damage(random: &mut Random, sample: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.index(bytes.len() + 1);
        let has = at < bytes.len();
        match random.below(7) {
            0 if has => bytes[at] ^= 1 << random.below(8),
            1 if has => bytes[at] = random.u64() as u8,
            2 if has => _ = bytes.remove(at),
            3 => bytes.insert(at, random.u64() as u8),
            4 => bytes.truncate(at),
            5 => {
                let special =
                    [&[0x82, 0xff][..], &[0xff; 9], &[0x88, 0x02], b"\r\n\r\n", b"websocket"];
                let piece = *random.pick(&special).expect("some");
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                let from = random.index(at + 1);
                let piece = bytes[from..at].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

fn run(name: &str, corpus: &[Vec<u8>], rounds: u64, target: fn(&[u8])) {
    let mut random = Random::from_seed(rounds);
    corpus.iter().for_each(|sample| target(sample));
    for round in 0..rounds {
        let bytes = damage(&mut random, random_sample(corpus, round));
        let run = std::panic::catch_unwind(|| target(&bytes));
        assert!(run.is_ok(), "{name}, round {round}, bytes {bytes:02x?}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/crashes").join(name);
    for entry in fs::read_dir(folder).into_iter().flatten() {
        target(&fs::read(entry.unwrap().path()).unwrap());
    }
}

fn random_sample(corpus: &[Vec<u8>], round: u64) -> &[u8] {
    &corpus[round as usize % corpus.len()]
}

#[test]
fn damaged_frames_never_panic() {
    run("websocket", &messages(), 20_000, targets::websocket);
}

#[test]
fn damaged_heads_never_panic() {
    run("upgrade", &heads(), 20_000, targets::upgrade);
}
