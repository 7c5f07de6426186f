use std::time::Duration;

use node::session::{Delivery, Options};
use proto::frame::{CloseCode, Status};
use proto::link::LinkFrame;
use proto::{AccountId, KindId, SessionId};

use crate::harness::{ECHO, PUSH, World, avatar, session, worker};

/// Commands that each run gives.
const COMMANDS: u64 = 60;

/// One player gives numbered commands over a connection that is killed after `kill_at` deliveries
/// each time; the entity must see each command once and in order, the player each answer and each
/// push once and in order.
pub fn run(seed: u64, options: &Options, mut kill: impl FnMut(&mut World) -> bool) -> World {
    let mut world = World::new(seed, options);
    let player = world.client(7, 1);
    let gates = [1, 2];
    world.login(player, 1);
    let mut said = 0;
    let mut login_done = false;
    for _ in 0..100_000 {
        if kill(&mut world) {
            world.kill(player);
        }
        let client = &world.clients[player];
        login_done |= client.welcomed > 0;
        if client.at.is_none() {
            // A login whose connection broke before the welcome has no token to resume with.
            if !login_done {
                world.run();
                return world;
            }
            let gate = *world.random.pick(&gates).expect("there are gates");
            world.resume(player, gate);
        }
        if said < COMMANDS
            && world.random.chance(1, 3)
            && world.say(player, "avatar", true, ECHO, said).is_some()
        {
            said += 1;
        }
        if !world.step() && said == COMMANDS {
            break;
        }
    }
    check(&world, player, said);
    world.logout(player);
    world.run();
    world.assert_empty();
    world
}

fn check(world: &World, player: usize, said: u64) {
    let all: Vec<u64> = (0..said).collect();
    let owner = &world.servers[&worker(20)];
    let seen: Vec<u64> = owner.fake.log.iter().map(|(.., argument)| *argument).collect();
    assert_eq!(seen, all, "the entity sees each command once, in order");
    let client = &world.clients[player];
    assert_eq!(client.pushes, all, "the player sees each push once, in order");
    let answers: Vec<u64> = client.replies.iter().map(|(.., argument)| *argument).collect();
    assert_eq!(answers, all, "the player gets each answer once, in order");
    assert!(client.replies.iter().all(|(_, status, _)| *status == Status::Ok));
    assert!(client.closed.is_empty(), "nobody was thrown out: {:?}", client.closed);
}

#[test]
fn one_break_at_every_point_loses_and_doubles_nothing() {
    let whole = run(1, &Options::default(), |_| false);
    assert!(whole.steps > 300, "the run is long enough to mean something: {}", whole.steps);
    for at in 0..whole.steps {
        let mut done = false;
        run(1, &Options::default(), |world| {
            let now = !done && world.steps >= at;
            done |= now;
            now
        });
    }
}

#[test]
fn breaks_at_random_points_lose_and_double_nothing() {
    for seed in 0..300 {
        let every = 10 + seed % 90;
        let mut kills = 0;
        run(seed, &Options::default(), |world| {
            let now = kills < 40 && world.random.chance(1, every);
            kills += u32::from(now);
            now
        });
    }
}

#[test]
fn one_seed_gives_one_history() {
    let history = |seed| {
        let mut kills = 0;
        let world = run(seed, &Options::default(), |world| {
            let now = kills < 20 && world.random.chance(1, 40);
            kills += u32::from(now);
            now
        });
        (world.steps, world.clients[0].replies.clone(), world.clients[0].generation)
    };
    for seed in 1000..1010 {
        assert_eq!(history(seed), history(seed));
    }
}

