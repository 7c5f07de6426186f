//! Gates that are replaced while players play: their connections go to the successor.

use super::*;

/// A player's own: hears numbers and says them back.
#[entity]
#[derive(Default)]
struct Teller {
    heard: u64,
    faults: u64,
}

/// Everybody's: casts numbers to all who came in.
#[entity]
#[derive(Default)]
struct Square {
    group: Option<Group<Ear>>,
    cast: u64,
}

#[client]
trait Ear {
    #[sync]
    fn said(n: u64);
    #[sync]
    fn cried(n: u64);
}

#[rpc]
impl Teller {
    #[tell(client)]
    fn say(&mut self, cx: &mut Cx<Self>, n: u64) {
        self.faults += u64::from(n != self.heard + 1);
        self.heard = n;
        if let Caller::Client(peer) = cx.caller() {
            cx.client::<Ear>(&peer).said(n);
        }
    }

    /// What was heard, and how often something else than what was due.
    #[request(client)]
    fn sum(&mut self) -> (u64, u64) {
        (self.heard, self.faults)
    }
}

#[rpc]
impl Square {
    #[request(client)]
    fn enter(&mut self, cx: &mut Cx<Self>) {
        if self.group.is_none() {
            self.group = Some(cx.group::<Ear>("square"));
            let often = Duration::from_millis(3);
            cx.every(often, often, Times::Forever).key("cry").cry();
        }
        if let (Some(group), Caller::Client(peer)) = (&self.group, cx.caller()) {
            group.join(cx, &peer);
        }
    }

    #[timer]
    fn cry(&mut self, cx: &mut Cx<Self>) {
        self.cast += 1;
        if let Some(group) = &self.group {
            let _ = cx.cast(group).cried(self.cast).ok();
        }
    }
}

pub fn app() -> App {
    App::new("echoes")
        .entity::<Teller>()
        .entity::<Square>()
        .agent::<Teller>("teller")
        .bind::<Square>("square", |_| 1)
}

/// A player that says one number after the other, and hears them and the casts.
struct Echoer {
    polled: Polled,
    begun: Instant,
    said: u64,
    heard: u64,
    cried: u64,
    /// What was not as it should be.
    faults: Vec<String>,
}

impl Echoer {
    fn enter(address: Address, account: u64) -> Echoer {
        let mut polled = player_of(address, account, None);
        let begun = Instant::now();
        while !polled.core().is_bound("teller") || !polled.core().is_bound("square") {
            polled.poll();
            rest();
            assert!(begun.elapsed() < PATIENCE, "no login");
        }
        polled
            .request_then("square", MethodId::of("enter"), &(), |_, _: Result<(), _>| {})
            .unwrap();
        Echoer { polled, begun, said: 0, heard: 0, cried: 0, faults: Vec::new() }
    }

    /// What its own entity has heard, and how often something else than what was due.
    fn sum(&mut self) -> Result<(u64, u64), String> {
        let (sender, answer) = std::sync::mpsc::channel();
        let then = move |_: &mut _, reply: Result<(u64, u64), _>| drop(sender.send(reply));
        let asked = self.polled.request_then("teller", MethodId::of("sum"), &(), then);
        asked.map_err(|error| format!("{error:?}"))?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            self.turn(false);
            if let Ok(reply) = answer.try_recv() {
                return reply.map_err(|error| format!("{error:?}"));
            }
            rest();
        }
        Err("no answer".to_owned())
    }

    /// Says more, unless much is unanswered, and takes what has come.
    fn turn(&mut self, says: bool) {
        // Within what a gate lets a client say.
        let due = self.begun.elapsed().as_millis() as u64 / 8;
        while says && self.said < due.min(self.heard + 8) {
            let next = self.said + 1;
            match self.polled.tell("teller", MethodId::of("say"), &(next,)) {
                Ok(_) => self.said = next,
                Err(error) => {
                    self.faults.push(format!("cannot say {next}: {error:?}"));
                    break;
                }
            }
        }
        while let Some(event) = self.polled.poll() {
            let number = |body: &[u8]| mainstay::proto::decode::<(u64,)>(body).unwrap().0;
            match &event {
                Event::Push { body, .. } if number(body) == self.heard + 1 => self.heard += 1,
                Event::Cast { body, .. } if self.cried == 0 || number(body) == self.cried + 1 => {
                    self.cried = number(body);
                }
                Event::Connected { resumed: false, .. }
                | Event::Bound { .. }
                | Event::Joined { missed: 0, .. } => {}
                other => self.faults.push(format!("{other:?} after {} {}", self.heard, self.cried)),
            }
        }
    }
}

