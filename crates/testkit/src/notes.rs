use std::collections::VecDeque;

use env::Instant;
use proto::frame::{DownFrame, UpFrame, split_frame};

use crate::net::End;

/// What happened last, as lines for people.
#[derive(Debug)]
pub(crate) struct Notes {
    most: usize,
    lines: VecDeque<String>,
}

impl Notes {
    pub(crate) fn new(most: usize) -> Self {
        Notes { most, lines: VecDeque::new() }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    pub(crate) fn add(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if self.most == 0 {
            return;
        }
        if self.lines.len() >= self.most {
            self.lines.pop_front();
        }
        let micros = now.as_nanos() / 1_000;
        self.lines.push_back(format!(
            "{:>4}.{:06} {}",
            micros / 1_000_000,
            micros % 1_000_000,
            line()
        ));
    }

    /// Notes bytes that arrive at `to`; frames between clients and gates by what they say.
    pub(crate) fn bytes(&mut self, now: Instant, from: Option<End>, to: End, bytes: &[u8]) {
        if self.most == 0 {
            return;
        }
        let Some(from) = from else { return };
        let is_up = match (from, to) {
            (End::Client(_), _) => true,
            (_, End::Client(_)) => false,
            _ => return,
        };
        let mut rest = bytes;
        while let Ok(Some((payload, used))) = split_frame(rest, 1 << 20) {
            rest = &rest[used..];
            let text = if is_up {
                format!("{:?}", UpFrame::decode(payload))
            } else {
                format!("{:?}", DownFrame::decode(payload))
            };
            let text: String = text.chars().take(240).collect();
            self.add(now, || format!("{from} > {to}: {text}"));
        }
        if !rest.is_empty() {
            let count = rest.len();
            self.add(now, || format!("{from} > {to}: {count} bytes of a frame"));
        }
    }
}
