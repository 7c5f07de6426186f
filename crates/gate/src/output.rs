use env::FastSet;
use proto::Reader;
use proto::frame::{head, split_frame};

/// What two unnumbered frames have in common if the later one makes the earlier one useless.
type Topic = (u8, u32, u32);

/// Scratch space of [`merge`].
#[derive(Debug, Default)]
pub(crate) struct Merge {
    frames: Vec<(usize, usize, Option<Topic>)>,
    newest: FastSet<Topic>,
}

impl Merge {
    /// Drops every unnumbered frame of `output`, which holds whole frames, for which a newer one
    /// of the same method to the same stream or group follows. Gives the number dropped.
    pub(crate) fn merge(&mut self, output: &mut Vec<u8>) -> u64 {
        self.frames.clear();
        self.newest.clear();
        let mut at = 0;
        while let Ok(Some((payload, used))) = split_frame(&output[at..], usize::MAX >> 1) {
            self.frames.push((at, at + used, topic(payload)));
            at += used;
        }
        let mut dropped = 0;
        for (_, end, topic) in self.frames.iter_mut().rev() {
            if topic.is_some_and(|topic| !self.newest.insert(topic)) {
                // An empty range marks what goes.
                *end = 0;
                dropped += 1;
            }
        }
        if dropped == 0 {
            return 0;
        }
        let mut to = 0;
        for (from, end, _) in &self.frames {
            if *end > 0 {
                output.copy_within(*from..*end, to);
                to += end - from;
            }
        }
        output.truncate(to);
        dropped
    }
}

/// The topic of an unnumbered `Push` or `Cast`; `None` for every frame that must arrive.
fn topic(payload: &[u8]) -> Option<Topic> {
    let mut reader = Reader::new(payload);
    let head = reader.byte().ok()?;
    if head != head::PUSH && head != head::CAST {
        return None;
    }
    let handle = reader.varint_u32().ok()?;
    if reader.varint().ok()? != 0 {
        return None;
    }
    if head == head::PUSH {
        reader.varint().ok()?;
    }
    Some((head, handle, reader.u32().ok()?))
}

#[cfg(test)]
mod tests {
    use proto::MethodId;
    use proto::frame::{DownFrame, put_frame};

    use super::*;

    fn push(out: &mut Vec<u8>, stream: u32, number: u64, method: u32, body: &[u8]) {
        let frame = DownFrame::Push { stream, number, ack: 0, method: MethodId(method), body };
        put_frame(out, |out| frame.encode(out));
    }

    #[test]
    fn newest_unnumbered_frame_of_a_topic_stays() {
        let mut out = Vec::new();
        push(&mut out, 1, 0, 7, b"old");
        push(&mut out, 1, 5, 7, b"numbered");
        push(&mut out, 2, 0, 7, b"other stream");
        push(&mut out, 1, 0, 8, b"other method");
        let cast = DownFrame::Cast { group: 1, number: 0, method: MethodId(7), body: b"cast" };
        put_frame(&mut out, |out| cast.encode(out));
        push(&mut out, 1, 0, 7, &[9; 300]);
        assert_eq!(Merge::default().merge(&mut out), 1);
        let mut bodies = Vec::new();
        let mut at = 0;
        while let Some((payload, used)) = split_frame(&out[at..], 1 << 20).unwrap() {
            match DownFrame::decode(payload).unwrap() {
                DownFrame::Push { body, .. } | DownFrame::Cast { body, .. } => {
                    bodies.push(String::from_utf8_lossy(&body[..body.len().min(12)]).into_owned());
                }
                other => panic!("{other:?}"),
            }
            at += used;
        }
        assert_eq!(
            bodies,
            ["numbered", "other stream", "other method", "cast", "\t\t\t\t\t\t\t\t\t\t\t\t"]
        );
        assert_eq!(Merge::default().merge(&mut out), 0);
    }
}
