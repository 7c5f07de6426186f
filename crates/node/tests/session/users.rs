use node::session::Options;
use proto::AccountId;
use proto::frame::CloseCode;
use proto::link::{Act, LinkFrame, PushTo, Select, Selected, Whom};

use crate::harness::{PUSH, World, avatar, worker};

/// Accounts 1 to 6: the odd ones are logged in, 3 and 6 as `vip`, all of them as `player`.
fn world() -> (World, Vec<usize>) {
    let mut world = World::new(5, &Options::default());
    let players: Vec<usize> = (1..=6).map(|n| world.client(n, n as u8)).collect();
    for player in &players {
        world.login(*player, 1);
    }
    world.run();
    for account in 1..=6 {
        world.with(worker(20), |server, io| {
            let peer = server.streams.peers_of(avatar(account)).next().expect("it is bound").slot;
            let mut tags = vec!["player"];
            if account % 3 == 0 {
                tags.push("vip");
            }
            server.streams.tag(io.out, peer, account % 2 == 1, tags);
        });
    }
    world.run();
    (world, players)
}

fn select(
    world: &mut World,
    whom: Whom,
    tags: Vec<&'static str>,
    except: &[u64],
    act: Act<'static>,
) -> (u32, Vec<AccountId>) {
    let except = except.iter().copied().map(AccountId).collect();
    let frame = LinkFrame::Select(Select { ticket: 9, whom, tags, except, act });
    world.send(worker(21), worker(10), &frame);
    world.run();
    let Selected { ticket: 9, reached, unknown, .. } =
        world.server(21).fake.selected.pop().expect("an answer")
    else {
        panic!("the answer names another question");
    };
    (reached, unknown)
}

const NEWS: Act<'static> =
    Act::Push { method: PUSH, mode: PushTo::Reliable, body: &[7, 0, 0, 0, 0, 0, 0, 0] };

/// Who heard something since the last time.
fn heard(world: &mut World, players: &[usize]) -> Vec<u64> {
    let mut accounts = Vec::new();
    for player in players {
        let client = &mut world.clients[*player];
        for push in std::mem::take(&mut client.pushes) {
            assert_eq!(push, 7);
            accounts.push(client.account);
        }
    }
    accounts
}

#[test]
fn pushes_address_users_by_account_login_and_tags() {
    let (mut world, players) = world();
    let accounts = |list: &[u64]| Whom::Accounts(list.iter().copied().map(AccountId).collect());
    let rows: [(Whom, Vec<&str>, &[u64], &[u64]); 8] = [
        (accounts(&[4]), vec![], &[], &[4]),
        (accounts(&[4, 2, 4]), vec![], &[], &[2, 4]),
        (Whom::All, vec![], &[], &[1, 2, 3, 4, 5, 6]),
        (Whom::LoggedIn, vec![], &[], &[1, 3, 5]),
        (Whom::NotLoggedIn, vec![], &[], &[2, 4, 6]),
        (Whom::All, vec!["vip"], &[], &[3, 6]),
        (Whom::LoggedIn, vec!["vip", "player"], &[5], &[3]),
        (Whom::All, vec!["player"], &[1, 2, 3, 99], &[4, 5, 6]),
    ];
    for (whom, tags, except, expected) in rows {
        let (reached, unknown) = select(&mut world, whom, tags, except, NEWS);
        assert_eq!(heard(&mut world, &players), expected);
        assert_eq!((reached as usize, unknown.len()), (expected.len(), 0));
    }
}

#[test]
fn unknown_users_are_skipped_and_reported() {
    let (mut world, players) = world();
    let whom = Whom::Accounts([7, 3, 8].map(AccountId).into());
    let (reached, unknown) = select(&mut world, whom, vec![], &[], NEWS);
    assert_eq!(heard(&mut world, &players), [3]);
    assert_eq!((reached, unknown), (1, [7, 8].map(AccountId).into()));
}

#[test]
fn a_user_that_is_away_hears_what_is_reliable_when_it_is_back() {
    let (mut world, players) = world();
    world.kill(players[2]);
    world.run();
    select(&mut world, Whom::LoggedIn, vec!["vip"], &[], NEWS);
    world.resume(players[2], 2);
    world.run();
    assert_eq!(heard(&mut world, &players), [3]);
}

#[test]
fn a_filtered_set_of_users_is_closed_with_a_reason() {
    let (mut world, players) = world();
    let act = Act::Kick { code: CloseCode::Kicked, reason: "the event is over" };
    let (reached, _) = select(&mut world, Whom::All, vec!["vip"], &[6], act);
    assert_eq!(reached, 1);
    let closed: Vec<usize> =
        players.iter().map(|player| world.clients[*player].closed.len()).collect();
    assert_eq!(closed, [0, 0, 1, 0, 0, 0]);
    assert_eq!(world.clients[players[2]].closed, [CloseCode::Kicked]);
    let listed = world.server(10).homes.list(AccountId(6), 1);
    assert_eq!((listed[0].logged_in, listed[0].tags.len()), (false, 2));
}

#[test]
fn j11_who_is_online_is_told_in_pages_with_where_and_since_when() {
    let (mut world, players) = world();
    world.kill(players[1]);
    world.run();
    let look = |world: &mut World, whom, tags, first, max| {
        let act = Act::Look { first: AccountId(first), max };
        let frame = LinkFrame::Select(Select { ticket: 9, whom, tags, except: vec![], act });
        world.send(worker(21), worker(10), &frame);
        world.run();
        let told = world.server(21).fake.selected.pop().expect("an answer");
        let accounts: Vec<u64> = told.present.iter().map(|present| present.account.0).collect();
        (told, accounts)
    };
    let (told, accounts) = look(&mut world, Whom::All, vec![], 0, 4);
    assert_eq!((told.reached, accounts), (6, vec![1, 2, 3, 4]));
    let gates: Vec<_> = told.present.iter().map(|present| present.gate).collect();
    let gate = Some(worker(1));
    assert_eq!(gates, [gate, None, gate, gate], "the second waits for a resume");
    assert!(told.present.iter().all(|present| present.since_ms > 0));
    let logged_in: Vec<bool> = told.present.iter().map(|present| present.logged_in).collect();
    assert_eq!(logged_in, [true, false, true, false]);
    let (told, accounts) = look(&mut world, Whom::All, vec![], 5, 4);
    assert_eq!((told.reached, accounts), (6, vec![5, 6]));
    let (told, accounts) = look(&mut world, Whom::LoggedIn, vec!["vip"], 0, 4);
    assert_eq!((told.reached, accounts), (1, vec![3]));
    // Whoever does not come back is told of no more.
    world.pass(Options::default().resume_window);
    let (told, accounts) = look(&mut world, Whom::All, vec![], 0, 100);
    assert_eq!((told.reached, accounts), (5, vec![1, 3, 4, 5, 6]));
}
