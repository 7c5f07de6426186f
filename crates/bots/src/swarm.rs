use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use client::{Address, CallError, End, Event, Grant, Limits, Output};
use env::{Clock, FastMap, Instant, Random};
use transport::{Read, Sockets, Token, Waker, Write};

use crate::load::wait;
use crate::player::{ASK_AGAIN, Phase, Player, State};
use crate::{GrantError, GrantSource, Load, Progress, Script, Summary};

/// How a swarm plays.
#[derive(Clone, Debug)]
pub struct Options {
    /// Gates; bot `n` begins with the `n`-th, going round.
    pub addresses: Vec<Address>,
    /// How many, and when.
    pub load: Load,
    /// Limits of each client.
    pub limits: Limits,
    /// How often scripts get their `on_tick`; zero for never.
    pub tick: Duration,
    /// A bot whose script heard nothing for so long has failed; zero for never.
    pub stall_after: Duration,
    /// How long the end waits for open requests and broken connections.
    pub settle_wait: Duration,
    /// Logins of one bot that may fail in a row before it has failed.
    pub logins_max: u32,
    /// All random choices follow from it.
    pub seed: u64,
}

impl Options {
    /// The usual limits; bots tick once a second and come back for ever.
    pub fn new(address: Address, load: Load) -> Self {
        Options {
            addresses: vec![address],
            load,
            limits: Limits { tries_max: None, ..Limits::default() },
            tick: Duration::from_secs(1),
            stall_after: Duration::from_secs(30),
            settle_wait: Duration::from_secs(10),
            logins_max: 5,
            seed: 1,
        }
    }
}

/// Why a swarm cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// The system gives no poll, no socket or no more descriptors.
    #[error("no sockets: {0}")]
    Io(#[from] io::Error),
    /// A gate's host has no address.
    #[error("{0} cannot be resolved: {1}")]
    Resolve(Address, io::Error),
    /// `addresses` is empty.
    #[error("no address of a gate is given")]
    NoAddress,
}

/// Many bots in one thread.
pub struct Swarm {
    options: Options,
    targets: Vec<SocketAddr>,
    clock: Clock,
    sockets: Sockets,
    started_at: Instant,
    players: Vec<Player>,
    by_socket: FastMap<Token, u32>,
    timers: env::Wheel<u32>,
    dirty: VecDeque<u32>,
    desk: Desk,
    phase: Phase,
    summary: Summary,
    stop: Arc<AtomicBool>,
    scratch: Vec<u8>,
    /// Answers and messages at the last progress.
    told: (u64, u64),
}

impl std::fmt::Debug for Swarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swarm").field("players", &self.players.len()).finish_non_exhaustive()
    }
}

/// Ends a swarm early from another thread or a signal handler; the summary covers what was.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl Stopper {
    /// Ends the swarm.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// The thread that gets tickets.
struct Desk {
    asks: mpsc::Sender<u32>,
    grants: mpsc::Receiver<(u32, Result<Grant, GrantError>)>,
}

impl Desk {
    fn open(mut source: Box<dyn GrantSource>, waker: Waker) -> Self {
        let (asks, asked) = mpsc::channel();
        let (given, grants) = mpsc::channel();
        // Ends when the swarm does, at the latest after the call that is going on.
        std::thread::spawn(move || {
            while let Ok(index) = asked.recv() {
                if given.send((index, source.grant(index))).is_err() {
                    return;
                }
                waker.wake();
            }
        });
        Desk { asks, grants }
    }
}

