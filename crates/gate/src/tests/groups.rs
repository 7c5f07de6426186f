use expect_test::{Expect, expect};

use super::*;

fn check(rig: &mut Rig, expected: Expect) {
    expected.assert_eq(&rig.trace());
}

impl Rig {
    pub(super) fn join(&mut self, conn: Slot, group: GroupId) {
        self.join_by(conn, 1, group);
    }

    /// Joins by a stream that is there.
    pub(super) fn join_by(&mut self, conn: Slot, stream: u32, group: GroupId) {
        self.home(&LinkFrame::Join {
            group,
            handle: group.handle(),
            conn,
            stream,
            kind: KIND,
            number: 3,
            name: "arena",
        });
    }

    pub(super) fn cast(&mut self, group: GroupId, number: u64, body: &[u8]) {
        let mut frame = Vec::new();
        DownFrame::Cast { group: 0, number, method: ADD, body }.encode(&mut frame);
        // Without head byte and handle.
        self.home(&LinkFrame::Cast { group, frame: &frame[2..] });
    }
}

#[test]
fn cast_reaches_every_member_once() {
    let mut rig = rig();
    let players: Vec<Player> = (0..3).map(|account| rig.login("10.0.0.1", account)).collect();
    for player in &players[..2] {
        rig.join(player.conn, group(1));
    }
    // Two streams that lead to one room join twice: told twice, copied once.
    rig.route(players[0].conn, 2, HOME);
    rig.join_by(players[0].conn, 2, group(1));
    rig.join(players[2].conn, group(2));
    rig.cast(group(1), 4, b"boom");
    check(
        &mut rig,
        expect![[r#"
            c0 Joined arena #3
            c1 Joined arena #3
            c0 Bound 2 avatar epoch 1
            c0 Joined arena #3
            c2 Joined arena #3
            c1 Cast #4 boom
            c0 Cast #4 boom
        "#]],
    );
    let stats = rig.gate.stats();
    assert_eq!((stats.groups, stats.members, stats.casts, stats.copies), (2, 3, 1, 2));
    for stream in [1, 2, 2] {
        rig.home(&LinkFrame::Leave { group: group(1), conn: players[0].conn, stream });
    }
    rig.cast(group(1), 5, b"bang");
    rig.home(&LinkFrame::Disband { group: group(1) });
    rig.cast(group(1), 6, b"nobody");
    check(
        &mut rig,
        expect![[r#"
        c0 Left
        c0 Left
        c1 Cast #5 bang
        c1 Left
    "#]],
    );
    assert_eq!((rig.gate.stats().groups, rig.gate.stats().members), (1, 1));
    assert_eq!(rig.hits(Rule::Stale), 1);
}

#[test]
fn places_stay_right_when_members_come_and_go() {
    let mut rig = rig_with(|options| options.logins_per_account = crate::Rate::UNLIMITED);
    let mut random = Random::from_seed(5);
    let mut players: Vec<Player> = (0..12).map(|account| rig.login("10.0.0.1", account)).collect();
    // Which of two streams of each player are in each group.
    let mut inside = vec![[[false; 2]; 4]; 12];
    for player in &players {
        rig.route(player.conn, 2, HOME);
    }
    for step in 0..2_000 {
        let at = random.index(players.len());
        let which = random.index(4);
        let by = random.index(2);
        let (conn, stream, id) = (players[at].conn, by as u32 + 1, group(which as u32));
        match random.below(10) {
            0..5 => {
                rig.join_by(conn, stream, id);
                inside[at][which][by] = true;
            }
            5..8 => {
                rig.home(&LinkFrame::Leave { group: id, conn, stream });
                inside[at][which][by] = false;
            }
            _ => {
                rig.gate.handle_closed(rig.now, conn);
                players[at] = rig.login("10.0.0.1", at as u64);
                rig.route(players[at].conn, 2, HOME);
                inside[at] = [[false; 2]; 4];
            }
        }
        rig.trace();
        let which = (step % 4) as usize;
        rig.cast(group(which as u32), 0, b"x");
        let mut got: Vec<String> = rig.trace().lines().map(String::from).collect();
        let mut expected: Vec<String> = players
            .iter()
            .zip(&inside)
            .filter(|(_, inside)| inside[which] != [false; 2])
            .map(|(player, _)| format!("c{} Cast #0 x", player.conn.index))
            .collect();
        got.sort();
        expected.sort();
        assert_eq!(got, expected, "step {step}");
    }
    for player in &players {
        rig.gate.handle_closed(rig.now, player.conn);
    }
    assert_eq!((rig.gate.stats().groups, rig.gate.stats().members), (0, 0));
}

/// The join of a room came after the room's stream had ended for the client, since the two came by
/// two ways; the client believed to be in a group of which it never heard again.
#[test]
fn memberships_end_with_their_stream_and_do_not_begin_after_it() {
    let mut rig = rig();
    let conn = rig.login("10.0.0.1", 7).conn;
    rig.route(conn, 2, HOME);
    rig.join_by(conn, 1, group(1));
    rig.join_by(conn, 2, group(1));
    rig.join_by(conn, 2, group(2));
    rig.home(&LinkFrame::Unroute { conn, stream: 2, code: CloseCode::Unavailable });
    rig.join_by(conn, 2, group(3));
    rig.join_by(conn, 9, group(4));
    for index in 1..=4 {
        rig.cast(group(index), 4, b"boom");
    }
    check(
        &mut rig,
        expect![[r#"
            c0 Bound 2 avatar epoch 1
            c0 Joined arena #3
            c0 Joined arena #3
            c0 Joined arena #3
            c0 Unbound { stream: 2, code: Unavailable }
            c0 Cast #4 boom
        "#]],
    );
    assert_eq!((rig.gate.stats().groups, rig.gate.stats().members), (1, 1));
    rig.gate.handle_closed(rig.now, conn);
    assert_eq!(rig.gate.stats().groups, 0);
}

/// An entity had moved away from a node before the link to it broke, and with that the word that its groups had
/// ended: its clients took themselves for members of groups that nobody had any more.
#[test]
fn group_of_a_lost_link_is_left_by_streams_that_have_moved_on() {
    let mut rig = rig();
    let player = rig.login("10.0.0.1", 7);
    let far = |index| GroupId { node: FAR, worker: 0, slot: Slot { index, generation: 1 } };
    rig.route(player.conn, 2, FAR_OWNER);
    rig.route(player.conn, 3, FAR_OWNER);
    rig.join_by(player.conn, 2, far(1));
    rig.join_by(player.conn, 3, far(2));
    rig.join(player.conn, group(1));
    rig.route(player.conn, 3, HOME);
    rig.trace();
    rig.gate.handle_peer_down(rig.now, FAR);
    rig.drain();
    check(
        &mut rig,
        expect![[r#"
        c0 Left
    "#]],
    );
    assert_eq!(rig.gate.stats().groups, 1);
}

#[test]
fn slow_member_is_given_up_and_the_others_get_their_copy() {
    let mut rig = rig();
    let players: Vec<Player> = (0..3).map(|account| rig.login("10.0.0.1", account)).collect();
    for player in &players {
        rig.join(player.conn, group(1));
    }
    rig.trace();
    // Nobody reads; the second also has a long queue already.
    rig.is_reading = false;
    for number in 1..=5 {
        rig.push(players[1].conn, number, 1, &[1; 50_000]);
    }
    rig.cast(group(1), 4, &[2; 20_000]);
    rig.is_reading = true;
    rig.drain();
    check(
        &mut rig,
        expect![[r#"
        -> Detached account 1 generation 1 SlowReader
        c1 Close SlowReader reads too slowly
        c2 Cast #4 20000 bytes
        c0 Cast #4 20000 bytes
    "#]],
    );
    assert_eq!((rig.hits(Rule::SlowReader), rig.gate.stats().members), (1, 2));
}
