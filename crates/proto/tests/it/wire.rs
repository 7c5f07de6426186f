//! Frames of both legs: round trips, cuts, splits, limits, hostile bytes.

use std::collections::BTreeSet;

use proto::frame::{
    CloseCode, DownFrame, RESUME_GROUPS_MAX, RESUME_STREAMS_MAX, Seen, SeenGroup, Status, StreamUp,
    TEXT_BYTES_MAX, TOKEN_BYTES_MAX, UpFrame, put_frame, split_frame,
};
use proto::link::{self, LinkFrame, Slot};
use proto::{Reader, WireError, put_blob, put_varint, varint_len};

use crate::samples;

/// A client's limit after login.
const MAX: usize = 64 * 1024;

fn up_payloads() -> Vec<Vec<u8>> {
    let encode = |frame: &UpFrame<'_>| {
        let mut out = Vec::new();
        frame.encode(&mut out);
        out
    };
    samples::up().iter().map(|(_, frame)| encode(frame)).collect()
}

fn down_payloads() -> Vec<Vec<u8>> {
    let encode = |frame: &DownFrame<'_>| {
        let mut out = Vec::new();
        frame.encode(&mut out);
        out
    };
    samples::down().iter().map(|(_, frame)| encode(frame)).collect()
}

fn link_payloads() -> Vec<Vec<u8>> {
    let encode = |frame: &LinkFrame<'_>| {
        let mut out = Vec::new();
        frame.encode(7, &mut out);
        out
    };
    samples::link().iter().map(encode).collect()
}

#[test]
fn every_frame_comes_back() {
    for ((name, frame), payload) in samples::up().iter().zip(up_payloads()) {
        assert_eq!(UpFrame::decode(&payload).as_ref(), Ok(frame), "{name}");
    }
    for ((name, frame), payload) in samples::down().iter().zip(down_payloads()) {
        assert_eq!(DownFrame::decode(&payload).as_ref(), Ok(frame), "{name}");
    }
    for (frame, payload) in samples::link().into_iter().zip(link_payloads()) {
        assert_eq!(link::destination(&payload), Ok(7));
        assert_eq!(LinkFrame::decode(&payload), Ok((7, frame)));
    }
}

#[test]
fn every_kind_has_a_sample() {
    let up: BTreeSet<_> = samples::up().iter().map(|(_, frame)| samples::up_kind(frame)).collect();
    let down: BTreeSet<_> =
        samples::down().iter().map(|(_, frame)| samples::down_kind(frame)).collect();
    let link: BTreeSet<_> = samples::link().iter().map(samples::link_kind).collect();
    assert_eq!((up.len(), down.len(), link.len()), (10, 16, 71));
    // Each sample's first byte is a head that nothing else in its direction has.
    let heads: BTreeSet<u8> = up_payloads().iter().map(|payload| payload[0]).collect();
    assert_eq!(heads.len(), up.len());
    let heads: BTreeSet<u8> = down_payloads().iter().map(|payload| payload[0]).collect();
    assert_eq!(heads.len(), down.len());
    let kinds: BTreeSet<u8> = link_payloads().iter().map(|payload| payload[0]).collect();
    assert_eq!(kinds.len(), link.len());
}

/// Frames that end in a body may be cut inside it; everything before is needed.
#[test]
fn a_frame_cut_at_any_byte_is_truncated_or_another_whole_frame() {
    for payload in up_payloads() {
        for cut in 0..payload.len() {
            match UpFrame::decode(&payload[..cut]) {
                Err(error) => {
                    assert_eq!(error, WireError::Truncated, "{payload:02x?} cut at {cut}")
                }
                Ok(UpFrame::Stream { frame, .. }) => {
                    assert!(!matches!(frame, StreamUp::Ack { .. }), "{payload:02x?} cut at {cut}");
                }
                Ok(other) => panic!("{other:?} from {payload:02x?} cut at {cut}"),
            }
        }
    }
    for payload in down_payloads() {
        for cut in 0..payload.len() {
            match DownFrame::decode(&payload[..cut]) {
                Err(error) => assert_eq!(error, WireError::Truncated),
                Ok(
                    DownFrame::Reply { .. }
                    | DownFrame::Push { .. }
                    | DownFrame::Call { .. }
                    | DownFrame::Cast { .. },
                ) => {}
                Ok(other) => panic!("{other:?} from {payload:02x?} cut at {cut}"),
            }
        }
    }
    for payload in link_payloads() {
        for cut in 0..payload.len() {
            match LinkFrame::decode(&payload[..cut]) {
                Err(error) => assert_eq!(error, WireError::Truncated),
                Ok((_, frame)) => {
                    let carries = [
                        "up",
                        "down",
                        "cast",
                        "call",
                        "answer",
                        "publish",
                        "relay",
                        "select",
                        "forward",
                        "pass",
                        "move",
                        "forwarded",
                        "stream_passed",
                    ];
                    assert!(carries.contains(&samples::link_kind(&frame)), "{frame:?}");
                }
            }
        }
    }
}