impl Swarm {
    /// Prepares the bots; `scripts` makes the script of bot `n`.
    ///
    /// # Errors
    ///
    /// Why they cannot begin.
    pub fn new(
        options: Options,
        grants: impl GrantSource + 'static,
        mut scripts: impl FnMut(u32) -> Box<dyn Script>,
    ) -> Result<Self, SwarmError> {
        if options.addresses.is_empty() {
            return Err(SwarmError::NoAddress);
        }
        raise_descriptor_limit(u64::from(options.load.players) + 64);
        let clock = Clock::system();
        let sockets = Sockets::new(transport::Options::default(), clock.clone())?;
        let targets = options.addresses.iter().map(resolve).collect::<Result<_, _>>()?;
        let now = clock.now();
        let mut random = Random::from_seed(options.seed);
        let players = (0..options.load.players)
            .map(|index| {
                let start = now + options.load.start_of(index);
                Player::new(index, scripts(index), random.fork(), start)
            })
            .collect();
        let desk = Desk::open(Box::new(grants), sockets.waker());
        Ok(Swarm {
            summary: Summary { players: options.load.players, ..Summary::default() },
            timers: env::Wheel::new(now, Duration::from_millis(10)),
            by_socket: FastMap::default(),
            dirty: (0..options.load.players).collect(),
            phase: Phase::Playing,
            stop: Arc::new(AtomicBool::new(false)),
            scratch: vec![0; 64 * 1024],
            told: (0, 0),
            started_at: now,
            options,
            targets,
            clock,
            sockets,
            players,
            desk,
        })
    }

