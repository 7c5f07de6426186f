//! Streams: numbering, resending, acknowledgements, and what arrives on them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::Instant;
use proto::frame::{
    CloseCode, DownFrame, RESUME_GROUPS_MAX, RESUME_STREAMS_MAX, Status, StreamUp, UpFrame,
    put_frame,
};
use proto::stream::{self, Arrival, Inbound, Outbound};
use proto::{KindId, MethodId};

use super::link::{Break, protocol};
use super::{Core, Group, Request, ServerCall};
use crate::error::{CallError, Lost};
use crate::event::{CallId, Event, RequestId, TellId};
use crate::limits::Limits;

/// One stream by name; it may not be bound yet.
#[derive(Debug)]
pub(super) struct Stream {
    pub id: u64,
    pub name: Arc<str>,
    /// Another stream has its name now; the server is about to end this one.
    retired: bool,
    /// `None` until the server binds it.
    pub handle: Option<u32>,
    kind: KindId,
    epoch: u64,
    phase: Phase,
    outbound: Outbound<Kept>,
    /// Number of the last command that went out at least once in this epoch.
    sent: u64,
    durable: u64,
    pub inbound: Inbound,
    /// When an acknowledgement must go out by itself.
    pub ack_at: Option<Instant>,
    /// Requests of this epoch without an answer, by their number.
    pub waiting: BTreeMap<u64, RequestId>,
    /// The last tells that a `Resumed` confirmed: the refusal of one may still be sent again.
    settling: VecDeque<(u64, TellId)>,
    pub latest: Vec<Latest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not bound, without a connection, or before the server told what it has applied.
    Held,
    Live,
}

/// A command as it is kept until the server has applied it.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Tell {
        tell: TellId,
        method: MethodId,
        body: Box<[u8]>,
    },
    /// `own`: the method's own deadline holds, none is sent.
    Request {
        request: RequestId,
        method: MethodId,
        own: bool,
        body: Box<[u8]>,
    },
    Answer {
        call: u64,
        status: Status,
        body: Box<[u8]>,
    },
}

impl Kept {
    fn len(&self) -> usize {
        match self {
            Kept::Tell { body, .. } | Kept::Request { body, .. } | Kept::Answer { body, .. } => {
                body.len()
            }
        }
    }

    /// As it goes out under `number`. `deadline`: of the request, if it still waits.
    fn frame(
        &self,
        number: u64,
        ack: u64,
        now: Instant,
        deadline: Option<Instant>,
    ) -> StreamUp<'_> {
        match self {
            Kept::Tell { method, body, .. } => {
                StreamUp::Tell { number, ack, method: *method, body }
            }
            Kept::Request { method, own, body, .. } => {
                let Some(deadline) = deadline else {
                    // Given up here, so it must not run there any more; its number is taken all
                    // the same. An answer to call 0, which is never made, does nothing.
                    let status = Status::Timeout;
                    return StreamUp::Answer { number, ack, call: 0, status, body: &[] };
                };
                let left = u32::try_from((deadline - now).as_millis()).unwrap_or(u32::MAX).max(1);
                let deadline_ms = if *own { 0 } else { left };
                StreamUp::Request { number, ack, method: *method, deadline_ms, body }
            }
            Kept::Answer { call, status, body } => {
                StreamUp::Answer { number, ack, call: *call, status: *status, body }
            }
        }
    }
}

/// The newest message of one key.
#[derive(Debug)]
pub(super) struct Latest {
    pub method: MethodId,
    pub key: u64,
    pub body: Vec<u8>,
}

impl Stream {
    fn new(id: u64, name: &str, limits: &Limits) -> Self {
        Stream {
            id,
            name: name.into(),
            retired: false,
            handle: None,
            kind: KindId::default(),
            epoch: 0,
            phase: Phase::Held,
            outbound: Outbound::new(resend_limits(limits)),
            sent: 0,
            durable: 0,
            inbound: Inbound::default(),
            ack_at: None,
            waiting: BTreeMap::new(),
            settling: VecDeque::new(),
            latest: Vec::new(),
        }
    }

    fn is_called(&self, name: &str) -> bool {
        *self.name == *name && !self.retired
    }

    pub fn progress(&self) -> Option<(u32, u64, u64)> {
        Some((self.handle?, self.sent, self.outbound.acked()))
    }

    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Sends nothing until the server has told what it has applied.
    pub fn hold(&mut self) {
        self.phase = Phase::Held;
        self.ack_at = None;
    }

