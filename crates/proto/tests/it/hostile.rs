//! Damaged samples through every decoder, so that plain `cargo test` does a little of what the
//! fuzzer does. What it ever found lies in `fuzz/crashes/TARGET/` and runs here too.

use std::fs;
use std::path::Path;

use env::Random;
use proto::encode;
use proto::frame::put_frame;

use crate::{samples, targets};

const ROUNDS: u64 = 20_000;

/// Changes a few things, as a broken or malicious peer would.
fn damage(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).expect("there are samples").clone();
    for _ in 0..1 + random.below(4) {
        let at = random.index(bytes.len() + 1);
        let has = at < bytes.len();
        match random.below(9) {
            0 if has => bytes[at] ^= 1 << random.below(8),
            1 if has => bytes[at] = random.u64() as u8,
            2 if has => _ = bytes.remove(at),
            3 => bytes.insert(at, random.u64() as u8),
            4 => bytes.truncate(at),
            5 => {
                let special = [
                    &[0xff; 10][..],
                    &[0x80, 0x80, 0x80, 0x80, 0x10],
                    &[0xdd, 0xff, 0xff, 0xff, 0xff],
                    &[0xdf, 0x7f, 0xff, 0xff, 0xff],
                    &[0xdb, 0x00, 0x01, 0x00, 0x00],
                    &[0xc1],
                    &[0xc0, 0xc0],
                    &[0x91; 40],
                    b"<tuple<",
                    b"\n  field x list<u8> default\n",
                ];
                let piece = *random.pick(&special).expect("some");
                bytes.splice(at..at, piece.iter().copied());
            }
            6 => {
                // A piece of another sample.
                let other = random.pick(corpus).expect("there are samples");
                let from = random.index(other.len() + 1);
                let to = from + random.index(other.len() - from + 1);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            7 => {
                let from = random.index(at + 1);
                bytes.drain(from..at);
            }
            _ => {
                let from = random.index(at + 1);
                let piece = bytes[from..at].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes.truncate(2_000);
    bytes
}

fn frames() -> Vec<Vec<u8>> {
    let mut corpus = vec![Vec::new()];
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        corpus.push(out);
    };
    for (_, frame) in samples::up() {
        add(&|out| frame.encode(out));
    }
    for (_, frame) in samples::down() {
        add(&|out| frame.encode(out));
    }
    for frame in samples::link() {
        add(&|out| frame.encode(3, out));
    }
    corpus
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    match target {
        "up_frame" | "down_frame" | "link_frame" | "varint" => frames(),
        "split" => {
            let mut together = Vec::new();
            for payload in frames().iter().filter(|payload| !payload.is_empty()) {
                put_frame(&mut together, |out| out.extend_from_slice(payload));
            }
            together.chunks(150).map(<[u8]>::to_vec).collect()
        }
        "message" => {
            let all = [encode(&targets::everything(0)), encode(&targets::everything(2))];
            let choices = encode(&targets::everything(0).choice);
            all.into_iter().chain([choices, vec![0x90], vec![0xdc, 0, 1, 0x90]]).collect()
        }
        "ticket" => targets::tickets().1.to_vec(),
        "lock" => {
            let text = crate::schema::sample_lock();
            vec![text.into_bytes(), crate::schema::BASE.as_bytes().to_vec()]
        }
        "shape" => {
            let shapes = ["map<text,list<u8>>", "tuple<u8,ref<Avatar>,array<Item,3>>", "unit"];
            shapes.iter().map(|text| text.as_bytes().to_vec()).collect()
        }
        other => panic!("no samples for {other}"),
    }
}

/// Together over 100,000 executions.
#[test]
fn damaged_samples_never_panic() {
    for (index, (name, target)) in targets::ALL.iter().enumerate() {
        let mut random = Random::from_seed(index as u64);
        let corpus = corpus(name);
        corpus.iter().for_each(|sample| target(sample));
        // The text targets and the ones that open tickets are slower by far.
        let rounds = match *name {
            "lock" => ROUNDS / 20,
            "ticket" => ROUNDS / 4,
            _ => ROUNDS,
        };
        for round in 0..rounds {
            let bytes = damage(&mut random, &corpus);
            let run = std::panic::catch_unwind(|| target(&bytes));
            assert!(run.is_ok(), "{name}, round {round}, bytes {bytes:02x?}");
        }
    }
}

#[test]
fn noise_never_panics() {
    let mut random = Random::from_seed(99);
    for (_, target) in targets::ALL {
        for len in 0..400 {
            let mut bytes = vec![0; len % 100];
            random.fill(&mut bytes);
            target(&bytes);
        }
    }
}

#[test]
fn what_the_fuzzer_found_is_fixed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/crashes");
    for (name, target) in targets::ALL {
        let Ok(entries) = fs::read_dir(folder.join(name)) else { continue };
        for entry in entries {
            target(&fs::read(entry.unwrap().path()).unwrap());
        }
    }
}