    /// Something that ends this swarm early.
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: self.stop.clone(), waker: self.sockets.waker() }
    }

    /// Plays until the load's time is over. `progress` is called once a second.
    ///
    /// # Errors
    ///
    /// `Io` if the poll breaks.
    pub fn run(mut self, mut progress: impl FnMut(&Progress)) -> Result<Summary, SwarmError> {
        let load = &self.options.load;
        let mut ends_at = self.started_at + load.ramp + load.steady;
        let mut progress_at = self.started_at + Duration::from_secs(1);
        let mut events = Vec::new();
        loop {
            let now = self.clock.now();
            if now >= progress_at && self.phase == Phase::Playing {
                progress_at += Duration::from_secs(1);
                self.watch(now);
                progress(&self.progress(now));
            }
            if self.stop.load(Ordering::Relaxed) && self.phase == Phase::Playing {
                ends_at = now;
            }
            if now >= ends_at || self.phase != Phase::Playing && self.is_settled() {
                match self.phase {
                    Phase::Playing => {
                        self.drop_unstarted(now);
                        self.phase = Phase::Settling;
                        ends_at = now + self.options.settle_wait;
                    }
                    Phase::Settling => {
                        self.conclude(now);
                        self.phase = Phase::Leaving;
                        ends_at = now + Duration::from_secs(2);
                    }
                    Phase::Leaving => return Ok(self.finish(now)),
                }
            }
            self.settle(now);
            let now = self.clock.now();
            let next = [Some(ends_at), Some(progress_at), self.timers.next_deadline()];
            let next = next.into_iter().flatten().min().expect("the end is a deadline");
            // Timers fire at most one tick late, so nobody spins on a deadline a moment away.
            let wait = next.since(now).max(Duration::from_millis(1));
            self.sockets.poll(Some(wait), &mut events)?;
            let now = self.clock.now();
            for event in events.drain(..) {
                self.handle(now, event);
            }
            self.take_grants(now);
            self.fire(now);
        }
    }

    fn handle(&mut self, now: Instant, event: transport::Event) {
        use transport::Event;
        let socket = match &event {
            Event::Connected(socket)
            | Event::ConnectFailed(socket, _)
            | Event::Readable(socket)
            | Event::Writable(socket) => *socket,
            Event::Accepted { .. } | Event::Woken | Event::Timer => return,
        };
        let Some(&index) = self.by_socket.get(&socket) else { return };
        self.dirty.push_back(index);
        let player = &mut self.players[index as usize];
        match event {
            Event::Connected(_) => {
                let attempt = player.attempt;
                let Some(line) = &mut player.line else { return };
                line.handle_connected(now, attempt);
                self.write(now, index);
            }
            Event::Readable(_) => self.read(now, index, socket),
            Event::Writable(_) => self.write(now, index),
            _ => self.closed(now, index),
        }
    }

    fn read(&mut self, now: Instant, index: u32, socket: Token) {
        loop {
            let read = self.sockets.read(socket, &mut self.scratch);
            match read {
                Read::Data(len) | Read::More(len) => {
                    let player = &mut self.players[index as usize];
                    let Some(line) = &mut player.line else { return };
                    if line.handle_bytes(now, &mut self.scratch[..len]).is_err() {
                        return self.closed(now, index);
                    }
                    if matches!(read, Read::Data(_)) {
                        return;
                    }
                }
                Read::Blocked => return,
                Read::Closed(_) => return self.closed(now, index),
            }
        }
    }

    fn write(&mut self, now: Instant, index: u32) {
        let player = &mut self.players[index as usize];
        let (Some(socket), Some(line)) = (player.socket, &mut player.line) else { return };
        let out = line.outgoing();
        if out.is_empty() {
            return;
        }
        if let Write::Closed(_) = self.sockets.write(socket, out) {
            self.closed(now, index);
        } else if out.is_empty() {
            // Idle bots hold no buffer.
            *out = Vec::new();
        }
    }

    /// The connection of a bot is no more.
    fn closed(&mut self, now: Instant, index: u32) {
        let player = &mut self.players[index as usize];
        if let Some(socket) = player.socket.take() {
            self.by_socket.remove(&socket);
            self.sockets.close(socket);
        }
        if let Some(line) = &mut player.line {
            line.handle_closed(now);
        }
    }

    fn take_grants(&mut self, now: Instant) {
        while let Ok((index, result)) = self.desk.grants.try_recv() {
            let player = &mut self.players[index as usize];
            if player.state != State::Asking || self.phase == Phase::Leaving {
                continue;
            }
            self.dirty.push_back(index);
            match result {
                Ok(grant) => {
                    player.log_in(now, grant, &self.options);
                }
                Err(error) => {
                    self.summary.grant_failures += 1;
                    self.summary.complain(|| format!("bot {index}: {error}"));
                    player.state = State::Resting(now + ASK_AGAIN);
                }
            }
        }
    }

    fn fire(&mut self, now: Instant) {
        let Swarm { timers, players, dirty, .. } = self;
        timers.advance(now, |_, index| {
            players[index as usize].armed = None;
            dirty.push_back(index);
        });
    }

    /// Brings all bots that something happened to up to date.
    fn settle(&mut self, now: Instant) {
        while let Some(index) = self.dirty.pop_front() {
            self.due(now, index);
            self.drain(now, index);
            self.arm(index);
        }
    }

    /// Does what the time asks for.
    fn due(&mut self, now: Instant, index: u32) {
        let Swarm { players, summary, desk, phase, options, .. } = self;
        let player = &mut players[index as usize];
        match player.state {
            State::Resting(at) if at <= now && *phase != Phase::Leaving => {
                player.state = State::Asking;
                player.begun = true;
                let _ = desk.asks.send(index);
                return;
            }
            State::Playing => {}
            _ => return,
        }
        if let Some(line) = &mut player.line
            && line.poll_timeout().is_some_and(|at| at <= now)
        {
            line.handle_timeout(now);
        }
        if *phase != Phase::Playing {
            return;
        }
        if player.cut_at.is_some_and(|at| at <= now) {
            player.cut_at = wait(&mut player.random, options.load.churn.cut_every).map(|w| now + w);
            player.core().cut(now);
        }
        if player.leave_at.is_some_and(|at| at <= now) {
            // Only who is connected can say goodbye; another session would wait for its end.
            let is_connected = player.is_connected();
            player.leave_at = (!is_connected).then(|| now + LEAVE_AGAIN);
            if is_connected {
                player.leave();
            }
        }
        if player.tick_at.is_some_and(|at| at <= now) {
            player.tick_at = Some(now + options.tick);
            player.play(now, summary, |script, bot| script.on_tick(bot));
        }
    }

    /// Hands out what happened and does what the line wants, until there is nothing more.
    fn drain(&mut self, now: Instant, index: u32) {
        loop {
            let player = &mut self.players[index as usize];
            let Some(line) = &mut player.line else { return };
            if let Some(event) = line.core_mut().poll_event() {
                self.pass_on(now, index, event);
                continue;
            }
            match line.poll_output() {
                None => return,
                Some(Output::Flush) => self.write(now, index),
                Some(Output::Connect { attempt }) => self.connect(now, index, attempt),
                Some(Output::Close) => {
                    if let Some(socket) = player.socket.take() {
                        self.by_socket.remove(&socket);
                        self.sockets.finish(socket);
                    }
                }
            }
        }
    }

    fn connect(&mut self, now: Instant, index: u32, attempt: u32) {
        let turn = index.wrapping_add(attempt.wrapping_sub(1)) as usize % self.targets.len();
        let result = self.sockets.connect(self.targets[turn]);
        let player = &mut self.players[index as usize];
        player.attempt = attempt;
        match result {
            Ok(socket) => {
                player.socket = Some(socket);
                self.by_socket.insert(socket, index);
            }
            Err(error) => {
                self.summary.complain(|| format!("bot {index}: cannot connect: {error}"));
                if let Some(line) = &mut player.line {
                    line.handle_closed(now);
                }
            }
        }
    }

    fn pass_on(&mut self, now: Instant, index: u32, event: Event) {
        let Swarm { players, summary, options, phase, .. } = self;
        let player = &mut players[index as usize];
        match event {
            Event::Retry { .. } => {}
            Event::Reply { request, result } => {
                let Some((tag, at)) = player.asked.remove(&request) else { return };
                player.heard_at = now;
                match &result {
                    Ok(_) | Err(CallError::App(_)) => {
                        summary.answers += 1;
                        summary.rtt.record(now - at);
                    }
                    Err(CallError::Ended(End::Goodbye)) if player.leaving => {}
                    Err(error) if player.script.excuses(error) => {}
                    Err(error) => {
                        summary.failed_request(error);
                        summary.complain(|| format!("bot {index}: {error}"));
                    }
                }
                player.play(now, summary, |script, bot| script.on_reply(bot, tag, result));
            }
            Event::Connected { resumed, .. } => {
                player.heard_at = now;
                player.refused = 0;
                if !player.admitted {
                    player.admitted = true;
                    let churn = options.load.churn;
                    player.cut_at = wait(&mut player.random, churn.cut_every).map(|w| now + w);
                    player.leave_at = wait(&mut player.random, churn.leave_every).map(|w| now + w);
                    if player.tick_at.is_none() && !options.tick.is_zero() {
                        // Ticks of different bots are spread over time.
                        let offset = options.tick.mul_f64(player.random.unit_f64());
                        player.tick_at = Some(now + offset);
                    }
                }
                player.play(now, summary, |script, bot| script.on_connected(bot, resumed));
            }
            Event::Ended { end } => {
                player.play(now, summary, |script, bot| {
                    script.on_event(bot, &Event::Ended { end: end.clone() });
                });
                player.ended(now, summary, options, *phase, &end);
            }
            event => {
                if let Event::Push { .. } | Event::Cast { .. } | Event::Call { .. } = event {
                    summary.messages += 1;
                }
                if !matches!(event, Event::Lost { .. }) {
                    player.heard_at = now;
                }
                player.play(now, summary, |script, bot| script.on_event(bot, &event));
            }
        }
    }

    /// Sets the timer of a bot, unless an earlier one is set anyway.
    fn arm(&mut self, index: u32) {
        let player = &mut self.players[index as usize];
        let Some(at) = player.wake_at(self.phase) else { return };
        match player.armed {
            Some((armed, _)) if armed <= at => return,
            Some((_, key)) => drop(self.timers.cancel(key)),
            None => {}
        }
        player.armed = Some((at, self.timers.insert(at, index)));
    }

    /// Bots whose turn has not come when the swarm is stopped early do not count.
    fn drop_unstarted(&mut self, now: Instant) {
        for player in &mut self.players {
            if matches!(player.state, State::Resting(at) if at > now) && !player.begun {
                player.state = State::Gone;
                self.summary.players -= 1;
            }
        }
    }

    /// Looks for bots that stopped, and at their pings.
    fn watch(&mut self, now: Instant) {
        let stall = self.options.stall_after;
        for player in &mut self.players {
            if player.state != State::Playing {
                continue;
            }
            let ping = player.core().stats().rtt;
            if let Some(rtt) = ping.filter(|_| ping != player.ping) {
                self.summary.ping.record(rtt);
                player.ping = ping;
            }
            if !stall.is_zero() && now - player.heard_at > stall {
                let index = player.index;
                self.summary.complain(|| format!("bot {index}: nothing heard for {stall:?}"));
                player.give_up();
                self.dirty.push_back(player.index);
            }
        }
    }

    fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Playing => false,
            Phase::Settling => self.players.iter().all(|player| match player.state {
                State::Playing => player.asked.is_empty() && player.is_connected(),
                State::Failed | State::Gone => true,
                State::Resting(_) | State::Asking => false,
            }),
            Phase::Leaving => self.by_socket.is_empty() && self.sockets.is_empty(),
        }
    }

    /// Counts, then says goodbye.
    fn conclude(&mut self, now: Instant) {
        self.watch(now);
        self.summary.elapsed = now - self.started_at;
        for player in &mut self.players {
            let is_connected = player.is_connected();
            self.summary.connected += u32::from(is_connected);
            if player.state == State::Failed || player.state != State::Gone && !is_connected {
                self.summary.failed += 1;
            }
            for _ in 0..player.asked.len() {
                self.summary.failed_request(&CallError::Timeout);
            }
            if player.state == State::Playing {
                player.leave();
                self.dirty.push_back(player.index);
            }
        }
    }

    fn finish(mut self, _now: Instant) -> Summary {
        for player in &mut self.players {
            let Some(line) = &mut player.line else { continue };
            let stats = line.core().stats();
            self.summary.bytes_in += stats.bytes_in;
            self.summary.bytes_out += stats.bytes_out;
            self.summary.logins += stats.logins;
            self.summary.resumes += stats.resumes;
        }
        self.summary
    }

    fn progress(&mut self, now: Instant) -> Progress {
        let elapsed = now - self.started_at;
        let load = &self.options.load;
        let count = |wanted: fn(&Player) -> bool| {
            self.players.iter().filter(|player| wanted(player)).count() as u32
        };
        let (answers, messages) = (self.summary.answers, self.summary.messages);
        let told = std::mem::replace(&mut self.told, (answers, messages));
        let resumes = self.players.iter().filter_map(|player| player.line.as_ref());
        Progress {
            elapsed,
            started: (0..load.players).filter(|&n| load.start_of(n) <= elapsed).count() as u32,
            connected: count(Player::is_connected),
            failed: count(|player| player.state == State::Failed),
            answers,
            answers_now: answers - told.0,
            messages_now: messages - told.1,
            wrong_answers: self.summary.wrong_answers,
            lost_sessions: self.summary.lost_sessions,
            resumes: resumes.map(|line| line.core().stats().resumes).sum(),
            rtt_p50: self.summary.rtt.percentile(500),
        }
    }
}

