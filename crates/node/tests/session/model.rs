use node::session::Options;
use proto::frame::Status;

use crate::harness::{ECHO, World, worker};

/// Commands that each run gives.
const COMMANDS: u64 = 60;

/// One player gives numbered commands over a connection that is killed after `kill_at` deliveries
/// each time; the entity must see each command once and in order, the player each answer and each
/// push once and in order.
fn run(seed: u64, options: &Options, mut kill: impl FnMut(&mut World) -> bool) -> World {
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