    /// Says of each tell that is kept still that it will not become known whether it was handled.
    pub fn unconfirmed(&self) -> impl Iterator<Item = Event> {
        unconfirmed(&self.name, &self.outbound, self.sent)
    }

    fn tell(&mut self) -> u64 {
        self.ack_at = None;
        self.inbound.tell()
    }

    /// The tell that was sent as `number`.
    fn told(&self, number: u64) -> Option<TellId> {
        let kept = self.outbound.kept().find(|(kept, _)| *kept == number);
        match kept {
            Some((_, Kept::Tell { tell, .. })) => Some(*tell),
            Some(_) => None,
            None => self.settling.iter().find(|(sent, _)| *sent == number).map(|(_, tell)| *tell),
        }
    }

    /// Keeps in mind which tells are confirmed by `applied` before what refuses one is sent again.
    fn settle(&mut self, applied: u64, at_most: usize) {
        for (number, kept) in self.outbound.kept().take_while(|(number, _)| *number <= applied) {
            if let Kept::Tell { tell, .. } = kept {
                self.settling.push_back((number, *tell));
            }
        }
        let over = self.settling.len().saturating_sub(at_most);
        self.settling.drain(..over);
    }
}

fn unconfirmed(
    stream: &Arc<str>,
    outbound: &Outbound<Kept>,
    sent: u64,
) -> impl Iterator<Item = Event> {
    outbound.kept().filter_map(move |(number, kept)| match kept {
        &Kept::Tell { tell, .. } => {
            Some(Event::Unconfirmed { stream: stream.clone(), tell, sent: number <= sent })
        }
        Kept::Request { .. } | Kept::Answer { .. } => None,
    })
}

fn resend_limits(limits: &Limits) -> stream::Limits {
    stream::Limits { frames_max: limits.resend_frames_max, bytes_max: limits.resend_bytes_max }
}

impl Core {
    /// The stream called `name`, made if there is none.
    pub(super) fn stream_index(&mut self, name: &str) -> Result<usize, CallError> {
        if let Some(end) = &self.ended {
            return Err(CallError::Ended(end.clone()));
        }
        if let Some(index) = self.streams.iter().position(|stream| stream.is_called(name)) {
            return Ok(index);
        }
        if self.streams.len() >= self.limits.streams_max {
            return Err(CallError::Full { frames: self.streams.len(), bytes: 0 });
        }
        self.streams_made += 1;
        self.streams.push(Stream::new(self.streams_made, name, &self.limits));
        Ok(self.streams.len() - 1)
    }

    pub(super) fn bound_index(&self, name: &str) -> Result<usize, CallError> {
        let bound = |stream: &Stream| stream.is_called(name) && stream.handle.is_some();
        self.streams.iter().position(bound).ok_or_else(|| match &self.ended {
            Some(end) => CallError::Ended(end.clone()),
            None => CallError::NotBound(name.to_owned()),
        })
    }

    /// Numbers and keeps a command, and sends it if the stream is live.
    pub(super) fn push(
        &mut self,
        now: Instant,
        index: usize,
        kept: Kept,
        deadline: Option<Instant>,
    ) -> Result<u64, CallError> {
        self.check_length(kept.len())?;
        let stream = &mut self.streams[index];
        let before = self.outbox.len();
        let live = stream.phase == Phase::Live;
        if let (true, Some(handle)) = (live, stream.handle) {
            let (number, ack) = (stream.outbound.next_number(), stream.inbound.applied());
            let frame = kept.frame(number, ack, now, deadline);
            put_frame(&mut self.outbox, |out| {
                UpFrame::Stream { stream: handle, frame }.encode(out)
            });
        }
        let len = kept.len();
        match stream.outbound.push(kept, len) {
            Ok(number) => {
                if live {
                    stream.sent = number;
                    stream.tell();
                    self.sent(before);
                }
                Ok(number)
            }
            Err(full) => {
                self.outbox.truncate(before);
                Err(CallError::Full { frames: full.frames, bytes: full.bytes })
            }
        }
    }