/// The address of a gate. Of a name with several (`localhost` is `::1` and `127.0.0.1`) the first
/// that accepts a connection.
fn resolve(address: &Address) -> Result<SocketAddr, SwarmError> {
    let failed = |error| SwarmError::Resolve(address.clone(), error);
    let found = (address.host(), address.port()).to_socket_addrs().map_err(failed)?;
    let found: Vec<_> = found.collect();
    let accepts = |at: &&SocketAddr| TcpStream::connect_timeout(at, TRY_WAIT).is_ok();
    let best = if found.len() > 1 { found.iter().find(accepts) } else { None };
    let best = best.or(found.first()).copied();
    best.ok_or_else(|| failed(io::Error::other("the host has no address")))
}

/// Pause before a bot that is not connected tries again to leave.
const LEAVE_AGAIN: Duration = Duration::from_millis(100);

/// How long an address of several may take to accept a connection.
const TRY_WAIT: Duration = Duration::from_secs(1);

/// Each bot needs a descriptor, and the usual limit is 1,024.
#[cfg(unix)]
fn raise_descriptor_limit(wanted: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = limit.maximum.map_or(Some(wanted), |maximum| Some(maximum.min(wanted)));
        // If that fails, connecting does, with the reason.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

#[cfg(not(unix))]
fn raise_descriptor_limit(_: u64) {}
