//! Sockets and pipes on the real system, one suite for both, with both kinds of timer.

use std::net::SocketAddr;
use std::time::Duration;

use env::{Clock, Instant};

use crate::{Event, ListenOptions, Options, Read, Sockets, Token, Write, memory};

/// Long enough for a loaded machine; a test that works never waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A `Sockets` with what it told.
struct Side {
    sockets: Sockets,
    events: Vec<Event>,
    scratch: Vec<u8>,
}

impl Side {
    fn new(options: Options) -> Self {
        let sockets = Sockets::new(options, Clock::system()).unwrap();
        Side { sockets, events: Vec::new(), scratch: vec![0; 4096] }
    }

    fn poll(&mut self, timeout: Duration) {
        self.sockets.poll(Some(timeout), &mut self.events).unwrap();
    }

    /// Polls until `wanted` accepts an event, which is taken; earlier ones are dropped.
    fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let end = Clock::system().now() + PATIENCE;
        loop {
            let found = self.events.iter().enumerate().find_map(|(n, e)| Some((n, wanted(e)?)));
            if let Some((n, found)) = found {
                self.events.drain(..=n);
                return found;
            }
            self.events.clear();
            assert!(Clock::system().now() < end, "the event never came");
            self.poll(Duration::from_millis(100));
        }
    }

    fn until_readable(&mut self, token: Token) {
        self.until(|event| matches!(event, Event::Readable(t) if *t == token).then_some(()));
    }

    /// Reads until nothing is left, as a driver does; whether the end came too.
    fn drain(&mut self, token: Token, into: &mut Vec<u8>) -> bool {
        loop {
            match self.sockets.read(token, &mut self.scratch) {
                Read::Data(n) => {
                    into.extend_from_slice(&self.scratch[..n]);
                    return false;
                }
                Read::More(n) => into.extend_from_slice(&self.scratch[..n]),
                Read::Blocked => return false,
                Read::Closed(_) => return true,
            }
        }
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Two connected ends, by TCP.
fn tcp() -> (Side, Token, Side, Token) {
    let (mut one, mut two) = (Side::new(Options::default()), Side::new(Options::default()));
    let (listener, addr) = two.sockets.listen(loopback(), ListenOptions::default()).unwrap();
    let mine = one.sockets.connect(addr).unwrap();
    one.until(|event| matches!(event, Event::Connected(t) if *t == mine).then_some(()));
    let theirs = two.until(|event| match event {
        Event::Accepted { listener: l, socket, .. } if *l == listener => Some(*socket),
        _ => None,
    });
    (one, mine, two, theirs)
}

/// Two connected ends, in memory.
fn pipe() -> (Side, Token, Side, Token) {
    let (mut one, mut two) = (Side::new(Options::default()), Side::new(Options::default()));
    let (a, b) = memory::pair(64 * 1024);
    let mine = one.sockets.adopt_pipe(a).unwrap();
    let theirs = two.sockets.adopt_pipe(b).unwrap();
    (one, mine, two, theirs)
}

fn on_both(test: fn((Side, Token, Side, Token))) {
    test(tcp());
    test(pipe());
}

#[test]
fn bytes_and_the_end_arrive() {
    on_both(|(mut one, mine, mut two, theirs)| {
        let mut out = b"hello".to_vec();
        assert!(matches!(one.sockets.write(mine, &mut out), Write::All));
        assert!(out.is_empty());
        two.until_readable(theirs);
        let mut got = Vec::new();
        assert!(!two.drain(theirs, &mut got));
        assert_eq!(got, b"hello");
        assert!(matches!(two.sockets.read(theirs, &mut [0; 8]), Read::Blocked));
        // The last words and the end in one go: a short read must not hide the end.
        one.sockets.write(mine, &mut b"bye".to_vec());
        one.sockets.close(mine);
        got.clear();
        loop {
            two.until_readable(theirs);
            if two.drain(theirs, &mut got) {
                break;
            }
        }
        assert_eq!(got, b"bye");
    });
}

#[test]
fn a_full_pipe_says_when_there_is_room_and_loses_nothing() {
    on_both(|(mut one, mine, mut two, theirs)| {
        let sent: Vec<u8> = (0..16_000_000u32).map(|n| (n >> 3) as u8).collect();
        let mut out = sent.clone();
        let mut got = Vec::new();
        let mut partials = 0;
        let end = Clock::system().now() + PATIENCE;
        let mut may_write = true;
        while got.len() < sent.len() {
            assert!(Clock::system().now() < end, "{} of {}", got.len(), sent.len());
            if may_write {
                match one.sockets.write(mine, &mut out) {
                    Write::All => {}
                    Write::Partial => partials += 1,
                    Write::Closed(error) => panic!("{error:?}"),
                }
            }
            two.poll(Duration::from_millis(1));
            if std::mem::take(&mut two.events).iter().any(|e| matches!(e, Event::Readable(_))) {
                two.drain(theirs, &mut got);
            }
            one.poll(Duration::ZERO);
            let is_writable = |event: &Event| matches!(event, Event::Writable(t) if *t == mine);
            // Nothing more is tried before the event says so.
            may_write = std::mem::take(&mut one.events).iter().any(is_writable);
        }
        assert!(got == sent);
        assert!(partials > 1);
    });
}

#[test]
fn a_token_that_had_its_share_is_told_again() {
    on_both(|(mut one, mine, mut two, theirs)| {
        one.sockets.write(mine, &mut vec![7; 5000]);
        let mut got = 0;
        while got < 5000 {
            two.until_readable(theirs);
            match two.sockets.read(theirs, &mut [0; 1000]) {
                Read::More(n) => {
                    got += n;
                    two.sockets.read_later(theirs);
                }
                Read::Data(n) => got += n,
                Read::Blocked => {}
                Read::Closed(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(got, 5000);
    });
}

#[test]
fn writing_to_who_is_gone_is_told() {
    on_both(|(mut one, mine, mut two, theirs)| {
        two.sockets.close(theirs);
        let mut closed = false;
        let end = Clock::system().now() + PATIENCE;
        while !closed && Clock::system().now() < end {
            one.poll(Duration::from_millis(1));
            closed = matches!(one.sockets.write(mine, &mut b"x".to_vec()), Write::Closed(_));
        }
        assert!(closed);
        one.sockets.close(mine);
        one.sockets.close(mine);
        assert!(matches!(one.sockets.read(mine, &mut [0; 8]), Read::Closed(None)));
        assert!(matches!(one.sockets.write(mine, &mut vec![1]), Write::Closed(None)));
        assert!(one.sockets.is_empty());
    });
}

#[test]
fn finish_lets_the_peer_read_the_last_words() {
    let (mut one, mine, mut two, theirs) = tcp();
    // Unread input would make the system reset the connection and destroy what we wrote.
    two.sockets.write(theirs, &mut vec![1; 10_000]);
    one.until_readable(mine);
    one.sockets.write(mine, &mut b"go away".to_vec());
    one.sockets.finish(mine);
    let mut got = Vec::new();
    while !{
        one.poll(Duration::ZERO);
        two.until_readable(theirs);
        two.drain(theirs, &mut got)
    } {}
    assert_eq!(got, b"go away");
    two.sockets.close(theirs);
    let end = Clock::system().now() + PATIENCE;
    while !one.sockets.is_empty() && Clock::system().now() < end {
        one.poll(Duration::from_millis(10));
    }
    assert!(one.sockets.is_empty());
}

#[test]
fn a_finished_socket_does_not_linger_for_ever() {
    let options = Options { linger: Duration::from_millis(20), ..Options::default() };
    let mut one = Side::new(options);
    let listener = std::net::TcpListener::bind(loopback()).unwrap();
    let kept = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let token = one.sockets.adopt(listener.accept().unwrap().0).unwrap();
    one.sockets.finish(token);
    let end = Clock::system().now() + PATIENCE;
    while !one.sockets.is_empty() && Clock::system().now() < end {
        one.poll(Duration::from_millis(100));
    }
    assert!(one.sockets.is_empty());
    drop(kept);
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let free = std::net::TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
    let mut one = Side::new(Options::default());
    let token = one.sockets.connect(free).unwrap();
    let kind = one.until(|event| match event {
        Event::ConnectFailed(t, error) if *t == token => Some(error.kind()),
        _ => None,
    });
    assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
    assert!(one.sockets.is_empty());
    assert_eq!(one.sockets.counters().connect_failures, 1);
}

#[test]
fn listeners_share_a_port_and_many_connections_at_once_all_arrive() {
    let mut sides: Vec<Side> = (0..2).map(|_| Side::new(Options::default())).collect();
    let (_, addr) = sides[0].sockets.listen(loopback(), ListenOptions::default()).unwrap();
    sides[1].sockets.listen(addr, ListenOptions::default()).unwrap();
    let clients: Vec<_> = (0..300).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
    let mut accepted = [0, 0];
    let end = Clock::system().now() + PATIENCE;
    while accepted[0] + accepted[1] < 300 && Clock::system().now() < end {
        for (side, accepted) in sides.iter_mut().zip(&mut accepted) {
            side.poll(Duration::from_millis(1));
            let is_accept = |event: &Event| matches!(event, Event::Accepted { .. });
            *accepted += side.events.drain(..).filter(is_accept).count();
        }
    }
    assert_eq!(accepted[0] + accepted[1], 300);
    assert!(accepted[0] > 50 && accepted[1] > 50, "{accepted:?}");
    drop(clients);
}

#[test]
fn what_is_over_the_limit_is_closed_and_counted() {
    let mut side = Side::new(Options { sockets_max: 3, ..Options::default() });
    let (listener, addr) = side.sockets.listen(loopback(), ListenOptions::default()).unwrap();
    let clients: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
    let end = Clock::system().now() + PATIENCE;
    let done = |side: &Side| side.sockets.counters().accepted + side.sockets.counters().refused;
    while done(&side) < 5 && Clock::system().now() < end {
        side.poll(Duration::from_millis(1));
    }
    assert_eq!((side.sockets.counters().accepted, side.sockets.counters().refused), (2, 3));
    let error = side.sockets.connect(addr).unwrap_err();
    assert_eq!(error.to_string(), "3 sockets are open: raise sockets_max");
    drop(clients);
    side.sockets.close_listener(listener);
    assert!(std::net::TcpStream::connect(addr).is_err());
}

#[test]
fn accepting_goes_on_after_the_system_refused() {
    let accept_pause = Duration::from_millis(30);
    let mut side = Side::new(Options { accept_pause, ..Options::default() });
    let (listener, addr) = side.sockets.listen(loopback(), ListenOptions::default()).unwrap();
    let until = Clock::system().now() + accept_pause;
    side.sockets.pause(listener.0);
    let client = std::net::TcpStream::connect(addr).unwrap();
    side.until(|event| matches!(event, Event::Accepted { .. }).then_some(()));
    assert!(Clock::system().now() >= until);
    assert_eq!(side.sockets.counters().accept_pauses, 1);
    drop(client);
}

#[test]
fn a_socket_is_handed_to_another_server() {
    use std::io::{Read as _, Write as _};
    let (mut one, mine, mut two, theirs) = tcp();
    one.sockets.write(mine, &mut b"GET /".to_vec());
    two.until_readable(theirs);
    let mut head = Vec::new();
    two.drain(theirs, &mut head);
    let mut stream = two.sockets.detach(theirs).unwrap();
    assert!(two.sockets.detach(theirs).is_err());
    stream.set_nonblocking(false).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
    one.until_readable(mine);
    let mut got = Vec::new();
    one.drain(mine, &mut got);
    assert_eq!((&head[..], &got[..]), (&b"GET /"[..], &b"HTTP/1.1 200 OK\r\n"[..]));
    one.sockets.close(mine);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn wakes_from_other_threads_are_never_lost_and_come_as_one() {
    let mut side = Side::new(Options::default());
    let waker = side.sockets.waker();
    for _ in 0..100 {
        waker.wake();
    }
    side.poll(PATIENCE);
    assert!(matches!(side.events[..], [Event::Woken]), "{:?}", side.events);
    side.events.clear();
    side.poll(Duration::ZERO);
    assert!(side.events.is_empty());
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let thread = std::thread::spawn({
        let flag = flag.clone();
        move || {
            for n in 1..=20_000 {
                flag.store(n, std::sync::atomic::Ordering::SeqCst);
                waker.wake();
            }
        }
    });
    // Each wait ends because of a wake; after the last one the last value is seen.
    while flag.load(std::sync::atomic::Ordering::SeqCst) < 20_000 {
        side.until(|event| matches!(event, Event::Woken).then_some(()));
    }
    thread.join().unwrap();
}

#[test]
fn pipes_carry_batches_between_threads() {
    let (mut one, mine, mut two, theirs) = pipe();
    let total = 3_000_000usize;
    let thread = std::thread::spawn(move || {
        let mut got = 0;
        let mut next = 0u8;
        while got < total {
            two.until_readable(theirs);
            let mut bytes = Vec::new();
            two.drain(theirs, &mut bytes);
            for byte in &bytes {
                assert_eq!(*byte, next);
                next = next.wrapping_add(1);
            }
            got += bytes.len();
        }
        two.sockets.counters().polls
    });
    let mut sent = 0;
    while sent < total {
        let mut out: Vec<u8> = (sent..total.min(sent + 10_000)).map(|n| (n % 256) as u8).collect();
        sent += out.len();
        while let Write::Partial = one.sockets.write(mine, &mut out) {
            one.until(|event| matches!(event, Event::Writable(t) if *t == mine).then_some(()));
        }
    }
    thread.join().unwrap();
}

#[test]
fn deadlines_are_kept_by_both_timers() {
    for portable_timer in [false, true] {
        let mut side = Side::new(Options { portable_timer, ..Options::default() });
        let clock = Clock::system();
        let is_timer = |event: &Event| matches!(event, Event::Timer).then_some(());
        let start = clock.now();
        let at = start + Duration::from_millis(15);
        side.sockets.arm_timer(start + Duration::from_secs(100));
        side.sockets.arm_timer(at);
        side.until(is_timer);
        assert!(clock.now() >= at, "portable {portable_timer}");
        // Pushed back: the first moment passes in silence.
        let first = clock.now() + Duration::from_millis(5);
        let second = first + Duration::from_millis(20);
        side.sockets.arm_timer(first);
        side.sockets.arm_timer(second);
        side.until(is_timer);
        assert!(clock.now() >= second, "portable {portable_timer}");
        // What is past is due at once, also time itself.
        side.sockets.arm_timer(Instant::ZERO);
        side.until(is_timer);
        // Taken back: nothing comes.
        side.sockets.arm_timer(clock.now() + Duration::from_millis(2));
        side.sockets.disarm_timer();
        side.poll(Duration::from_millis(10));
        side.sockets.arm_timer(Instant::NEVER);
        side.poll(Duration::from_millis(2));
        assert!(side.events.is_empty(), "portable {portable_timer}: {:?}", side.events);
        assert!(side.sockets.unattended_deadline().is_none());
        side.sockets.arm_timer(at + PATIENCE);
        assert_eq!(side.sockets.unattended_deadline().is_some(), portable_timer);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn nested_in_another_poll_nothing_is_overlooked() {
    use mio::unix::SourceFd;
    let (mut one, mine, mut two, theirs) = pipe();
    let mut outer = mio::Poll::new().unwrap();
    let fd = two.sockets.raw_fd();
    let interest = mio::Interest::READABLE;
    outer.registry().register(&mut SourceFd(&fd), mio::Token(0), interest).unwrap();
    let mut ready = mio::Events::with_capacity(8);
    let mut got = Vec::new();
    for round in 0..50u8 {
        if round % 3 == 2 {
            two.sockets.arm_timer(Clock::system().now() + Duration::from_micros(200));
        } else {
            one.sockets.write(mine, &mut vec![round]);
        }
        let mut heard = false;
        while !heard {
            outer.poll(&mut ready, Some(PATIENCE)).unwrap();
            assert!(!ready.is_empty(), "round {round} never woke the outer poll");
            two.poll(Duration::ZERO);
            for event in std::mem::take(&mut two.events) {
                match event {
                    Event::Readable(token) if token == theirs => {
                        two.drain(theirs, &mut got);
                        heard = true;
                    }
                    Event::Timer => heard = true,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert_eq!(got.len(), 34);
}