/// What may go wrong and what players may do, all at once.
struct Chaos {
    world: World,
    players: Vec<usize>,
    /// The number in the next command of each player.
    said: Vec<u64>,
    /// Sessions used so far: each login has a ticket of its own.
    sessions: u8,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let options = Options { held_frames_max: 40, ..Options::default() };
        let mut world = World::new(seed, &options);
        let players: Vec<usize> = (1..=4).map(|n| world.client(n, n as u8)).collect();
        let said = vec![0; players.len()];
        Chaos { world, players, said, sessions: 4 }
    }

    fn login(&mut self, player: usize, gate: u64) {
        self.sessions += 1;
        let account = self.world.clients[player].account;
        let before = std::mem::take(&mut self.world.clients[player]);
        let client = &mut self.world.clients[player];
        client.account = account;
        client.session = session(self.sessions);
        // What the entity pushed in order stays in order over sessions too.
        client.pushes = before.pushes;
        self.world.login(player, gate);
    }

    fn act(&mut self) {
        let at = self.world.random.index(self.players.len());
        let player = self.players[at];
        let gate = 1 + self.world.random.below(2);
        let (connected, lost) = {
            let client = &self.world.clients[player];
            let lost = client.closed.iter().any(|code| !code.may_resume());
            (client.at.is_some(), lost || client.welcomed == 0)
        };
        match self.world.random.below(40) {
            0..=25 => {
                self.said[at] += 1;
                let said = self.said[at];
                self.world.say(player, "avatar", true, ECHO, said);
            }
            26..=29 if connected => self.world.kill(player),
            30 if connected => self.world.logout(player),
            31 => {
                let account = AccountId(self.world.clients[player].account);
                let (code, reason) = (CloseCode::Kicked, "chaos");
                let session = SessionId::default();
                let kick = LinkFrame::Kick { account, session, code, reason };
                self.world.send(worker(20), worker(10), &kick);
            }
            32 => self.world.break_link(worker(gate), worker(20)),
            33 => self.world.break_link(worker(gate), worker(10)),
            34 => self.world.break_link(worker(10), worker(20)),
            35 => self.join(player),
            36 if self.sessions < 250 => self.login(player, gate),
            37 => self.world.pass(Duration::from_millis(150)),
            38 if connected => self.world.shift(player, gate),
            _ if connected => {}
            _ if lost && self.sessions < 250 => self.login(player, gate),
            _ if !lost => {
                self.world.resume(player, gate);
            }
            _ => {}
        }
        if self.world.random.chance(1, 8) {
            self.cast();
        }
    }

    fn join(&mut self, player: usize) {
        let account = self.world.clients[player].account;
        self.world.with(worker(20), |server, io| {
            let peer = server.streams.peers_of(avatar(account)).last().map(|peer| peer.slot);
            if let Some(peer) = peer {
                let kind = KindId::of("team");
                let group = server.streams.create_group(avatar(account), kind, "team").unwrap();
                server.streams.join(io.out, group, peer).unwrap();
                server.fake.groups.push(group);
            }
        });
    }

    fn cast(&mut self) {
        self.world.with(worker(20), |server, io| {
            if let Some(group) = server.fake.groups.last().copied() {
                let _ = server.streams.cast(io.out, group, (PUSH, Delivery::Reliable), &[0; 8]);
            }
        });
    }
}

/// Whatever breaks whenever, no command runs twice or out of order, nothing pushed arrives twice
/// or out of order (the harness checks casts and numbers), and when all players are gone and
/// their windows are over, nothing of them is left anywhere.
#[test]
fn chaos_keeps_order_and_leaves_nothing() {
    let mut handled = 0;
    for seed in 0..120 {
        let mut chaos = Chaos::new(seed);
        for player in chaos.players.clone() {
            chaos.login(player, 1);
        }
        for _ in 0..400 {
            chaos.act();
            for _ in 0..chaos.world.random.below(12) {
                chaos.world.step();
            }
        }
        let mut world = chaos.world;
        world.run();
        for player in chaos.players {
            world.logout(player);
            let pushes = &world.clients[player].pushes;
            assert!(pushes.is_sorted_by(|a, b| a < b), "seed {seed}: {pushes:?}");
        }
        world.run();
        world.drop_ghosts();
        world.run();
        world.pass(Duration::from_secs(61));
        for account in 1..=4 {
            let log = &world.servers[&worker(20)].fake.log;
            let seen: Vec<u64> =
                log.iter().filter(|(_, of, ..)| *of == account).map(|(.., n)| *n).collect();
            assert!(seen.is_sorted_by(|a, b| a < b), "seed {seed}: {seen:?}");
        }
        handled += world.servers[&worker(20)].fake.log.len();
        world.assert_empty();
    }
    assert!(handled > 120 * 40, "they do play: {handled} commands");
}