#[test]
fn a_frame_with_a_byte_too_many_is_refused_unless_it_ends_in_a_body() {
    for mut payload in up_payloads() {
        let has_body = matches!(payload[0], 0x04..=0x06);
        payload.push(0);
        let wanted = if has_body { None } else { Some(WireError::Trailing) };
        assert_eq!(UpFrame::decode(&payload).err(), wanted, "{payload:02x?}");
    }
    for mut payload in down_payloads() {
        let has_body = matches!(payload[0], 0x16..=0x18 | 0x1a);
        payload.push(0);
        let wanted = if has_body { None } else { Some(WireError::Trailing) };
        assert_eq!(DownFrame::decode(&payload).err(), wanted, "{payload:02x?}");
    }
}

#[test]
fn wrong_directions_flags_and_unknown_heads_are_refused() {
    for payload in up_payloads() {
        let both_ways = matches!(payload[0], 0x08..=0x0a);
        let read = DownFrame::decode(&payload);
        if both_ways {
            assert!(read.is_ok());
        } else {
            assert_eq!(read, Err(WireError::Kind(payload[0])));
        }
        for flag in [0x20, 0x40, 0x80] {
            let mut flagged = payload.clone();
            flagged[0] |= flag;
            assert_eq!(UpFrame::decode(&flagged), Err(WireError::Kind(flagged[0])));
        }
    }
    for head in (0..=255).filter(|head| !(0x01..=0x0a).contains(head)) {
        assert_eq!(UpFrame::decode(&[head, 0, 0, 0]), Err(WireError::Kind(head)));
    }
    for payload in down_payloads() {
        if payload[0] > 0x0a {
            assert_eq!(UpFrame::decode(&payload), Err(WireError::Kind(payload[0])));
        }
    }
    assert_eq!(LinkFrame::decode(&[0xff, 0]), Err(WireError::Kind(0xff)));
    assert_eq!(UpFrame::decode(&[]), Err(WireError::Truncated));
}

fn framed(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for payload in payloads {
        put_frame(&mut out, |out| out.extend_from_slice(payload));
    }
    out
}

/// Takes all whole frames out of `buffer`.
fn drain(buffer: &mut Vec<u8>, max: usize) -> Result<Vec<Vec<u8>>, WireError> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some((payload, taken)) = split_frame(&buffer[at..], max)? {
        frames.push(payload.to_vec());
        at += taken;
    }
    buffer.drain(..at);
    Ok(frames)
}

/// A network library threw away frames that arrived together, ignored end-of-stream, sent unused
/// buffer space, and believed a forged length.
#[test]
fn x9_frames_that_arrive_together_or_in_pieces_are_all_delivered() {
    let payloads = up_payloads();
    let bytes = framed(&payloads);
    let mut together = bytes.clone();
    assert_eq!(drain(&mut together, MAX).unwrap(), payloads);
    assert!(together.is_empty());
    for split in 0..=bytes.len() {
        let mut buffer = bytes[..split].to_vec();
        let mut frames = drain(&mut buffer, MAX).unwrap();
        buffer.extend_from_slice(&bytes[split..]);
        frames.extend(drain(&mut buffer, MAX).unwrap());
        assert_eq!(frames, payloads, "split at {split}");
    }
    let (mut buffer, mut frames) = (Vec::new(), Vec::new());
    for byte in bytes {
        buffer.push(byte);
        frames.extend(drain(&mut buffer, MAX).unwrap());
    }
    assert_eq!(frames, payloads);
}