    /// Sends all kept commands of a stream, in order.
    fn resend(&mut self, now: Instant, index: usize) {
        let stream = &mut self.streams[index];
        let Some(handle) = stream.handle else { return };
        stream.phase = Phase::Live;
        self.flush_told = false;
        if stream.outbound.is_empty() {
            return;
        }
        let ack = stream.tell();
        let before = self.outbox.len();
        let mut frames = 0;
        for (number, kept) in stream.outbound.kept() {
            let deadline = match kept {
                Kept::Request { request, .. } if stream.waiting.contains_key(&number) => {
                    self.requests.get(request).map(|request| request.deadline)
                }
                _ => None,
            };
            let frame = kept.frame(number, ack, now, deadline);
            put_frame(&mut self.outbox, |out| {
                UpFrame::Stream { stream: handle, frame }.encode(out)
            });
            self.stats.resent += u64::from(number <= stream.sent);
            frames += 1;
        }
        stream.sent = stream.outbound.last();
        self.sent(before);
        self.stats.frames_out += frames - 1;
    }

    pub(super) fn put_latest(&mut self) {
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            if stream.latest.is_empty() || !stream.is_live() {
                continue;
            }
            let Some(handle) = stream.handle else { continue };
            let latest = std::mem::take(&mut stream.latest);
            let ack = stream.tell();
            for message in &latest {
                let Latest { method, body, .. } = message;
                let frame = StreamUp::Tell { number: 0, ack, method: *method, body };
                self.send(&UpFrame::Stream { stream: handle, frame });
            }
        }
        self.flush_told = true;
    }

    /// Sends the acknowledgements that waited long enough.
    pub(super) fn send_acks(&mut self, now: Instant) {
        for index in 0..self.streams.len() {
            if self.streams[index].ack_at.is_some_and(|at| at <= now) {
                self.send_ack(index);
            }
        }
    }

    fn send_ack(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        let ack = stream.tell();
        if let (Some(handle), true) = (stream.handle, stream.is_live()) {
            self.send(&UpFrame::Stream { stream: handle, frame: StreamUp::Ack { ack } });
        }
    }

    pub(super) fn handle_stream_frame(
        &mut self,
        now: Instant,
        frame: DownFrame<'_>,
    ) -> Result<(), Break> {
        match frame {
            DownFrame::Bound { stream, kind, epoch, name } => {
                self.bound(now, stream, kind, epoch, name)
            }
            DownFrame::Unbound { stream, code } => {
                self.unbound(stream, code);
                Ok(())
            }
            DownFrame::Resumed { stream, epoch, applied, durable } => {
                self.resumed(now, stream, epoch, applied, durable)
            }
            DownFrame::Reply { stream, number, ack, request, status, body } => {
                // Its own `ack` forgets the tell that it refuses.
                let known = self.streams.iter().find(|known| known.handle == Some(stream));
                let tell = known.and_then(|known| known.told(request));
                let Some(index) = self.arrive(now, stream, number, ack)? else { return Ok(()) };
                let stream = &mut self.streams[index];
                if let Some(request) = stream.waiting.remove(&request) {
                    self.complete(request, result_of(status, body));
                } else if tell.is_some() && status != Status::Ok {
                    let stream = stream.name.clone();
                    self.events.push_back(Event::Refused { stream, tell, status });
                }
                Ok(())
            }
            DownFrame::Push { stream, number, ack, method, body } => {
                let Some(index) = self.arrive(now, stream, number, ack)? else { return Ok(()) };
                let stream = self.streams[index].name.clone();
                self.events.push_back(Event::Push { stream, method, body: body.to_vec() });
                Ok(())
            }
            DownFrame::Call { stream, number, ack, call, deadline_ms, method, body } => {
                let Some(index) = self.arrive(now, stream, number, ack)? else { return Ok(()) };
                let deadline = now + Duration::from_millis(u64::from(deadline_ms));
                self.called(now, index, call, deadline, method, body)
            }
            DownFrame::Ack { stream, applied, durable } => {
                let Some(index) = self.by_handle(stream) else { return Ok(()) };
                let stream = &mut self.streams[index];
                stream.durable = stream.durable.max(durable);
                if stream.outbound.acknowledge(applied) { Ok(()) } else { Err(unsent()) }
            }
            DownFrame::Cast { group, number, method, body } => {
                self.cast(group, number, method, body)
            }
            DownFrame::Joined { group, stream, kind, number, name } => {
                self.joined((group, stream), kind, number, name)
            }
            DownFrame::Left { group, stream } => {
                self.leave(stream, |known| known.handle == group);
                Ok(())
            }
            DownFrame::Fault { stream, number, status } => {
                self.fault(stream, number, status);
                Ok(())
            }
            _ => Err(protocol("a frame out of order")),
        }
    }

    /// A command did not reach its entity.
    fn fault(&mut self, handle: u32, number: u64, status: Status) {
        let Some(index) = self.by_handle(handle) else { return };
        let stream = &mut self.streams[index];
        if let Some(request) = stream.waiting.remove(&number) {
            return self.complete(request, result_of(status, &[]));
        }
        let tell = stream.told(number);
        if tell.is_none() && number != 0 {
            return;
        }
        let stream = stream.name.clone();
        self.events.push_back(Event::Refused { stream, tell, status });
    }

    fn by_handle(&mut self, handle: u32) -> Option<usize> {
        let found = self.streams.iter().position(|stream| stream.handle == Some(handle));
        self.stats.strays += u64::from(found.is_none());
        found
    }

    /// Takes note of a frame that arrived on a stream; its index, if the frame is to be handled.
    fn arrive(
        &mut self,
        now: Instant,
        handle: u32,
        number: u64,
        ack: u64,
    ) -> Result<Option<usize>, Break> {
        let Some(index) = self.by_handle(handle) else { return Ok(None) };
        let stream = &mut self.streams[index];
        if !stream.outbound.acknowledge(ack) {
            return Err(unsent());
        }
        if number == 0 {
            return Ok(Some(index));
        }
        match stream.inbound.arrive(number) {
            Arrival::Duplicate => return Ok(None),
            Arrival::Gap => return Err(Break::Lost(Lost::Gap)),
            Arrival::Next => {}
        }
        if stream.inbound.is_due() {
            self.send_ack(index);
        } else if stream.ack_at.is_none() {
            stream.ack_at = Some(now + self.limits.ack_wait);
        }
        Ok(Some(index))
    }

    fn bound(
        &mut self,
        now: Instant,
        handle: u32,
        kind: KindId,
        epoch: u64,
        name: &str,
    ) -> Result<(), Break> {
        let other = self.streams.iter().position(|stream| stream.handle == Some(handle));
        let index = match other {
            // It goes on as what it was, also if a newer stream has its name by now.
            Some(other) if *self.streams[other].name == *name => other,
            _ => self.stream_index(name).map_err(|_| protocol("too many streams"))?,
        };
        // A handle leads to one stream: what else had it is gone.
        if let Some(other) = other.filter(|other| *other != index) {
            self.drop_stream(other, CloseCode::Goodbye);
            return self.bound(now, handle, kind, epoch, name);
        }
        if self.streams[index].handle.is_some_and(|newer| newer > handle) {
            return self.bound_late(handle, kind, epoch, name);
        }
        let stream = &mut self.streams[index];
        if stream.handle.is_some_and(|old| old != handle) {
            // The name moves to another stream; what was sent on this one may still be answered.
            stream.retired = true;
            if let Some(old) = stream.handle {
                self.leave(old, |_| true);
            }
            return self.bound(now, handle, kind, epoch, name);
        }
        let known = stream.handle.is_some();
        let same = known && stream.epoch == epoch && stream.kind == kind;
        stream.handle = Some(handle);
        if same {
            // After a resume: `Resumed` follows and tells what to send again.
            return Ok(());
        }
        if known {
            let other_kind = stream.kind != kind;
            self.start_epoch(index, epoch, other_kind);
        }
        let stream = &mut self.streams[index];
        stream.kind = kind;
        stream.epoch = epoch;
        let (stream, is_retired) = (stream.name.clone(), stream.retired);
        if !is_retired {
            self.events.push_back(Event::Bound { stream, kind });
        }
        self.resend(now, index);
        Ok(())
    }

    /// A stream whose name a newer one has already, so nothing will be sent on it.
    fn bound_late(
        &mut self,
        handle: u32,
        kind: KindId,
        epoch: u64,
        name: &str,
    ) -> Result<(), Break> {
        if self.streams.len() >= self.limits.streams_max {
            return Err(protocol("too many streams"));
        }
        self.streams_made += 1;
        let mut stream = Stream::new(self.streams_made, name, &self.limits);
        (stream.retired, stream.handle) = (true, Some(handle));
        (stream.kind, stream.epoch, stream.phase) = (kind, epoch, Phase::Live);
        self.streams.push(stream);
        Ok(())
    }

    fn resumed(
        &mut self,
        now: Instant,
        handle: u32,
        epoch: u64,
        applied: u64,
        durable: u64,
    ) -> Result<(), Break> {
        let Some(index) = self.by_handle(handle) else { return Ok(()) };
        if self.streams[index].epoch == epoch {
            let stream = &mut self.streams[index];
            stream.durable = stream.durable.max(durable);
            stream.settle(applied, self.limits.resend_frames_max);
            if !stream.outbound.acknowledge(applied) {
                return Err(unsent());
            }
        } else {
            self.start_epoch(index, epoch, false);
        }
        self.resend(now, index);
        Ok(())
    }

    /// The owner begins a new epoch: what it was sent before did not last, what it was not sent
    /// is numbered anew, unless the entity is of another kind.
    fn start_epoch(&mut self, index: usize, epoch: u64, other_kind: bool) {
        let limits = resend_limits(&self.limits);
        let stream = &mut self.streams[index];
        let old = std::mem::replace(&mut stream.outbound, Outbound::new(limits));
        let waiting = std::mem::take(&mut stream.waiting);
        let (sent, durable) = (stream.sent, stream.durable);
        let touched = sent > 0 || stream.inbound.applied() > 0;
        stream.epoch = epoch;
        stream.inbound = Inbound::default();
        stream.ack_at = None;
        (stream.sent, stream.durable) = (0, 0);
        stream.settling.clear();
        let untold = unconfirmed(&stream.name, &old, sent);
        let is_lost = |event: &Event| matches!(event, Event::Unconfirmed { sent: true, .. });
        let untold: Vec<_> = untold.filter(|event| other_kind || is_lost(event)).collect();
        let mut failed = Vec::new();
        for (&number, &request) in waiting.range(..=sent) {
            failed.push((number, request));
        }
        for (number, kept) in old.kept().filter(|(number, _)| *number > sent) {
            match (kept, waiting.get(&number)) {
                (Kept::Answer { .. }, _) | (Kept::Request { .. }, None) => continue,
                (_, Some(&request)) if other_kind => failed.push((number, request)),
                (Kept::Tell { .. }, _) if other_kind => {}
                (kept, request) => {
                    let renumbered = stream.outbound.push(kept.clone(), kept.len());
                    let number = renumbered.expect("no more than were kept before");
                    if let Some(&request) = request {
                        stream.waiting.insert(number, request);
                        if let Some(known) = self.requests.get_mut(&request) {
                            known.number = number;
                        }
                    }
                }
            }
        }
        let (id, handle, stream) = (stream.id, stream.handle, stream.name.clone());
        self.calls.retain(|_, call| call.stream != id);
        if touched && !other_kind {
            self.events.push_back(Event::RolledBack { stream, durable, sent });
        }
        self.events.extend(untold);
        if let Some(handle) = handle {
            self.leave(handle, |_| true);
        }
        for (number, request) in failed {
            let error = if number <= sent { CallError::RolledBack } else { CallError::NotSent };
            self.complete(request, Err(error));
        }
    }

    fn unbound(&mut self, handle: u32, code: CloseCode) {
        if let Some(index) = self.by_handle(handle) {
            self.drop_stream(index, code);
        }
    }

    fn drop_stream(&mut self, index: usize, code: CloseCode) {
        let stream = self.streams.remove(index);
        self.calls.retain(|_, call| call.stream != stream.id);
        if let Some(handle) = stream.handle {
            self.leave(handle, |_| true);
        }
        self.events.extend(stream.unconfirmed());
        for (number, request) in stream.waiting {
            let sent = number <= stream.sent;
            let gone = CallError::Refused(Status::Gone);
            self.complete(request, Err(if sent { gone } else { CallError::NotSent }));
        }
        if !stream.retired {
            self.events.push_back(Event::Unbound { stream: stream.name, code });
        }
    }

    fn called(
        &mut self,
        now: Instant,
        index: usize,
        call: u64,
        deadline: Instant,
        method: MethodId,
        body: &[u8],
    ) -> Result<(), Break> {
        let refusal = if !self.published.contains(&method) {
            Some(Status::UnknownMethod)
        } else if self.calls.len() >= self.limits.calls_max {
            Some(Status::Busy)
        } else {
            None
        };
        if let Some(status) = refusal {
            // If even this finds no room, the server's deadline ends the call.
            let answer = Kept::Answer { call, status, body: Box::default() };
            let _ = self.push(now, index, answer, None);
            return Ok(());
        }
        self.calls_seen += 1;
        let id = CallId(self.calls_seen);
        let Stream { id: stream_id, name, .. } = &self.streams[index];
        let (stream, stream_id) = (name.clone(), *stream_id);
        self.calls.insert(id, ServerCall { stream: stream_id, call, deadline });
        let body = body.to_vec();
        self.events.push_back(Event::Call { call: id, stream, method, deadline, body });
        Ok(())
    }

    fn cast(
        &mut self,
        handle: u32,
        number: u64,
        method: MethodId,
        body: &[u8],
    ) -> Result<(), Break> {
        let Some(group) = self.groups.iter_mut().find(|group| group.handle == handle) else {
            self.stats.strays += 1;
            return Ok(());
        };
        if number != 0 {
            if number <= group.last {
                return Ok(());
            }
            if number > group.last + 1 {
                return Err(Break::Lost(Lost::Gap));
            }
            group.last = number;
        }
        let group = group.name.clone();
        self.events.push_back(Event::Cast { group, method, body: body.to_vec() });
        Ok(())
    }

    fn joined(
        &mut self,
        (handle, stream): (u32, u32),
        kind: KindId,
        number: u64,
        name: &str,
    ) -> Result<(), Break> {
        // A stream that has ended, or whose name another has, took its memberships with it.
        if self.by_handle(stream).is_none_or(|index| self.streams[index].retired) {
            return Ok(());
        }
        let known = self.groups.iter_mut().find(|group| group.handle == handle);
        let known = known.map(|group| (group.last, std::mem::take(&mut group.streams)));
        let (last, mut streams) = known.unwrap_or((number, Vec::new()));
        streams.retain(|other| *other != stream);
        self.groups.retain(|group| group.handle != handle && *group.name != *name);
        let others: usize = self.groups.iter().map(|group| group.streams.len()).sum();
        if others + streams.len() >= RESUME_GROUPS_MAX {
            return Err(protocol("too many groups"));
        }
        streams.push(stream);
        let group: Arc<str> = name.into();
        // What was handled is not handled again, whatever another stream's owner sends again.
        self.groups.push(Group { handle, name: group.clone(), last: last.max(number), streams });
        let missed = number.saturating_sub(last);
        self.events.push_back(Event::Joined { group, kind, missed });
        Ok(())
    }

    /// Ends the memberships that came by `stream`, of the groups that are `meant`.
    fn leave(&mut self, stream: u32, meant: impl Fn(&Group) -> bool) {
        for group in self.groups.iter_mut().filter(|group| meant(group)) {
            group.streams.retain(|other| *other != stream);
            if group.streams.is_empty() {
                self.events.push_back(Event::Left { group: group.name.clone() });
            }
        }
        self.groups.retain(|group| !group.streams.is_empty());
    }

    /// Makes room for all streams in a `Resume`: the oldest of those whose name is taken give way.
    pub(super) fn fit_resume(&mut self) {
        loop {
            let bound = || self.streams.iter().filter(|stream| stream.handle.is_some());
            if bound().count() <= RESUME_STREAMS_MAX {
                return;
            }
            let oldest = bound().find(|stream| stream.retired).or_else(|| bound().next());
            let oldest = oldest.expect("more than the limit are bound").id;
            let index = self.streams.iter().position(|stream| stream.id == oldest);
            self.drop_stream(index.expect("just found"), CloseCode::Limit);
        }
    }

    fn complete(&mut self, request: RequestId, result: Result<Vec<u8>, CallError>) {
        if let Some(known) = self.requests.remove(&request) {
            self.deadlines.remove(&(known.deadline, request));
            self.events.push_back(Event::Reply { request, result });
        }
    }

    pub(super) fn expire_requests(&mut self, now: Instant) {
        while let Some(&(deadline, request)) = self.deadlines.first()
            && deadline <= now
        {
            self.expire(request);
        }
        self.calls.retain(|_, call| call.deadline > now);
    }

    /// Ends a request without an answer.
    pub(super) fn expire(&mut self, request: RequestId) {
        let Some(Request { stream, number, .. }) = self.requests.get(&request) else { return };
        let mut sent = true;
        if let Some(stream) = self.streams.iter_mut().find(|known| known.id == *stream) {
            stream.waiting.remove(number);
            sent = *number <= stream.sent;
        }
        let error = if sent { CallError::Timeout } else { CallError::NotSent };
        self.complete(request, Err(error));
    }
}

fn result_of(status: Status, body: &[u8]) -> Result<Vec<u8>, CallError> {
    match status {
        Status::Ok => Ok(body.to_vec()),
        Status::App => Err(CallError::App(body.to_vec())),
        Status::Timeout => Err(CallError::Timeout),
        Status::RolledBack => Err(CallError::RolledBack),
        status => Err(CallError::Refused(status)),
    }
}

fn unsent() -> Break {
    protocol("an acknowledgement of what was never sent")
}