/// Players on TCP and WebSocket who play all the time, on a few threads.
struct Crowd {
    stop: Arc<AtomicBool>,
    /// What each of them has heard.
    heard: Arc<Vec<AtomicU64>>,
    /// What was not as it should be.
    faults: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

const PLAYERS: usize = 20;

impl Crowd {
    fn enter(address: SocketAddr) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let heard: Arc<Vec<AtomicU64>> =
            Arc::new((0..PLAYERS).map(|_| AtomicU64::new(0)).collect());
        let faults: Arc<Mutex<Vec<String>>> = Arc::default();
        let threads = (0..4)
            .map(|lot| {
                let (stop, heard, faults) = (stop.clone(), heard.clone(), faults.clone());
                std::thread::spawn(move || Crowd::play(address, lot, &stop, (&heard, &faults)))
            })
            .collect();
        Crowd { stop, heard, faults, threads }
    }

    /// Plays until it is told to stop.
    fn play(
        address: SocketAddr,
        lot: usize,
        stop: &AtomicBool,
        (heard, faults): (&[AtomicU64], &Mutex<Vec<String>>),
    ) {
        let numbers = (0..PLAYERS).filter(|at| at % 4 == lot);
        let mut players: Vec<(usize, Echoer)> = numbers
            .map(|at| {
                let address = match at % 8 < 4 {
                    true => Address::websocket(address.to_string()),
                    false => Address::tcp(address.to_string()),
                };
                (at, Echoer::enter(address, at as u64 + 1))
            })
            .collect();
        let begun = Instant::now();
        loop {
            let goes_on = !stop.load(Ordering::SeqCst);
            for (at, player) in &mut players {
                player.turn(goes_on);
                let found = player.faults.drain(..).map(|fault| format!("player {at}: {fault}"));
                faults.lock().unwrap().extend(found);
                heard[*at].store(player.heard.min(player.cried), Ordering::SeqCst);
            }
            if !goes_on && players.iter().all(|(_, player)| player.heard == player.said) {
                break;
            }
            assert!(begun.elapsed() < 3 * PATIENCE, "it does not come to an end");
            rest();
        }
        for (_, mut player) in players {
            let sum = player.sum();
            if sum != Ok((player.said, 0)) {
                player.faults.push(format!("said {}, but {sum:?}", player.said));
            }
            faults.lock().unwrap().append(&mut player.faults);
        }
    }

    /// Waits until each has heard so much more, answers and casts.
    fn go_on(&self, up: &Up) {
        let now = |at: &AtomicU64| at.load(Ordering::SeqCst);
        let before: Vec<u64> = self.heard.iter().map(now).collect();
        up.until("playing", || {
            self.check();
            self.heard.iter().zip(&before).all(|(at, before)| now(at) > before + 20)
        });
    }

    fn check(&self) {
        let faults = self.faults.lock().unwrap();
        assert!(
            faults.is_empty(),
            "{} faults: {:#?}",
            faults.len(),
            &faults[..faults.len().min(9)]
        );
    }

    fn leave(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        self.check();
    }
}

/// The gate is replaced three times, and nobody loses the connection: no message is missing, doubled or out of
/// order, be it to an entity, from it, or to a group.
#[test]
fn c10_players_play_on_by_the_same_connections_while_their_gate_is_replaced() {
    let gate = r#""gate": {"roles": ["gate"], "gate_workers": 2,
        "listen": {"clients": "127.0.0.1:0", "mesh": 0}},"#;
    let nodes = r#""node": {"roles": ["node"], "workers": 2, "count": 2, "listen": {"mesh": 0}},"#;
    let up = Up::of("echoes", "handover", ("", &format!("{gate}{nodes}")), Duration::from_secs(3));
    let crowd = Crowd::enter(up.address("gate"));
    up.until("players", || crowd.heard.iter().all(|at| at.load(Ordering::SeqCst) > 20));
    for round in 1..=3 {
        let before = up.pid("gate");
        let done = up.replace(&one("gate"));
        assert_eq!(done.failed, None, "{done:?} {}", up.said());
        assert!(up.pid("gate") != before);
        crowd.go_on(&up);
        let said = up.said();
        let stopped =
            said.lines().filter(|line| line.contains("gate]") && line.contains("given=20"));
        assert_eq!(stopped.count(), round, "{said}");
    }
    crowd.leave();
}