#[test]
fn lengths_of_every_width_come_back() {
    for len in [1, 127, 128, 129, 16_383, 16_384, 16_385, 2_097_151, 2_097_152] {
        let mut out = vec![0xee; 3];
        put_frame(&mut out, |out| out.extend((0..len).map(|n| n as u8)));
        let (payload, taken) = split_frame(&out[3..], len).unwrap().unwrap();
        assert_eq!(taken, out.len() - 3);
        assert_eq!(taken, len + varint_len(len as u64));
        assert!(payload.iter().enumerate().all(|(n, byte)| *byte == n as u8));
        assert_eq!(&out[..3], [0xee; 3]);
    }
}

#[test]
fn a_zero_length_closes_and_a_length_over_the_limit_is_known_before_its_bytes() {
    assert_eq!(split_frame(&[0], MAX), Err(WireError::Empty));
    assert_eq!(split_frame(&[0, 1, 2], MAX), Err(WireError::Empty));
    let mut head = Vec::new();
    put_varint(&mut head, MAX as u64);
    assert_eq!(split_frame(&head, MAX), Ok(None));
    head.clear();
    put_varint(&mut head, MAX as u64 + 1);
    let error = WireError::TooLong { len: MAX as u64 + 1, max: MAX };
    assert_eq!(split_frame(&head, MAX), Err(error));
    head.clear();
    put_varint(&mut head, u64::MAX);
    let error = WireError::TooLong { len: u64::MAX, max: MAX };
    assert_eq!(split_frame(&head, MAX), Err(error));
}

#[test]
fn varints_have_one_form() {
    for value in
        (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX])
    {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(out.len(), varint_len(value));
        let mut reader = Reader::new(&out);
        assert_eq!(reader.varint(), Ok(value));
        assert_eq!(reader.end(), Ok(()));
        for cut in 0..out.len() {
            assert_eq!(Reader::new(&out[..cut]).varint(), Err(WireError::Truncated));
        }
        // Several bytes are looked at together where there are more behind: they stay.
        for behind in [[0; 8], [0xff; 8]] {
            let mut more = out.clone();
            more.extend_from_slice(&behind);
            let mut reader = Reader::new(&more);
            assert_eq!((reader.varint(), reader.rest()), (Ok(value), &behind[..]));
        }
    }
    let hostile: &[&[u8]] = &[
        // Longer than needed.
        &[0x80, 0x00],
        &[0xff, 0x80, 0x00],
        // Over 64 bits.
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        &[0x80; 10],
        &[0xff; 11],
    ];
    for bytes in hostile {
        assert_eq!(Reader::new(bytes).varint(), Err(WireError::Varint), "{bytes:02x?}");
        let more = [*bytes, &[1; 8]].concat();
        assert_eq!(Reader::new(&more).varint(), Err(WireError::Varint), "{more:02x?}");
        assert_eq!(split_frame(bytes, MAX), Err(WireError::Varint), "{bytes:02x?}");
    }
    let mut wide = Vec::new();
    put_varint(&mut wide, u64::from(u32::MAX) + 1);
    assert_eq!(Reader::new(&wide).varint_u32(), Err(WireError::Range));
}

