//! What time does to connections: limits of phases, heartbeats, slow senders, drains.

use std::time::Duration;

use env::Instant;
use proto::frame::{CloseCode, DownFrame};
use proto::link::Slot;

use crate::conn::Phase;
use crate::gate::{Closing, Due, End, Gate, touch};
use crate::{Options, Rule};

/// How often limits that nothing else reminds of are looked through.
pub(crate) const SWEEP: Duration = Duration::from_secs(10);

/// A drain under way.
#[derive(Debug)]
pub(crate) struct Drain {
    /// Connections closed by each step.
    pub(crate) step: usize,
    pub(crate) left: Vec<Slot>,
}

impl Gate {
    /// Advances to `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now, |_, what| due.push(what));
        for what in due.drain(..) {
            match what {
                Due::Phase(slot) => self.handle_phase_due(now, slot),
                Due::Frame(slot) => self.handle_frame_due(now, slot),
                Due::Retry(slot) => self.handle_retry(now, slot),
                Due::Owner(slot) => self.handle_owner_due(now, slot),
                Due::Homes => self.handle_homes_due(now),
                Due::Sweep => {
                    self.guard.sweep(now);
                    self.homes.sweep(now);
                    self.audit(now);
                    self.wheel.insert(now + SWEEP, Due::Sweep);
                }
                Due::DrainStep => self.handle_drain_step(now),
                Due::Shifts => self.handle_shifts_due(now),
            }
        }
        self.due = due;
    }

    fn handle_phase_due(&mut self, now: Instant, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        match &conn.phase {
            Phase::Hello | Phase::Challenged(_) => {
                self.stats.hit(Rule::HandshakeTime);
                self.end(now, slot, &End::new(CloseCode::SlowSender, "no login in time"));
            }
            Phase::Session(session) if session.waiting.is_some() => {
                self.stats.hit(Rule::HomeWait);
                let reason = "the session's home does not answer";
                self.end(now, slot, &End::new(CloseCode::Unavailable, reason));
            }
            Phase::Session(_) => self.beat(now, slot),
            Phase::Closing => self.closing.push_back((slot, Closing::Now)),
        }
    }

    /// Pings a silent client, then gives it up.
    pub(crate) fn beat(&mut self, now: Instant, slot: Slot) {
        let Options { heartbeat, heartbeats_missed_max, idle_max, .. } = self.options;
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let silence = now.since(conn.heard_at);
        let limit =
            if heartbeat.is_zero() { idle_max } else { heartbeat * heartbeats_missed_max.max(1) };
        if silence >= limit {
            self.stats.hit(Rule::Silent);
            self.end(now, slot, &End::new(CloseCode::Idle, "silent for too long"));
            return;
        }
        if heartbeat.is_zero() {
            let at = conn.heard_at + limit;
            self.set_timer(slot, at);
            return;
        }
        // A busy client is pinged now and then too, to measure the way.
        if silence >= heartbeat || now.since(conn.ping.answered_at) >= heartbeat * 5 {
            conn.ping.token = conn.ping.token.wrapping_add(1);
            conn.ping.is_open = true;
            conn.ping.sent_at = now;
            let token = u64::from(conn.ping.token);
            self.pool.fill(&mut conn.output);
            conn.put(&DownFrame::Ping { token });
            touch(&mut self.dirty, conn, slot);
        }
        let beats = silence.as_nanos() / heartbeat.as_nanos() + 1;
        let at = conn.heard_at + heartbeat * u32::try_from(beats).unwrap_or(u32::MAX);
        self.set_timer(slot, at);
    }

    /// A frame was begun a while ago: if it is still open, its sender must be fast enough.
    fn handle_frame_due(&mut self, now: Instant, slot: Slot) {
        let grace = self.options.frame_grace;
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.is_watched = false;
        if conn.input.is_empty() || conn.is_paused || matches!(conn.phase, Phase::Closing) {
            return;
        }
        let open = now.since(conn.frame_at);
        let next = if open < grace {
            conn.frame_at + grace
        } else {
            let speed = u128::from(self.options.sender_bytes_per_second_min);
            let expected = (open - grace).as_millis() * speed / 1000;
            if (conn.input.len() as u128) < expected {
                self.stats.hit(Rule::SlowSender);
                self.end(now, slot, &End::new(CloseCode::SlowSender, "a frame comes too slowly"));
                return;
            }
            now + Duration::from_secs(1)
        };
        conn.is_watched = true;
        self.wheel.insert(next, Due::Frame(slot));
    }

    /// When [`handle_timeout`](Gate::handle_timeout) must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }
}