#[test]
fn announced_counts_and_lengths_are_held_to_their_limits() {
    // A resume that announces 33 streams or 161 groups, or more bytes of token than any token has.
    let mut resume = vec![0x03];
    put_blob(&mut resume, b"token");
    resume.extend_from_slice(&[0; 32]);
    put_varint(&mut resume, 1);
    let mut streams = resume.clone();
    put_varint(&mut streams, 33);
    assert_eq!(UpFrame::decode(&streams), Err(WireError::Range));
    let mut forged = resume.clone();
    put_varint(&mut forged, 32);
    assert_eq!(UpFrame::decode(&forged), Err(WireError::Truncated));
    let mut groups = resume;
    put_varint(&mut groups, 0);
    put_varint(&mut groups, 161);
    assert_eq!(UpFrame::decode(&groups), Err(WireError::Range));
    let mut token = vec![0x03];
    put_varint(&mut token, 257);
    assert_eq!(UpFrame::decode(&token), Err(WireError::Range));
    let mut agent = vec![0x01, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    put_blob(&mut agent, &[b'x'; TEXT_BYTES_MAX + 1]);
    assert_eq!(UpFrame::decode(&agent), Err(WireError::Range));
    // A call whose chain of callers is longer than any.
    let mut call = vec![0x40, 0, 0];
    call.extend_from_slice(&[0; 9]);
    call.extend_from_slice(&[0; 6]);
    call.extend_from_slice(&[0; 5]);
    put_varint(&mut call, 33);
    assert_eq!(LinkFrame::decode(&call), Err(WireError::Range));
    // A text that is none.
    assert_eq!(UpFrame::decode(&[0x0a, 0, 2, 0xc3, 0x28]), Err(WireError::Utf8));
}

#[test]
fn what_is_too_long_to_send_is_cut_not_refused_by_the_peer() {
    let mut out = Vec::new();
    let reason = "ü".repeat(200);
    DownFrame::Close { code: CloseCode::Kicked, reason: &reason }.encode(&mut out);
    let cut = "ü".repeat(128);
    let wanted = DownFrame::Close { code: CloseCode::Kicked, reason: &cut };
    assert_eq!(DownFrame::decode(&out), Ok(wanted));
    out.clear();
    let streams = vec![Seen { handle: 1, number: 1 }; 300];
    UpFrame::Resume { token: b"", proof: [0; 32], generation: 1, streams, groups: vec![] }
        .encode(&mut out);
    let Ok(UpFrame::Resume { streams, .. }) = UpFrame::decode(&out) else { panic!("{out:?}") };
    assert_eq!(streams.len(), RESUME_STREAMS_MAX);
}

/// A client that was in many groups was closed with `Protocol` when it came back, since its
/// `Resume` was longer than what a gate takes from somebody it does not know yet.
#[test]
fn the_longest_resume_fits_what_a_gate_takes_before_it_lets_a_client_in() {
    let (handle, stream, number) = (u32::MAX, u32::MAX, u64::MAX);
    let mut out = Vec::new();
    UpFrame::Resume {
        token: &[7; TOKEN_BYTES_MAX],
        proof: [1; 32],
        generation: u64::MAX,
        streams: vec![Seen { handle, number }; RESUME_STREAMS_MAX],
        groups: vec![SeenGroup { group: handle, stream, number }; RESUME_GROUPS_MAX],
    }
    .encode(&mut out);
    assert!(out.len() <= 4 * 1024, "{} bytes", out.len());
    let longest = UpFrame::decode(&out).unwrap();
    let UpFrame::Resume { streams, groups, .. } = longest else { panic!("{longest:?}") };
    assert_eq!((streams.len(), groups.len()), (RESUME_STREAMS_MAX, RESUME_GROUPS_MAX));
}

#[test]
fn unknown_codes_have_a_meaning() {
    for code in 0..300 {
        let status = Status::from_code(code);
        assert_eq!(status as u64, if code <= 13 { code } else { 13 });
        let close = CloseCode::from_code(code);
        assert_eq!(close as u64, if code <= 13 { code } else { 1 });
        let resumes = [6, 7, 8, 9, 10, 11];
        assert_eq!(close.may_resume(), resumes.contains(&code));
    }
}

#[test]
fn a_gate_forwards_by_taking_out_the_handle() {
    let slot = Slot { index: 1, generation: 1 };
    for payload in up_payloads().into_iter().filter(|payload| matches!(payload[0], 0x04..=0x07)) {
        let Ok(UpFrame::Stream { frame, .. }) = UpFrame::decode(&payload) else { panic!() };
        let mut reader = Reader::new(&payload[1..]);
        reader.varint_u32().unwrap();
        let mut out = Vec::new();
        link::put_up(&mut out, 3, slot, payload[0], reader.rest());
        let Ok((3, LinkFrame::Up { slot: found, frame: forwarded })) = LinkFrame::decode(&out)
        else {
            panic!("{out:02x?}");
        };
        assert_eq!(found, slot);
        let read = StreamUp::decode_fields(forwarded[0], &mut Reader::new(&forwarded[1..]));
        assert_eq!(read, Ok(frame));
    }
    for payload in down_payloads() {
        let mut out = Vec::new();
        link::put_down(&mut out, 3, slot, |out| out.extend_from_slice(&payload));
        assert_eq!(
            LinkFrame::decode(&out),
            Ok((3, LinkFrame::Down { conn: slot, frame: &payload }))
        );
        assert_eq!(link::read_down(&out), Some((slot, &payload[..])));
    }
    assert_eq!(link::read_down(&link_payloads()[0]), None);
}
